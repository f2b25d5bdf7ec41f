"""Three estimates of the KL divergence to the reference policy."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from course_lib.grading.exercise import Answer, Exercise, WrongAnswer
from course_lib.grading.exercises.paged_attention.mistakes import Mistake
from course_lib.grading.exercises.policy_gradients.comparing import WRONG_VALUE, Comparison
from course_lib.grading.exercises.threads import one_thread
from course_lib.grading.judge import call

kl_estimate = Exercise("07.kl_estimate", "kl_estimate", "How far from home?", difficulty=2, importance=4, minutes=20)

_NAMES = ("k1", "k2", "k3")
_EXACT = {"k1": 1e-5, "k2": 0.3, "k3": 1e-5}
"""How far from the divergence an estimate's mean may be, as a part of it: k2 is biased."""


@dataclass(frozen=True)
class _Tokens:
    """Tokens that the policy drew: log(policy / reference) of each, in eighths of a nat, and an estimator."""

    above: tuple[int, ...]
    estimator: str

    @property
    def difference(self) -> Tensor:
        return torch.tensor(self.above) / 8

    def arguments(self) -> tuple[Any, ...]:
        logprobs = -1.0 - 0.25 * ((torch.arange(len(self.above)) * 3) % 7)
        return logprobs, logprobs - self.difference, self.estimator

    def places(self) -> tuple[list[str], list[list[str]]]:
        logprobs, reference, _ = self.arguments()
        return [">token", ">logprob", ">reference"], [
            [str(number), f"{mine:.3f}", f"{theirs:.3f}"]
            for number, (mine, theirs) in enumerate(zip(logprobs.tolist(), reference.tolist(), strict=True))
        ]

    def __str__(self) -> str:
        said = ", ".join(f"{number / 8:+g}" for number in self.above)
        return f"{self.estimator}, tokens with logprob - reference = {said}"


def _tokens(*estimators: str) -> st.SearchStrategy[_Tokens]:
    above = st.lists(st.integers(-16, 16), min_size=1, max_size=4).map(tuple)
    return st.builds(_Tokens, above, st.sampled_from(estimators))


@kl_estimate.part(3, "k1 and k2 of each token: the logarithm of the ratio, and half its square")
@one_thread()
def _first_two(answer: Answer) -> None:
    _ESTIMATE.for_all(answer, 50, _tokens("k1", "k2"))


@kl_estimate.part(4, "k3 is never negative, and its mean over the policy's own tokens is the divergence")
@one_thread()
def _third(answer: Answer) -> None:
    _ESTIMATE.for_all(answer, 50, _tokens("k3"))
    for estimator in _NAMES:
        _mean(answer, estimator)


@kl_estimate.part(3, "policies that hardly differ, as after a first step: right to three digits, in float32")
@one_thread()
def _small(answer: Answer) -> None:
    for estimator in _NAMES:
        for change in (3e-2, 1e-3, -1e-3, 1e-4, -1e-4):
            _near(answer, estimator, change)


def _mean(answer: Answer, estimator: str) -> None:
    """Take the mean over a whole vocabulary, each token as often as the policy draws it: no chance is left."""
    chance = torch.Generator().manual_seed(4)
    policy, reference = (torch.randn(12, generator=chance).log_softmax(0) * 1.0 for _ in range(2))
    reference = (0.7 * policy + 0.3 * reference).log_softmax(0)
    divergence = float((policy.exp() * (policy - reference)).sum())
    mean = float((policy.exp() * call(answer, policy, reference, estimator)).sum())
    if abs(mean - divergence) > _EXACT[estimator] * divergence + 1e-6:
        with _ESTIMATE.named(answer):
            said = f"{estimator} over all tokens, each as often as the policy draws it, has mean {mean:.5f}"
            raise WrongAnswer(WRONG_VALUE, f"{said}, and KL(policy || reference) is {divergence:.5f}")


def _near(answer: Answer, estimator: str, change: float) -> None:
    logprobs = torch.tensor([-0.5, -2.0, -7.0])
    reference = logprobs - torch.tensor([change, -change, change])
    right = _right(logprobs.double(), reference.double(), estimator)
    got = call(answer, logprobs, reference, estimator)
    if not isinstance(got, Tensor) or got.shape != right.shape:
        raise WrongAnswer("no-tensor", f"a tensor of shape {list(right.shape)} was expected, and {got!r} came")
    if torch.allclose(got.double(), right, rtol=1e-3, atol=0):
        return
    with _ESTIMATE.named(answer):
        shown = [f"{number:.2e}" for number in got.tolist()], [f"{number:.2e}" for number in right.tolist()]
        said = f"{estimator} of differences of {change:g}: {', '.join(shown[0])}; expected {', '.join(shown[1])}"
        if estimator != "k3" or not torch.allclose(got.double(), right, rtol=0, atol=1e-6):
            raise WrongAnswer(WRONG_VALUE, said)
        why = "exp of a small number is 1 and a little; as float32 it keeps seven digits, and the 1 takes most of them"
        raise WrongAnswer("rounds-away", f"{said}; {why}")


def _right(logprobs: Tensor, reference: Tensor, estimator: str) -> Tensor:
    """Schulman, "Approximating KL divergence" (2020), token by token, with r = reference probability over policy's."""
    estimates = []
    for mine, theirs in zip(logprobs, reference, strict=True):
        log_r = theirs - mine
        estimates.append({"k1": -log_r, "k2": log_r**2 / 2, "k3": torch.expm1(log_r) - log_r}[estimator])
    return torch.stack(estimates)


Formula = Callable[[Tensor], Tensor]
"""From log r = reference - logprob."""
_FORMULAS: dict[str, Formula] = {"k1": lambda d: -d, "k2": lambda d: d**2 / 2, "k3": lambda d: d.expm1() - d}


def _with(formulas: Mapping[str, Formula]) -> Callable[..., Tensor]:
    return lambda logprobs, reference, estimator: {**_FORMULAS, **formulas}[estimator](reference - logprobs)


def _reversed(formula: Formula) -> Formula:
    return lambda d: formula(-d)


_K3 = _FORMULAS["k3"]
_ESTIMATE = Comparison(
    _right,
    [
        Mistake(
            "everything-reversed",
            "policy and reference were exchanged: r is the reference's probability over the policy's",
            _with({name: _reversed(formula) for name, formula in _FORMULAS.items()}),
        ),
        Mistake(
            "k3-reversed",
            "its r is upside down: over the policy's own tokens its mean is another number then, and rare tokens explode",
            _with({"k3": lambda d: _K3(-d)}),
        ),
        Mistake("k1-sign", "k1 has the wrong sign: its mean is minus the divergence", _with({"k1": lambda d: d})),
        Mistake(
            "k1-absolute",
            "k1 may be negative for a token; without its sign its mean is no divergence any more",
            _with({"k1": lambda d: d.abs()}),
        ),
        Mistake("k2-without-half", "k2 is twice as large as it should be", _with({"k2": lambda d: d**2})),
        Mistake("k2-not-squared", "k2 was halved and not squared", _with({"k2": lambda d: -d / 2})),
        Mistake(
            "k2-of-the-ratio",
            "r - 1 was squared, and its logarithm is asked for",
            _with({"k2": lambda d: d.expm1() ** 2 / 2}),
        ),
        Mistake(
            "k3-without-log",
            "log r was not subtracted: r - 1 has mean 0 over the policy's own tokens",
            _with({"k3": torch.expm1}),
        ),
        Mistake(
            "k3-without-one",
            "the 1 was not subtracted: k3 of two equal policies is 0",
            _with({"k3": lambda d: d.exp() - d}),
        ),
        Mistake(
            "k3-log-added",
            "log r was added; with the minus it takes the chance out of r - 1",
            _with({"k3": lambda d: d.expm1() + d}),
        ),
        Mistake(
            "k3-of-the-difference",
            "the exponential is missing, and what is left is -1: r is a ratio of probabilities",
            _with({"k3": lambda d: d - 1 - d}),
        ),
        Mistake("always-k1", "k1 came, whatever `estimator` says", _with(dict.fromkeys(_NAMES, _FORMULAS["k1"]))),
        Mistake("always-k3", "k3 came, whatever `estimator` says", _with(dict.fromkeys(_NAMES, _K3))),
        Mistake(
            "weighs-by-probability",
            "each token was multiplied by its probability; it was drawn with it, so that this is in the mean already",
            lambda logprobs, reference, estimator: logprobs.exp() * _right(logprobs, reference, estimator),
        ),
    ],
    [_Tokens((3, -5, 0, 9), name) for name in _NAMES],
    "take one token, and do it by hand: what is log r, and what is r?",
)
