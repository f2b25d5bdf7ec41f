"""The loss of each token, as the loop asks for it: clipped, and weighed for the mismatch of trainer and sampler."""

import math
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, Literal

import torch
from hypothesis import strategies as st
from torch import Tensor

from course_lib.grading.exercise import Answer, Exercise, WrongAnswer
from course_lib.grading.exercises.paged_attention.mistakes import Mistake
from course_lib.grading.exercises.policy_gradients.comparing import Comparison
from course_lib.grading.exercises.threads import one_thread
from course_lib.grading.exercises.training.naming import several

my_loss = Exercise("08.loss", "my_loss", "The loss of your run", difficulty=4, importance=5, minutes=30)

_TENTH = 0.1


@dataclass(frozen=True)
class ResponseTokens:
    """`course_lib.rl.ResponseTokens`, whose import would bring DeepSpeed into a check; a test holds one to the other."""

    logprobs: Tensor
    old_logprobs: Tensor
    sampler_logprobs: Tensor
    advantages: Tensor
    samples: Tensor
    reference_logprobs: Tensor | None = None


@dataclass(frozen=True)
class LossConfig:
    """`course_lib.rl.LossConfig`, for the same reason."""

    ratio: Literal["token", "sequence"] = "token"
    clip_low: float = 0.2
    clip_high: float = 0.2
    average: Literal["token", "sequence", "constant"] = "token"
    truncate_at: float = 2.0
    mask_above: float = 0.0
    kl_coefficient: float = 0.0
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"


@dataclass(frozen=True)
class Token:
    """A token of a response: by how many tenths trainer and policy have moved.

    Attributes:
        moved: the logprob under the weights being trained minus the one before.
        apart: the trainer's old logprob minus the sampler's.
    """

    moved: int
    apart: int


@dataclass(frozen=True)
class Tokens:
    """Responses with an advantage each, one after another, and what the loss is told."""

    responses: tuple[tuple[float, tuple[Token, ...]], ...]
    low: float = 0.2
    high: float = 0.28
    truncate_at: float = 0.0

    def arguments(self) -> tuple[Any, ...]:
        """Return logprobs, old logprobs, the sampler's, advantages, samples and the config."""
        tokens = [token for _, response in self.responses for token in response]
        old = -1.0 - _TENTH * (torch.arange(len(tokens)) % 7)
        moved = _TENTH * torch.tensor([token.moved for token in tokens])
        apart = _TENTH * torch.tensor([token.apart for token in tokens])
        worth = torch.tensor([advantage for advantage, response in self.responses for _ in response])
        samples = torch.tensor([3 * place for place, (_, response) in enumerate(self.responses) for _ in response])
        config = LossConfig(clip_low=self.low, clip_high=self.high, truncate_at=self.truncate_at)
        return old + moved, old, old - apart, worth, samples, config

    def places(self) -> tuple[list[str], list[list[str]]]:
        """Return a table's columns, and a row for each token."""
        return [">sample", ">advantage", ">new / old", ">old / sampler"], [
            [str(3 * place), f"{worth:+g}", f"{math.exp(token.moved / 10):.3f}", f"{math.exp(token.apart / 10):.3f}"]
            for place, (worth, response) in enumerate(self.responses)
            for token in response
        ]

    def __str__(self) -> str:
        tokens = several(sum(len(response) for _, response in self.responses), "token")
        off = "" if self.truncate_at else " (off)"
        clip = f"clip_low={self.low:g}, clip_high={self.high:g}, truncate_at={self.truncate_at:g}{off}"
        return f"{tokens} of {several(len(self.responses), 'sample')}, {clip}"


def _responses(apart: st.SearchStrategy[int], most: int = 3) -> st.SearchStrategy[Any]:
    token = st.builds(Token, st.integers(-6, 6), apart)
    response = st.tuples(st.sampled_from([1.0, -1.0, 0.5, -2.0]), st.lists(token, min_size=1, max_size=4).map(tuple))
    return st.lists(response, min_size=1, max_size=most).map(tuple)


_NOT_APART = st.just(0)


@my_loss.part(4, "trainer and sampler agree: PPO's clipped loss of each token, and its gradient")
@one_thread()
def _clipped(answer: Answer) -> None:
    _LOSS.for_all(_unpacked(answer), 80, _responses(_NOT_APART).map(Tokens))


@my_loss.part(4, "they disagree: each token is weighed by old over sampler, up to truncate_at; 0 turns the weights off")
@one_thread()
def _weighed(answer: Answer) -> None:
    cases = st.tuples(_responses(st.integers(-12, 12)), st.sampled_from([2.0, 1.5, 0.0]))
    _LOSS.for_all(_unpacked(answer), 80, cases.map(lambda drawn: Tokens(drawn[0], truncate_at=drawn[1])))


@my_loss.part(2, "the clip range is config's, and either side can be off")
@one_thread()
def _sides(answer: Answer) -> None:
    sides = [(0.1, 0.5), (0.3, 0.1), (1.0, 0.25), (0.25, math.inf)]
    cases = st.tuples(_responses(_NOT_APART, 2), st.sampled_from(sides))
    _LOSS.for_all(_unpacked(answer), 60, cases.map(lambda drawn: Tokens(drawn[0], *drawn[1])))


def _unpacked(answer: Answer) -> Answer:
    """Return the answer as a function of tensors, one of which gets the gradient."""

    @wraps(answer)
    def loss(*tensors: Any) -> Any:
        *of_tokens, config = tensors
        found = answer(ResponseTokens(*of_tokens), config)
        found = getattr(found, "loss", found)  # the loop takes a TokenLoss, too
        if isinstance(found, Tensor) and found.dim() == 0:
            count = several(len(of_tokens[0]), "token")
            why = "one number came: a mean over a micro-batch weighs its tokens by how the batch happened to be cut"
            raise WrongAnswer("one-number", f"{count} were given, the loss of each was expected, and {why}")
        return found

    return loss


def right(new: Tensor, old: Tensor, sampler: Tensor, worth: Tensor, samples: Tensor, config: Any) -> Tensor:
    """Return Schulman et al. (arXiv 1707.06347), equation 7, weighed as by Yao et al. (2025), one token after another."""
    losses = []
    for place in range(len(samples)):
        ratio = torch.exp(new[place] - old[place])
        low, high = 1 - config.clip_low, 1 + config.clip_high
        inside = ratio if bool((low <= ratio) & (ratio <= high)) else ratio.detach().clamp(low, high)
        plain, limited = ratio * worth[place], inside * worth[place]
        weight = math.exp(float(old[place] - sampler[place]))
        weight = min(weight, config.truncate_at) if config.truncate_at else 1.0
        losses.append(-weight * (limited if bool(limited < plain) else plain))
    return torch.stack(losses)


@dataclass(frozen=True)
class _Sketch:
    """A loss that is right as it is here; each other value is a mistake that people make."""

    old: str = "trainer"
    choice: str = "min"
    sign: int = -1
    weight: str = "right"
    sides: str = "right"
    average: str = "none"

    def __call__(
        self, new: Tensor, old: Tensor, sampler: Tensor, worth: Tensor, samples: Tensor, config: Any
    ) -> Tensor:
        before = {"trainer": old, "sampler": sampler, "itself": new.detach()}[self.old]
        ratio = torch.exp(new - before)
        low, high = config.clip_low, config.clip_high
        low, high = {"right": (low, high), "swapped": (high, low), "fixed": (0.2, 0.28), "low": (low, low)}[self.sides]
        plain, limited = ratio * worth, ratio.clamp(1 - low, 1 + high) * worth
        gain = {
            "min": torch.minimum(plain, limited),
            "max": torch.maximum(plain, limited),
            "clipped": limited,
            "plain": plain,
        }[self.choice]
        apart = {"upside-down": sampler - old, "new": new - sampler}.get(self.weight, old - sampler).exp()
        cut = apart.clamp(max=config.truncate_at) if self.weight != "never-cut" else apart
        on = config.truncate_at > 0 or self.weight == "always"
        loss = self.sign * gain * (cut if on and self.weight != "none" else 1.0)
        if self.average == "none":
            return loss
        count = torch.stack([(samples == sample).sum() for sample in samples])
        if self.average == "divided":
            return loss / count
        if self.average == "batch":
            return loss / len(samples)
        return torch.stack([loss[samples == sample].mean() for sample in samples])


_RIGHT = _Sketch()
_SIDE = (
    "of the two gains the larger one was taken: good news may run away, and a step in the wrong direction is forgiven"
)
_LOSS = Comparison(
    right,
    [
        Mistake("wrong-clip-side", _SIDE, replace(_RIGHT, choice="max")),
        Mistake(
            "wrong-sign", "this is the gain: the optimizer goes downhill, and would unlearn", replace(_RIGHT, sign=1)
        ),
        Mistake(
            "wrong-sign", "the sign was turned before the smaller one was taken", replace(_RIGHT, choice="max", sign=1)
        ),
        Mistake(
            "always-clipped",
            "the clipped ratio stands alone: a token that moved to the wrong side has no gradient to return by",
            replace(_RIGHT, choice="clipped"),
        ),
        Mistake("never-clipped", "nothing was clipped", replace(_RIGHT, choice="plain")),
        Mistake(
            "sequence-mean",
            "each token's loss was divided by its response's length; the loop averages, by the algorithm's own rule",
            replace(_RIGHT, average="divided"),
        ),
        Mistake(
            "sequence-mean",
            "all tokens of a response have the mean of their losses; the loss of each token alone is asked for",
            replace(_RIGHT, average="mean"),
        ),
        Mistake(
            "averages-twice",
            "the losses were divided by the number of tokens; the loop averages, over micro-batches of any size",
            replace(_RIGHT, average="batch"),
        ),
        Mistake("no-weights", "trainer and sampler disagree, and nothing was weighed", replace(_RIGHT, weight="none")),
        Mistake("never-truncated", "a weight was above truncate_at", replace(_RIGHT, weight="never-cut")),
        Mistake("weights-upside-down", "the weight is old over sampler", replace(_RIGHT, weight="upside-down")),
        Mistake(
            "weights-with-gradient",
            "the weight compares old logprobs with the sampler's; with the new ones it moves with the policy",
            replace(_RIGHT, weight="new"),
        ),
        Mistake("off-is-zero", "truncate_at=0 turns the weights off: each is 1", replace(_RIGHT, weight="always")),
        Mistake(
            "sampler-for-old",
            "the ratio compares new logprobs with the sampler's; what differs there by rounding would be clipped, too",
            replace(_RIGHT, old="sampler"),
        ),
        Mistake(
            "sampler-for-old",
            "the ratio compares new logprobs with the sampler's, and has the mismatch in it",
            replace(_RIGHT, old="sampler", weight="none"),
        ),
        Mistake("ratio-always-1", "the ratio is 1 whatever the old logprobs say", replace(_RIGHT, old="itself")),
        Mistake("sides-swapped", "clip_low and clip_high were exchanged", replace(_RIGHT, sides="swapped")),
        Mistake("one-side-for-both", "clip_low was used above, too", replace(_RIGHT, sides="low")),
        Mistake("fixed-range", "the range is config's, and not always the same", replace(_RIGHT, sides="fixed")),
    ],
    [
        Tokens(
            ((1.0, (Token(4, 9), Token(-4, -3), Token(1, 0))), (-2.0, (Token(-5, 2), Token(3, -8)))), truncate_at=2.0
        ),
        Tokens(((-1.0, (Token(3, 0), Token(-2, 10))), (0.5, (Token(-3, 0), Token(3, 8), Token(-6, 0)))), 0.3, 0.1, 1.5),
        Tokens(((-0.5, (Token(-6, 4), Token(6, -4), Token(2, 1))), (2.0, (Token(5, 3), Token(-5, 0)))), 0.1, 0.5),
    ],
    "take one token with a ratio of 1.5, and do it by hand: once with advantage 1, once with -1",
    leaf=0,
)
