"""Generalized advantage estimation: blame and praise that reach back through time."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from course_lib.grading.exercise import Answer, Exercise
from course_lib.grading.exercises.paged_attention.mistakes import Mistake
from course_lib.grading.exercises.policy_gradients.comparing import Comparison
from course_lib.grading.exercises.threads import one_thread

gae = Exercise("07.gae", "generalized_advantages", "Which token was it?", difficulty=4, importance=3, minutes=30)


@dataclass(frozen=True)
class _Response:
    """The values that a critic gave before each token, in quarters, and the reward at the end."""

    values: tuple[int, ...]
    reward: float


@dataclass(frozen=True)
class _Batch:
    """Responses, a row each, padded at the end; the critic gives values in the padding, too."""

    responses: tuple[_Response, ...]
    gamma: float = 1.0
    lam: float = 0.95

    @property
    def mask(self) -> Tensor:
        lengths = torch.tensor([len(one.values) for one in self.responses])
        return torch.arange(int(lengths.max())) < lengths[:, None]

    @property
    def values(self) -> Tensor:
        values = 2.5 + 0.25 * (torch.arange(self.mask.numel()) % 5).view(self.mask.shape)
        for row, one in enumerate(self.responses):
            values[row, : len(one.values)] = torch.tensor(one.values) / 4
        return values

    def arguments(self) -> tuple[Any, ...]:
        rewards = torch.tensor([one.reward for one in self.responses])
        return rewards, self.values, self.mask, self.gamma, self.lam

    def places(self) -> tuple[list[str], list[list[str]]]:
        mask, values = self.mask, self.values
        return [">sample", ">token", ">value", ">reward"], [
            [
                str(row),
                str(place) if mask[row, place] else "padding",
                f"{float(values[row, place]):.2f}",
                f"{one.reward:g}" if place == len(one.values) - 1 else "",
            ]
            for row, one in enumerate(self.responses)
            for place in range(mask.shape[1])
        ]

    def __str__(self) -> str:
        lengths = ", ".join(str(len(one.values)) for one in self.responses)
        return f"responses of {lengths} tokens, gamma {self.gamma:g}, lam {self.lam:g}"


_RESPONSE = st.builds(
    _Response,
    st.lists(st.integers(-4, 8), min_size=1, max_size=5).map(tuple),
    st.sampled_from([1.0, 0.0, -0.5, 2.0]),
)
_ONE = _RESPONSE.map(lambda response: (response,))
_MANY = st.lists(_RESPONSE, min_size=2, max_size=4).map(tuple)


@gae.part(3, "with lam=0 each token is judged by the next value alone, with lam=1 by what came in the end")
@one_thread()
def _ends(answer: Answer) -> None:
    cases = st.builds(_Batch, _ONE, st.just(1.0), st.sampled_from([0.0, 1.0]))
    _GAE.for_all(answer, 50, cases)


@gae.part(4, "any gamma and lam: the sum of all later errors, each discounted by gamma · lam a token")
@one_thread()
def _between(answer: Answer) -> None:
    cases = st.builds(_Batch, _ONE, st.sampled_from([1.0, 0.9, 0.5]), st.sampled_from([0.95, 0.8, 0.25]))
    _GAE.for_all(answer, 60, cases)


@gae.part(3, "responses of different lengths: each has its reward at its own last token, and padding has no say")
@one_thread()
def _padded(answer: Answer) -> None:
    cases = st.builds(_Batch, _MANY, st.sampled_from([1.0, 0.9]), st.sampled_from([0.95, 0.5]))
    _GAE.for_all(answer, 60, cases)


def _right(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Tensor:
    """Schulman et al. (arXiv 1506.02438), equations 9 and 16, as a sum over all later tokens and with no recursion."""
    advantages = torch.zeros_like(values)
    for row in range(len(mask)):
        length = int(mask[row].sum())
        value = [*values[row, :length].tolist(), 0.0]  # the state after the last token is terminal
        reward = [0.0] * (length - 1) + [float(rewards[row])]
        errors = [reward[t] + gamma * value[t + 1] - value[t] for t in range(length)]
        for t in range(length):
            advantages[row, t] = sum((gamma * lam) ** (later - t) * errors[later] for later in range(t, length))
    return advantages


@dataclass(frozen=True)
class _Sketch:
    """Advantages that are right as they are here; each other value is a mistake that people make."""

    reward_at: str = "last"
    error_gamma: bool = True
    trace_gamma: bool = True
    trace_lam: bool = True
    minus_value: bool = True
    next_value: str = "masked"
    forward: bool = False
    trace_restarts: bool = True
    add_values: bool = False
    response_only: bool = True
    exchanged: bool = False

    def __call__(self, rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Tensor:
        rows, width = values.shape
        gamma, lam = (lam, gamma) if self.exchanged else (gamma, lam)
        last = mask.sum(1) - 1
        paid = torch.zeros_like(values)
        if self.reward_at == "every":
            paid = rewards[:, None] * mask
        elif self.reward_at == "column":
            paid[:, -1] = rewards
        else:
            paid[torch.arange(rows), last if self.reward_at == "last" else last * 0] = rewards
        following = torch.cat([values[:, 1:], torch.zeros(rows, 1)], 1)
        if self.next_value == "masked":
            following = following * torch.cat([mask[:, 1:], torch.zeros(rows, 1, dtype=torch.bool)], 1)
        elif self.next_value == "own":
            following = following.clone()
            following[torch.arange(rows), last] = values[torch.arange(rows), last]
        elif self.next_value == "none":
            following = torch.zeros_like(values)
        errors = paid + (gamma if self.error_gamma else 1.0) * following - values * self.minus_value
        errors = errors.where(mask, 0.0) if self.trace_restarts else errors
        decay = (gamma if self.trace_gamma else 1.0) * (lam if self.trace_lam else 1.0)
        advantages, trace = torch.zeros_like(values), torch.zeros(rows)
        for place in range(width) if self.forward else reversed(range(width)):
            trace = errors[:, place] + decay * trace
            advantages[:, place] = trace
        if self.add_values:
            advantages = advantages + values
        return advantages.where(mask, 0.0) if self.response_only else advantages


def _monte_carlo(rewards: Tensor, values: Tensor, mask: Tensor, _gamma: float, _lam: float) -> Tensor:
    return (rewards[:, None] - values).where(mask, 0.0)


_R = _Sketch()
_GAE = Comparison(
    _right,
    [
        Mistake(
            "forward-in-time",
            "the sum ran from the first token to the last: a token is praised for what came before it",
            replace(_R, forward=True),
        ),
        Mistake(
            "reward-at-every-token",
            "every token was paid the reward; a response is paid once, when it is complete",
            replace(_R, reward_at="every"),
        ),
        Mistake(
            "reward-in-the-last-column",
            "the reward stands in the last column, which is padding where a response is shorter",
            replace(_R, reward_at="column"),
        ),
        Mistake(
            "reward-in-the-last-column",
            "the reward stands in the last column, and padding was counted in",
            replace(_R, reward_at="column", trace_restarts=False, next_value="raw"),
        ),
        Mistake(
            "value-of-the-padding",
            "after the last token the value of the padding was taken: nothing comes after the end, and nothing is worth 0",
            replace(_R, next_value="raw"),
        ),
        Mistake(
            "padding-in-the-sum",
            "errors of the padding were added up on the way back: the sum starts at each response's own last token",
            replace(_R, next_value="raw", trace_restarts=False),
        ),
        Mistake(
            "padding-in-the-sum",
            "errors of the padding were added up on the way back: the sum starts at each response's own last token",
            replace(_R, trace_restarts=False),
        ),
        Mistake(
            "goes-on-after-the-end",
            "the last token's own value was taken for what comes after it, as if the response had been cut off there",
            replace(_R, next_value="own"),
        ),
        Mistake("no-value-subtracted", "the error lacks the value of its own state", replace(_R, minus_value=False)),
        Mistake("no-next-value", "the error lacks the value of the state that follows", replace(_R, next_value="none")),
        Mistake("forgets-lam", "the sum is discounted by gamma alone: that is lam=1", replace(_R, trace_lam=False)),
        Mistake("forgets-gamma", "gamma plays no part", replace(_R, error_gamma=False, trace_gamma=False)),
        Mistake(
            "forgets-gamma-in-the-error",
            "the next value was not discounted by gamma, and the sum was",
            replace(_R, error_gamma=False),
        ),
        Mistake(
            "forgets-gamma-in-the-sum",
            "the sum is discounted by lam alone, and each token further back is gamma away, too",
            replace(_R, trace_gamma=False),
        ),
        Mistake("gamma-and-lam-exchanged", "gamma and lam were exchanged", replace(_R, exchanged=True)),
        Mistake(
            "returns",
            "these are the returns, advantage plus value: what the critic learns, and not what the policy learns from",
            replace(_R, add_values=True),
        ),
        Mistake(
            "ignores-lam-and-gamma",
            "this is the reward minus the value: right for gamma and lam of 1 only",
            _monte_carlo,
        ),
        Mistake(
            "advantage-in-the-padding",
            "padding has an advantage, and nobody said it",
            replace(_R, trace_restarts=False, response_only=False),
        ),
        Mistake(
            "advantage-in-the-padding",
            "padding has an advantage, and nobody said it",
            replace(_R, next_value="raw", trace_restarts=False, response_only=False),
        ),
    ],
    [
        _Batch((_Response((1, 3, -2, 4), 1.0), _Response((2, 5), -0.5), _Response((0, 3, 1), 2.0)), 0.9, 0.5),
        _Batch((_Response((4,), 1.0), _Response((1, 2, 6, 3, 5), 0.5)), 0.75, 0.25),
    ],
    "write down the errors of a response of two tokens, and then their sums, from the last one back",
)
