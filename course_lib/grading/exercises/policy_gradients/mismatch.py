"""Weights for the mismatch of trainer and sampler: truncated importance sampling, and masked sequences."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from course_lib.grading.exercise import Answer, Exercise, WrongAnswer
from course_lib.grading.exercises.paged_attention.mistakes import Mistake
from course_lib.grading.exercises.policy_gradients.comparing import Comparison
from course_lib.grading.exercises.policy_gradients.rows import Row, Rows, rows
from course_lib.grading.exercises.threads import one_thread
from course_lib.grading.judge import call

mismatch_weights = Exercise(
    "07.mismatch_weights", "mismatch_weights", "Two engines, one policy", difficulty=3, importance=5, minutes=25
)

_OFF = 0.0


@dataclass(frozen=True)
class _Batch(Rows):
    """Rows whose changes are the trainer's logprobs minus the sampler's, and two thresholds."""

    truncate_at: float = 2.0
    mask_above: float = _OFF

    def arguments(self) -> tuple[Any, ...]:
        return self.old + self.change, self.old, self.mask, self.truncate_at, self.mask_above

    def places(self) -> tuple[list[str], list[list[str]]]:
        ratios = self.change.exp()
        return [">sample", ">place", "", ">trainer / sampler"], [
            [str(row), str(place), kind, f"{float(ratios[row, place]):.3f}"] for row, place, kind in self.kinds()
        ]

    def __str__(self) -> str:
        return f"{super().__str__()}, truncate_at={self.truncate_at:g}, mask_above={self.mask_above:g}"


_CHANGES = st.integers(-25, 25)


@mismatch_weights.part(4, "each response token weighs trainer / sampler, truncated above; prompt and padding weigh 0")
@one_thread()
def _truncated(answer: Answer) -> None:
    cases = st.tuples(rows(st.integers(0, 2), _CHANGES), st.sampled_from([2.0, 1.5]))
    _WEIGHTS.for_all(answer, 80, cases.map(lambda drawn: _Batch(drawn[0], drawn[1])))


@mismatch_weights.part(4, "a response whose mean mismatch is too large, on either side, weighs nothing at all")
@one_thread()
def _masked(answer: Answer) -> None:
    cases = st.tuples(rows(st.integers(0, 2), _CHANGES), st.sampled_from([1.25, 1.65]))
    _WEIGHTS.for_all(answer, 100, cases.map(lambda drawn: _Batch(drawn[0], 2.0, drawn[1])))


@mismatch_weights.part(2, "the weights are constants: no gradient flows through them")
@one_thread()
def _constant(answer: Answer) -> None:
    batch = _Batch((Row(1, (3, -4)), Row(0, (9, 1, 2))))
    trainer, *others = batch.arguments()
    got = call(answer, trainer.requires_grad_(), *others)
    if isinstance(got, Tensor) and got.requires_grad:
        said = "the trainer's logprobs carried a gradient, and so do the weights"
        why = "the policy could then lower its loss by moving away from the sampler, and not only by better answers"
        raise WrongAnswer("keeps-the-gradient", f"{said}: {why}")
    with _WEIGHTS.named(answer):
        _WEIGHTS.compare(answer, batch)


def _right(trainer: Tensor, sampler: Tensor, mask: Tensor, truncate_at: float, mask_above: float) -> Tensor:
    """Yao et al. (2025), "... off-policy RL training", token by token, and the sequence mask by the geometric mean."""
    weights = torch.zeros_like(trainer)
    for row in range(len(mask)):
        places = mask[row].nonzero()[:, 0].tolist()
        differences = [float(trainer[row, place] - sampler[row, place]) for place in places]
        mean = torch.tensor(sum(differences) / len(differences)).exp()
        if mask_above and not 1 / mask_above <= float(mean) <= mask_above:
            continue
        for place, difference in zip(places, differences, strict=True):
            weights[row, place] = min(float(torch.tensor(difference).exp()), truncate_at)
    return weights


@dataclass(frozen=True)
class _Sketch:
    """Weights that are right as they are here; each other value is a mistake that people make."""

    sign: int = 1
    cut: str = "above"
    masks: str = "both"
    mean: str = "geometric"
    response_only: bool = True
    whole_row: bool = False
    renormalised: bool = False

    def __call__(self, trainer: Tensor, sampler: Tensor, mask: Tensor, top: float, most: float) -> Tensor:
        difference = self.sign * (trainer - sampler)
        ratio, inside = difference.exp(), difference.where(mask, 0.0)
        lengths = mask.sum(1, keepdim=True)
        sequence = {
            "geometric": (inside.sum(1, keepdim=True) / lengths).exp(),
            "arithmetic": ratio.where(mask, 0.0).sum(1, keepdim=True) / lengths,
            "product": inside.sum(1, keepdim=True).exp(),
            "row": difference.mean(1, keepdim=True).exp(),
            "columns": inside.mean(1, keepdim=True).exp(),
            "token": ratio,
            "truncated": ratio.clamp(max=top).log().where(mask, 0.0).sum(1, keepdim=True).div(lengths).exp(),
            "batch": (inside.sum() / mask.sum()).exp().expand(len(mask), 1),
        }[self.mean]
        weights = {
            "above": ratio.clamp(max=top),
            "both": ratio.clamp(1 / top, top),
            "below": ratio.clamp(min=1 / top),
            "never": ratio,
            "drop": ratio.where(ratio <= top, 0.0),
            "logs": difference.clamp(max=top).exp(),
            "no-exp": difference.clamp(max=top),
            "sequence": sequence.expand_as(ratio).clamp(max=top),
        }[self.cut]
        if most:
            small, large = sequence < 1 / most, sequence > most
            out = {"both": small | large, "above": large, "below": small, "never": large & ~large,
                   "inverted": ~(small | large)}[self.masks]  # fmt: skip
            weights = weights.where(~out, 0.0)
        weights = weights.where(mask, 0.0) if self.response_only else weights
        if self.renormalised:
            weights = weights * mask.sum() / weights.sum()
        return weights


_R = _Sketch()
_WEIGHTS = Comparison(
    _right,
    [
        Mistake(
            "upside-down",
            "the weight is sampler over trainer. The tokens were drawn with the sampler's probabilities, and that one stands below",
            replace(_R, sign=-1),
        ),
        Mistake(
            "cut-on-both-sides",
            "small weights were raised to 1 / truncate_at: truncation bounds the variance, which large weights make",
            replace(_R, cut="both"),
        ),
        Mistake("cut-below", "small weights were raised, and large ones kept", replace(_R, cut="below")),
        Mistake("never-truncated", "large weights were not truncated", replace(_R, cut="never")),
        Mistake(
            "drops-instead",
            "tokens with a large weight were dropped, and not truncated: they weigh truncate_at",
            replace(_R, cut="drop"),
        ),
        Mistake(
            "cut-in-logarithms",
            "the difference of the logprobs was cut at truncate_at, and that is a bound for ratios",
            replace(_R, cut="logs"),
        ),
        Mistake("no-exponential", "a difference of logprobs is the weight's logarithm", replace(_R, cut="no-exp")),
        Mistake(
            "one-weight-a-sequence",
            "each token got its response's mean weight; its own is asked for",
            replace(_R, cut="sequence"),
        ),
        Mistake(
            "weighs-everything",
            "prompt and padding have a weight, and the policy said neither",
            replace(_R, response_only=False),
        ),
        Mistake(
            "renormalised",
            "the weights were scaled to a mean of 1: what truncation took away was given to the others",
            replace(_R, renormalised=True),
        ),
        Mistake("never-masked", "no response was left out", replace(_R, masks="never")),
        Mistake(
            "masked-above-only",
            "responses that the trainer finds much less likely than the sampler did were kept",
            replace(_R, masks="above"),
        ),
        Mistake(
            "masks-the-good-ones",
            "the responses that agree were left out, and the others kept",
            replace(_R, masks="inverted"),
        ),
        Mistake(
            "masks-tokens",
            "tokens were left out one by one, and mask_above is a bound for a response's mean",
            replace(_R, mean="token"),
        ),
        Mistake(
            "sum-for-mean",
            "the differences were added up, and not averaged: every long response is left out",
            replace(_R, mean="product"),
        ),
        Mistake(
            "arithmetic-mean",
            "the tokens' ratios were averaged; average their logarithms, so that one rare token does not decide",
            replace(_R, mean="arithmetic"),
        ),
        Mistake(
            "mean-of-the-row",
            "prompt and padding were averaged with the response",
            replace(_R, mean="row"),
        ),
        Mistake(
            "mean-of-the-row",
            "the number of columns was divided by, and not the response's length",
            replace(_R, mean="columns"),
        ),
        Mistake(
            "mean-after-truncation",
            "the truncated weights were averaged, and they hide how far the two engines are apart",
            replace(_R, mean="truncated"),
        ),
        Mistake("whole-batch-masked", "the batch's mean decided for all responses", replace(_R, mean="batch")),
    ],
    [
        _Batch((Row(1, (3, -9, 22)), Row(0, (-4, 17)), Row(0, (1, -2)))),
        _Batch(
            (Row(1, (3, -9, 8)), Row(0, (-5, -5, -2)), Row(0, (8, 9, 4)), Row(1, (2, 1, 3)), Row(1, (9, -8))), 2.0, 1.4
        ),
        _Batch((Row(0, (11, -6, 3)), Row(2, (-9, 2, -3)), Row(1, (-3,)), Row(1, (11, 11, -10))), 1.5, 1.25),
    ],
    "take one token and do it by hand: with which probability was it drawn, and which one does the gradient take it for?",
)
