"""GSPO's ratio: one number for a whole response."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from course_lib.grading.exercise import Answer, Exercise
from course_lib.grading.exercises.paged_attention.mistakes import Mistake
from course_lib.grading.exercises.policy_gradients.comparing import Comparison
from course_lib.grading.exercises.policy_gradients.rows import Row, Rows, rows
from course_lib.grading.exercises.threads import one_thread

sequence_ratio = Exercise(
    "07.sequence_ratio", "sequence_ratio", "One ratio for a whole answer", difficulty=3, importance=4, minutes=20
)


@dataclass(frozen=True)
class _Batch(Rows):
    """Rows, of which the advantages play no part."""

    def arguments(self) -> tuple[Any, ...]:
        return self.old + self.change, self.old, self.mask

    def places(self) -> tuple[list[str], list[list[str]]]:
        changes = [", ".join(f"{change / 10:+.1f}" for change in row.changes[:8]) for row in self.rows]
        more = [f", ... ({len(row.changes)} in all)" if len(row.changes) > 8 else "" for row in self.rows]
        return [">sample", "new logprob minus old one, response"], [
            [str(number), one + rest] for number, (one, rest) in enumerate(zip(changes, more, strict=True))
        ]


_CHANGES = st.integers(-6, 6)


@sequence_ratio.part(4, "one response: the geometric mean of its tokens' ratios, and its gradient")
@one_thread()
def _one(answer: Answer) -> None:
    _RATIO.for_all(answer, 60, rows(st.just(0), _CHANGES, most=1).map(_Batch))


@sequence_ratio.part(3, "responses of any length: their own tokens only, no prompt and no padding")
@one_thread()
def _many(answer: Answer) -> None:
    _RATIO.for_all(answer, 60, rows(st.integers(0, 2), _CHANGES).map(_Batch))


@sequence_ratio.part(3, "a response of 2,000 tokens: the ratio is as near to 1 as that of a short one")
@one_thread()
def _long(answer: Answer) -> None:
    with _RATIO.named(answer):
        for change in (-3, 1, 3):
            _RATIO.compare(answer, _Batch((Row(0, (change, 0) * 1000), Row(0, (2, -1)))))


def _right(logprobs: Tensor, old: Tensor, mask: Tensor) -> Tensor:
    """Zheng et al. (arXiv 2507.18071), equation 7, one sequence at a time."""
    ratios = []
    for row in range(len(mask)):
        places = mask[row].nonzero()[:, 0].tolist()
        total = (logprobs[row, places] - old[row, places]).sum()
        ratios.append(torch.exp(total / len(places)))
    return torch.stack(ratios)


Mean = Callable[[Tensor, Tensor], Tensor]
"""From changes `[rows, width]`, with 0 outside the responses, and the mask, one number a row."""


def _of(mean: Mean) -> Callable[..., Tensor]:
    return lambda new, old, mask: mean((new - old).where(mask, 0.0), mask)


def _length(mask: Tensor) -> Tensor:
    return mask.sum(1)


def _product_first(new: Tensor, old: Tensor, mask: Tensor) -> Tensor:
    return (new - old).exp().where(mask, 1.0).prod(1) ** (1 / mask.sum(1))


def _whole_row(new: Tensor, old: Tensor, _mask: Tensor) -> Tensor:
    return (new - old).mean(1).exp()


def _prompt_in_the_sum(new: Tensor, old: Tensor, mask: Tensor) -> Tensor:
    return ((new - old).sum(1) / mask.sum(1)).exp()


_RATIO = Comparison(
    _right,
    [
        Mistake(
            "not-normalised",
            "the changes were added up, and not divided by the response's length: of a long response this is 0 or infinite",
            _of(lambda change, _: change.sum(1).exp()),
        ),
        Mistake(
            "arithmetic-mean",
            "the tokens' ratios were averaged; average their logarithms: one token with a ratio of 20 then counts as ln 20",
            _of(lambda change, mask: change.exp().where(mask, 0.0).sum(1) / _length(mask)),
        ),
        Mistake(
            "divides-by-the-width",
            "the number of columns was divided by; a short response has fewer tokens than that",
            _of(lambda change, _: change.mean(1).exp()),
        ),
        Mistake(
            "divides-by-the-batch",
            "the changes were divided by the mean length of the batch; each response has its own",
            _of(lambda change, mask: (change.sum(1) / _length(mask).float().mean()).exp()),
        ),
        Mistake("whole-row", "the mean was taken over the whole row, prompt and padding with it", _whole_row),
        Mistake(
            "prompt-in-the-sum",
            "the changes of prompt and padding were added, too: the mask is in the length alone",
            _prompt_in_the_sum,
        ),
        Mistake(
            "one-ratio-for-all",
            "all responses were thrown together; each is to have a ratio of its own",
            _of(lambda change, mask: (change.sum() / mask.sum()).exp().expand(len(mask))),
        ),
        Mistake(
            "no-exponential",
            "this is the ratio's logarithm: around 0, where a ratio is around 1",
            _of(lambda change, mask: change.sum(1) / _length(mask)),
        ),
        Mistake(
            "ratio-upside-down",
            "the ratio is old over new",
            _of(lambda change, mask: (-change.sum(1) / _length(mask)).exp()),
        ),
        Mistake(
            "sum-of-ratios",
            "the tokens' ratios were added up",
            _of(lambda change, mask: change.exp().where(mask, 0.0).sum(1)),
        ),
        Mistake(
            "product-of-ratios-first",
            "the product of 2,000 ratios is 0 or infinite before the root can bring it back: stay with logarithms",
            _product_first,
        ),
        Mistake(
            "divides-logprobs",
            "the sums of the logprobs were divided; a ratio of probabilities is the exponential of a difference",
            lambda new, old, mask: new.where(mask, 0.0).sum(1) / old.where(mask, 0.0).sum(1),
        ),
    ],
    [
        _Batch((Row(1, (4, -3, 1)), Row(0, (-5, 3)))),
        _Batch((Row(0, (2, 5)), Row(2, (-4,)), Row(0, (1, 6, -2, 3, 5)))),
        _Batch((Row(0, (3, 0) * 1000), Row(1, (3, 5)))),
    ],
    "take a response of two tokens, and do it by hand: what is the mean of the logarithms of its ratios?",
    leaf=0,
)
