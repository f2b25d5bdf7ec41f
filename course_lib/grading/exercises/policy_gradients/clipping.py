"""PPO's clipped objective, token by token."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from course_lib.grading.exercise import Answer, Exercise
from course_lib.grading.exercises.paged_attention.mistakes import Mistake
from course_lib.grading.exercises.policy_gradients.comparing import Comparison
from course_lib.grading.exercises.policy_gradients.rows import Row, Rows, rows
from course_lib.grading.exercises.threads import one_thread

clipped_loss = Exercise(
    "07.clipped_loss", "clipped_loss", "So far, and no further", difficulty=3, importance=5, minutes=25
)

_LOW, _HIGH = 0.2, 0.28


@dataclass(frozen=True)
class _Batch(Rows):
    """Rows and a clip range."""

    low: float = _LOW
    high: float = _HIGH

    def arguments(self) -> tuple[Any, ...]:
        return self.old + self.change, self.old, self.advantages, self.mask, self.low, self.high

    def places(self) -> tuple[list[str], list[list[str]]]:
        ratios, worth = self.change.exp(), self.advantages.tolist()
        return [">sample", ">place", "", ">ratio", ">advantage"], [
            [str(row), str(place), kind, f"{float(ratios[row, place]):.3f}", f"{worth[row]:+g}"]
            for row, place, kind in self.kinds()
        ]

    def __str__(self) -> str:
        return f"{super().__str__()}, clip range {1 - self.low:g} to {1 + self.high:g}"


_CHANGES = st.integers(-6, 6)
_NO_PROMPT = st.just(0)


@clipped_loss.part(
    4, "one response: no gain from a ratio beyond the clip range, and no pardon for one on the wrong side"
)
@one_thread()
def _one(answer: Answer) -> None:
    _CLIPPED.for_all(answer, 80, rows(_NO_PROMPT, _CHANGES, most=1).map(_Batch))


@clipped_loss.part(3, "several samples: each token has the advantage of its own sample; prompt and padding have loss 0")
@one_thread()
def _many(answer: Answer) -> None:
    _CLIPPED.for_all(answer, 60, rows(st.integers(0, 2), _CHANGES).map(_Batch))


@clipped_loss.part(3, "the range's two sides are two numbers, as in DAPO's clip-higher, and either can be off")
@one_thread()
def _sides(answer: Answer) -> None:
    sides = [(0.1, 0.5), (0.3, 0.1), (1.0, 0.25), (0.25, 1e9)]
    cases = st.tuples(rows(_NO_PROMPT, _CHANGES, most=2), st.sampled_from(sides))
    _CLIPPED.for_all(answer, 60, cases.map(lambda drawn: _Batch(drawn[0], *drawn[1])))


def _right(logprobs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, low: float, high: float) -> Tensor:
    """Schulman et al. (arXiv 1707.06347), equation 7, one token at a time; two ranges as in DAPO (2503.14476), equation 10."""
    loss = [[logprobs.new_zeros(()) for _ in row] for row in logprobs]
    for sample, place in mask.nonzero().tolist():
        ratio = torch.exp(logprobs[sample, place] - old[sample, place])
        is_inside = bool((1 - low <= ratio) & (ratio <= 1 + high))
        inside = ratio if is_inside else ratio.detach().clamp(1 - low, 1 + high)
        plain, clipped = ratio * advantages[sample], inside * advantages[sample]
        loss[sample][place] = -(clipped if bool(clipped < plain) else plain)
    return torch.stack([torch.stack(row) for row in loss])


@dataclass(frozen=True)
class _Sketch:
    """A loss that is right as it is here; each other value is a mistake that people make."""

    ratio: str = "exp"
    choice: str = "min"
    sides: str = "right"
    sign: int = -1
    mask: bool = True
    by_place: bool = False

    def __call__(self, new: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, low: float, high: float) -> Tensor:
        ratio = {
            "exp": (new - old).exp(),
            "upside-down": (old - new).exp(),
            "no-exp": new - old,
            "quotient": new / old,
            "always-1": (new - new.detach()).exp(),
            "logprob": new,
        }[self.ratio]
        worth = advantages if self.by_place else advantages[:, None]
        down, up = {"right": (low, high), "swapped": (high, low), "low": (low, low), "high": (high, high)}.get(
            self.sides, (low, high)
        )
        in_logs = self.sides == "in-logs"
        clipped = ratio.log().clamp(-down, up).exp() if in_logs else ratio.clamp(1 - down, 1 + up)
        plain, limited = ratio * worth, clipped * worth
        gain = {
            "min": torch.minimum(plain, limited),
            "max": torch.maximum(plain, limited),
            "clipped": limited,
            "plain": plain,
            "ratio": torch.minimum(ratio, clipped) * worth,
        }[self.choice]
        loss = self.sign * gain
        return loss.where(mask, 0.0) if self.mask else loss


_RIGHT = _Sketch()
_CLIPPED = Comparison(
    _right,
    [
        Mistake(
            "wrong-clip-side",
            "of the two gains the larger one was taken: it lets good news run away, and forgives a step in the wrong direction",
            replace(_RIGHT, choice="max"),
        ),
        Mistake(
            "wrong-sign", "this is the gain; the optimizer goes downhill, and would unlearn", replace(_RIGHT, sign=1)
        ),
        Mistake(
            "wrong-sign",
            "the sign was turned before the smaller one was taken, and that is the larger gain, which is minimised besides",
            replace(_RIGHT, choice="max", sign=1),
        ),
        Mistake(
            "always-clipped",
            "the clipped ratio was used wherever it is outside: a token that moved to the wrong side has no gradient to return by",
            replace(_RIGHT, choice="clipped"),
        ),
        Mistake("never-clipped", "nothing was clipped", replace(_RIGHT, choice="plain")),
        Mistake(
            "smaller-ratio",
            "the smaller ratio was taken, and that is the smaller gain for positive advantages only",
            replace(_RIGHT, choice="ratio"),
        ),
        Mistake("sides-swapped", "clip_low and clip_high were exchanged", replace(_RIGHT, sides="swapped")),
        Mistake("one-side-for-both", "clip_low was used above, too", replace(_RIGHT, sides="low")),
        Mistake("one-side-for-both", "clip_high was used below, too", replace(_RIGHT, sides="high")),
        Mistake(
            "clips-the-logarithm",
            "the difference of the logprobs was clipped; the range is one of ratios",
            replace(_RIGHT, sides="in-logs"),
        ),
        Mistake("ratio-upside-down", "the ratio is old over new", replace(_RIGHT, ratio="upside-down")),
        Mistake(
            "no-exponential", "the difference of two logprobs is the ratio's logarithm", replace(_RIGHT, ratio="no-exp")
        ),
        Mistake(
            "divides-logprobs",
            "logprobs were divided; a ratio of probabilities is asked for",
            replace(_RIGHT, ratio="quotient"),
        ),
        Mistake(
            "ratio-always-1",
            "the ratio is 1 whatever the old logprobs say: right for a first step, and the clip sleeps for ever",
            replace(_RIGHT, ratio="always-1"),
        ),
        Mistake(
            "prompt-in-the-loss",
            "prompt and padding have a loss: the policy is blamed and praised for what it did not say",
            replace(_RIGHT, mask=False),
        ),
        Mistake(
            "advantage-not-broadcast",
            "the advantages lie along the tokens, and not along the samples: with as many tokens as samples nothing complains",
            replace(_RIGHT, by_place=True),
        ),
    ],
    [
        _Batch((Row(0, (4, -4, 1), 1.0), Row(1, (-5, 3), -2.0), Row(0, (2, 5), 0.5))),
        _Batch((Row(1, (3, -2), -1.0), Row(0, (-3, 3, -6), 0.5), Row(2, (6,), -1.0)), 0.3, 0.1),
        _Batch((Row(0, (-6, 6, 2), -0.5), Row(0, (5, -5), 2.0), Row(1, (-3, 4), 1.0))),
    ],
    "take one token with a ratio of 1.5, and do it by hand: once with advantage 1, once with -1",
    leaf=0,
)
