"""One number from all tokens' losses: three averages, and micro-batches that add up to each of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from course_lib.grading.exercise import Answer, Exercise
from course_lib.grading.exercises.paged_attention.mistakes import Mistake
from course_lib.grading.exercises.policy_gradients.comparing import Comparison
from course_lib.grading.exercises.threads import one_thread
from course_lib.grading.exercises.training.naming import several

loss_shares = Exercise(
    "07.loss_shares", "loss_shares", "What is one token worth?", difficulty=3, importance=5, minutes=25
)

_MAX_NEW_TOKENS = 8
_AVERAGES = ("token", "sequence", "constant")


@dataclass(frozen=True)
class _Batch:
    """Response lengths in micro-batches, and an average.

    Attributes:
        lengths: for each micro-batch, its samples' response tokens.
        average: `token`, `sequence` or `constant`.
    """

    lengths: tuple[tuple[int, ...], ...]
    average: str

    @property
    def mask(self) -> Tensor:
        flat = [length for one in self.lengths for length in one]
        return torch.arange(max(1, *flat)) < torch.tensor(flat)[:, None]

    def arguments(self) -> tuple[Any, ...]:
        mask = self.mask
        loss = 0.25 + 0.125 * ((torch.arange(mask.numel()) * 5) % 17).view(mask.shape)
        cuts = [len(one) for one in self.lengths]
        return torch.where(mask, loss, 3.0), mask, cuts, self.average, _MAX_NEW_TOKENS

    def places(self) -> tuple[list[str], list[list[str]]]:
        return [">micro-batch", "its responses' tokens"], [
            [str(number), ", ".join(map(str, one))] for number, one in enumerate(self.lengths)
        ]

    def __str__(self) -> str:
        lengths = "; ".join(", ".join(map(str, one)) for one in self.lengths)
        return (
            f"average={self.average!r}, {several(len(self.lengths), 'micro-batch')} with responses of {lengths} tokens"
        )


def _batches(
    micro_batches: st.SearchStrategy[int], averages: Sequence[str], fewest: int = 1
) -> st.SearchStrategy[_Batch]:
    one = st.lists(st.integers(fewest, 5), min_size=1, max_size=3).map(tuple)
    lengths = micro_batches.flatmap(lambda count: st.tuples(*[one] * count)).filter(lambda drawn: any(map(any, drawn)))
    return st.builds(_Batch, lengths, st.sampled_from(list(averages)))


def _in_pieces(answer: Answer) -> Callable[..., Any]:
    """Return the answer as a function of the whole batch; each micro-batch is padded to its own longest response."""

    @wraps(answer, updated=())
    def whole(loss: Tensor, mask: Tensor, cuts: list[int], average: str, max_new_tokens: int) -> Any:
        pieces = list(zip(loss.split(cuts), mask.split(cuts), strict=True))
        widths = [max(1, int(piece.sum(1).max())) for _, piece in pieces]
        losses, masks = ([pair[n][:, :width] for pair, width in zip(pieces, widths, strict=True)] for n in (0, 1))
        shares = answer(losses, masks, average, max_new_tokens)
        scalars = isinstance(shares, list | tuple) and all(isinstance(one, Tensor) for one in shares)
        return torch.stack([one.reshape(()) if one.numel() == 1 else one for one in shares]) if scalars else shares

    return whole


@loss_shares.part(4, "one micro-batch: the mean over tokens, over samples of their means, and over a constant")
@one_thread()
def _one(answer: Answer) -> None:
    _SHARES.for_all(_in_pieces(answer), 50, _batches(st.just(1), _AVERAGES))


@loss_shares.part(4, "several: their shares add up to the loss of the whole batch, however it was cut")
@one_thread()
def _several(answer: Answer) -> None:
    _SHARES.for_all(_in_pieces(answer), 60, _batches(st.integers(2, 4), _AVERAGES))


@loss_shares.part(2, "a sample of which no token counts adds 0, and is a sample all the same")
@one_thread()
def _empty(answer: Answer) -> None:
    _EMPTY.for_all(_in_pieces(answer), 60, _batches(st.integers(1, 3), _AVERAGES, fewest=0))


def _right(loss: Tensor, mask: Tensor, cuts: list[int], average: str, max_new_tokens: int) -> Tensor:
    """DAPO (arXiv 2503.14476), equation 12; GRPO (2402.03300), equation 3; Dr. GRPO (2503.20783), listing 1: token by token."""
    samples, tokens = len(mask), int(mask.sum())
    shares, first = [], 0
    for rows in cuts:
        share = loss.new_zeros(())
        for sample in range(first, first + rows):
            length = int(mask[sample].sum())
            below = {"token": tokens, "sequence": samples * length, "constant": samples * max_new_tokens}[average]
            for place in range(length):
                share = share + loss[sample, place] / below
        shares.append(share)
        first += rows
    return torch.stack(shares)


@dataclass(frozen=True)
class _Facts:
    """What the weight of a sample's tokens may be made of: for each sample, and of the whole batch.

    Attributes:
        length: the sample's response tokens.
        rows: samples of its micro-batch.
        micro_tokens: response tokens of its micro-batch.
        width: columns of its micro-batch.
        samples: of the batch.
        tokens: of the batch.
        micro_batches: of the batch.
        longest: response of the batch.
        alive: samples that have a token.
        most: `max_new_tokens`.
    """

    length: Tensor
    rows: Tensor
    micro_tokens: Tensor
    width: Tensor
    samples: int
    tokens: int
    micro_batches: int
    longest: int
    alive: int
    most: int


Below = Callable[[_Facts], Any]
"""What a token's loss is divided by."""
_BELOW: dict[str, Below] = {
    "token": lambda f: f.tokens,
    "sequence": lambda f: f.samples * f.length.clamp(min=1),
    "constant": lambda f: f.samples * f.most,
}


def _dividing(below: Mapping[str, Below], masked: bool = True) -> Callable[..., Tensor]:
    """Return shares whose tokens are divided by something else."""
    dividing = {**_BELOW, **below}

    def shares(loss: Tensor, mask: Tensor, cuts: list[int], average: str, max_new_tokens: int) -> Tensor:
        lengths, counts = mask.sum(1), torch.tensor(cuts)
        pieces = lengths.split(cuts)

        def spread(values: list[int]) -> Tensor:
            return torch.tensor(values).repeat_interleave(counts)

        width = spread([max(1, int(piece.max())) for piece in pieces])
        facts = _Facts(
            lengths, spread(cuts), spread([int(piece.sum()) for piece in pieces]), width, len(mask), int(mask.sum()),
            len(cuts), int(lengths.max()), int((lengths > 0).sum()), max_new_tokens,
        )  # fmt: skip
        counted = mask if masked else torch.arange(mask.shape[1]) < width[:, None]
        each = loss.where(counted, 0.0).sum(1) / torch.as_tensor(dividing[average](facts))
        return torch.stack([piece.sum() for piece in each.split(cuts)])

    return shares


_SHARES = Comparison(
    _right,
    [
        Mistake(
            "sequence-mean-for-token",
            "with average='token' each sample counts the same, so a token of a short response counts more than one of a long one",
            _dividing({"token": _BELOW["sequence"]}),
        ),
        Mistake(
            "token-mean-for-sequence",
            "with average='sequence' each token counts the same, so a long response counts more than a short one",
            _dividing({"sequence": _BELOW["token"]}),
        ),
        Mistake(
            "one-average-for-all",
            "the mean over tokens came, whatever `average` says",
            _dividing(dict.fromkeys(_AVERAGES, _BELOW["token"])),
        ),
        Mistake(
            "one-average-for-all",
            "the mean over samples came, whatever `average` says",
            _dividing(dict.fromkeys(_AVERAGES, _BELOW["sequence"])),
        ),
        Mistake(
            "mean-of-means",
            "each micro-batch's mean counts the same: a token counts more where there are fewer, and the cut is in the loss",
            _dividing(
                {
                    "token": lambda f: f.micro_batches * f.micro_tokens.clamp(min=1),
                    "sequence": lambda f: f.micro_batches * f.rows * f.length.clamp(min=1),
                    "constant": lambda f: f.micro_batches * f.rows * f.most,
                }
            ),
        ),
        Mistake(
            "sum-of-means",
            "each micro-batch's own mean is its share: two micro-batches give twice the loss",
            _dividing(
                {
                    "token": lambda f: f.micro_tokens.clamp(min=1),
                    "sequence": lambda f: f.rows * f.length.clamp(min=1),
                    "constant": lambda f: f.rows * f.most,
                }
            ),
        ),
        Mistake(
            "counts-padding",
            "the number of all places was divided by, padding among them: the more padding, the smaller the loss",
            _dividing({"token": lambda f: f.samples * f.longest}),
        ),
        Mistake(
            "counts-padding",
            "the number of all places was divided by, padding among them: the more padding, the smaller the loss",
            _dividing({"token": lambda f: f.width.sum()}),
        ),
        Mistake(
            "no-mask",
            "what stands in the padding was added up with the rest",
            _dividing({}, masked=False),
        ),
        Mistake(
            "constant-is-the-width",
            "the columns of the micro-batch were divided by: the longest response in it is no constant",
            _dividing({"constant": lambda f: f.samples * f.width}),
        ),
        Mistake(
            "constant-is-the-width",
            "the longest response of the batch was divided by, which changes from step to step; max_new_tokens does not",
            _dividing({"constant": lambda f: f.samples * f.longest}),
        ),
        Mistake(
            "forgets-the-samples",
            "with average='constant' the number of samples was not divided by",
            _dividing({"constant": lambda f: f.most}),
        ),
        Mistake(
            "forgets-the-samples",
            "the samples' means were added up, and not averaged",
            _dividing({"constant": lambda f: f.most, "sequence": lambda f: f.length.clamp(min=1)}),
        ),
    ],
    [_Batch(((2, 4), (1,), (3, 3, 5)), average) for average in _AVERAGES],
    "say for one token of each micro-batch what its loss is to be divided by, and what it was divided by",
    leaf=0,
)
_EMPTY = replace(
    _SHARES,
    cases=[_Batch(((0, 3), (1, 2), (0,)), average) for average in _AVERAGES],
    mistakes=[
        Mistake(
            "nan-of-an-empty-sample",
            "the mean of a sample without tokens is 0 / 0: NaN, and the whole batch's gradient with it",
            _dividing({"sequence": lambda f: f.samples * f.length}),
        ),
        Mistake(
            "forgets-empty-samples",
            "samples without tokens were not counted, and the others weigh more for it",
            _dividing(
                {
                    "sequence": lambda f: f.alive * f.length.clamp(min=1),
                    "constant": lambda f: f.alive * f.most,
                }
            ),
        ),
        Mistake(
            "forgets-empty-samples",
            "samples without tokens were not counted, and the others weigh more for it",
            _dividing({"sequence": lambda f: f.alive * f.length.clamp(min=1)}),
        ),
        *_SHARES.mistakes,
    ],
)
