"""The Bradley-Terry loss of a reward model, on rows of scores that are padded."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  its name everywhere

from course_lib.grading.exercise import Answer, Exercise, WrongAnswer
from course_lib.grading.exercises.paged_attention.mistakes import Mistake
from course_lib.grading.exercises.threads import one_thread
from course_lib.grading.exercises.training.naming import named, several
from course_lib.grading.judge import call, for_all
from course_lib.viz.tables import Cell, Table

bradley_terry = Exercise(
    "06.bradley_terry", "bradley_terry_loss", "Which answer is better?", difficulty=3, importance=5, minutes=20
)

_SCORE = st.integers(-12, 12).map(lambda quarters: quarters / 4)


@dataclass(frozen=True)
class _Pair:
    """Scores of a chosen and of a rejected text, a score for each token."""

    chosen: list[float]
    rejected: list[float]


_SAME_LENGTH = st.integers(1, 4).flatmap(
    lambda length: st.lists(
        st.builds(_Pair, *[st.lists(_SCORE, min_size=length, max_size=length)] * 2), min_size=1, max_size=4
    )
)
_ANY_LENGTH = st.lists(st.builds(_Pair, *[st.lists(_SCORE, min_size=1, max_size=4)] * 2), min_size=1, max_size=4)


@bradley_terry.part(3, "texts of one length: the mean over pairs of -log sigmoid(chosen - rejected), at the last token")
@one_thread()
def _full(answer: Answer) -> None:
    with _named(answer):
        for_all(lambda pairs: _compare(answer, pairs), examples=50, pairs=_SAME_LENGTH)


@bradley_terry.part(
    3, "texts of any length: the last token's score, wherever it stands; padding has scores that mean nothing"
)
@one_thread()
def _padded(answer: Answer) -> None:
    with _named(answer):
        for_all(lambda pairs: _compare(answer, pairs), examples=80, pairs=_ANY_LENGTH)


@bradley_terry.part(4, "any margin: the loss is finite, and its gradient pulls each pair apart, the wrong ones most")
@one_thread()
def _margins(answer: Answer) -> None:
    with _named(answer):
        _gradient(answer, [_Pair([0.5, 1.0], [2.0]), _Pair([0.25], [1.0, -1.0, 0.5])])
    for_all(
        lambda margins: _gradient(answer, [_Pair([0.0, margin], [0.0]) for margin in margins]),
        examples=40,
        margins=st.lists(
            st.sampled_from([0.0, 1.0, -1.0, 30.0, -30.0, 200.0, -200.0, 3000.0, -3000.0]), min_size=1, max_size=3
        ),
    )


def _arguments(pairs: Sequence[_Pair]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pad the rows with scores that no text has, each another one."""
    width = max(len(row) for pair in pairs for row in (pair.chosen, pair.rejected))
    padding = iter(range(7, 1000))
    tensors = []
    for side in ("chosen", "rejected"):
        rows: list[list[float]] = [getattr(pair, side) for pair in pairs]
        scores = [[*row, *(float(next(padding)) for _ in range(width - len(row)))] for row in rows]
        tensors += [torch.tensor(scores), torch.tensor([len(row) for row in rows])]
    chosen, chosen_lengths, rejected, rejected_lengths = tensors
    return chosen, rejected, chosen_lengths, rejected_lengths


def _margin(pair: _Pair) -> float:
    return pair.chosen[-1] - pair.rejected[-1]


def _right(pairs: Sequence[_Pair]) -> float:
    """Sum it up in Python: log(1 + exp(-margin)) without an overflow on either side."""
    margins = [_margin(pair) for pair in pairs]
    return sum(max(0.0, -m) + math.log1p(math.exp(-abs(m))) for m in margins) / len(margins)


def _close(one: Any, other: Any) -> bool:
    return math.isclose(float(one), float(other), rel_tol=1e-4, abs_tol=1e-6)


def _loss(answer: Answer, arguments: tuple[Tensor, ...], given: str) -> Tensor:
    got = call(answer, *arguments)
    if isinstance(got, int | float):
        raise WrongAnswer("no-gradient", f"{given}: a number of Python came, which has no gradient; return the tensor")
    if not isinstance(got, Tensor) or got.numel() != 1:
        came = f"shape {list(got.shape)}" if isinstance(got, Tensor) else type(got).__name__
        raise WrongAnswer("no-scalar", f"{given}: one number for all pairs was expected, and {came} came")
    return got


def _compare(answer: Answer, pairs: Sequence[_Pair]) -> None:
    given, right = _said(pairs), _right(pairs)
    got = float(_loss(answer, _arguments(pairs), given).detach())
    if not _close(got, right):
        raise WrongAnswer("wrong-loss", f"{given}: the loss is {right:.4f}, and {got:.4f} came", _picture(pairs))


def _gradient(answer: Answer, pairs: Sequence[_Pair]) -> None:
    given, right = _said(pairs), _right(pairs)
    chosen, rejected, *lengths = _arguments(pairs)
    chosen.requires_grad_()
    rejected.requires_grad_()
    loss = _loss(answer, (chosen, rejected, *lengths), given)
    if not loss.requires_grad:
        raise WrongAnswer("no-gradient", f"{given}: the loss has no gradient; was it detached, or made of numbers?")
    loss.backward()
    grown = [score.grad if score.grad is not None else torch.zeros_like(score) for score in (chosen, rejected)]
    if not bool(loss.isfinite()) or not all(bool(gradient.isfinite().all()) for gradient in grown):
        said = f"{given}: loss {float(loss.detach()):g}, gradient of chosen {_short(grown[0])}"
        why = "sigmoid of a large negative number is 0, and its logarithm -inf. Is there one function for both?"
        raise WrongAnswer("not-stable", f"{said}; {why}", _picture(pairs))
    expected = [torch.zeros_like(gradient) for gradient in grown]
    for row, pair in enumerate(pairs):
        push = 1 / (1 + math.exp(min(_margin(pair), 700.0))) / len(pairs)
        expected[0][row, len(pair.chosen) - 1] = -push
        expected[1][row, len(pair.rejected) - 1] = push
    flat = all(torch.allclose(mine, theirs, rtol=1e-3, atol=1e-7) for mine, theirs in zip(grown, expected, strict=True))
    if _close(loss.detach(), right) and flat:
        return
    mine, theirs = _short(grown[0]), _short(expected[0])
    if any(_margin(pair) < -20 for pair in pairs):
        said = f"{given}: the loss is {float(loss.detach()):.4f}, expected {right:.4f}; chosen's gradient is {mine}"
        why = f"expected {theirs}: the pair that is most wrong is pulled most"
        raise WrongAnswer("clamped", f"{said}; {why}", _picture(pairs))
    said = f"{given}: the gradient of chosen is {mine}, expected {theirs}"
    raise WrongAnswer("wrong-loss" if not flat else "wrong-value", said, _picture(pairs))


def _short(gradient: Tensor) -> list[list[float]]:
    return [[round(number, 3) for number in row] for row in gradient.tolist()]


def _said(pairs: Sequence[_Pair]) -> str:
    margins = ", ".join(f"{_margin(pair):g}" for pair in pairs)
    return f"{several(len(pairs), 'pair')} with {'margins' if len(pairs) > 1 else 'a margin of'} {margins}"


def _picture(pairs: Sequence[_Pair]) -> Table:
    chosen, rejected, chosen_lengths, rejected_lengths = _arguments(pairs)
    rows: list[list[Cell | str]] = []
    for pair, scores, length in zip(
        range(2 * len(pairs)),
        [row for both in zip(chosen, rejected, strict=True) for row in both],
        [length for both in zip(chosen_lengths, rejected_lengths, strict=True) for length in both],
        strict=True,
    ):
        cells = [
            Cell(f"{score:g}", "right")
            if place == int(length) - 1
            else f"({score:g})"
            if place >= int(length)
            else f"{score:g}"
            for place, score in enumerate(scores.tolist())
        ]
        rows.append([f"{pair // 2 + 1}", ("chosen", "rejected")[pair % 2], *cells])
    columns = [">pair", "text", *(f">{place}" for place in range(chosen.shape[1]))]
    return Table("Scores; ✓ is the last token, (padding) in brackets", columns, rows)


Reward = Callable[[Tensor, Tensor], Tensor]


def _last(scores: Tensor, lengths: Tensor) -> Tensor:
    return scores.gather(1, lengths[:, None] - 1)[:, 0]


def _mean_of_tokens(scores: Tensor, lengths: Tensor) -> Tensor:
    inside = torch.arange(scores.shape[1]) < lengths[:, None]
    return (scores * inside).sum(1) / lengths


def _gives(loss: Callable[[Tensor], Tensor], reward: Reward = _last) -> Callable[..., Tensor]:
    return lambda chosen, rejected, long, short: loss(reward(chosen, long) - reward(rejected, short))


def _bradley_terry(margin: Tensor) -> Tensor:
    return -F.logsigmoid(margin).mean()


def _named(answer: Answer) -> Any:
    inputs = [
        _arguments(pairs)
        for pairs in (
            [_Pair([1.0, 2.0, 0.5], [0.25, -1.0]), _Pair([0.75], [1.5, 1.0, 2.0])],
            [_Pair([1.0, -0.5], [0.75, 2.0]), _Pair([0.0, 1.0], [-1.0, 0.25]), _Pair([2.0], [0.5])],
        )
    ]
    return named(
        "wrong-loss", answer, _gives(_bradley_terry), _MISTAKES, inputs, _agrees, "take one pair, and do it by hand"
    )


def _agrees(one: Any, other: Tensor) -> bool:
    return isinstance(one, Tensor) and one.numel() == 1 and _close(one.detach(), other)


_MISTAKES = [
    Mistake(
        "wrong-sign",
        "the loss falls as the rejected text scores higher",
        _gives(lambda margin: _bradley_terry(-margin)),
    ),
    Mistake(
        "sum-over-pairs",
        "the pairs' losses were added up; the mean does not grow with the batch",
        _gives(lambda m: -F.logsigmoid(m).sum()),
    ),
    Mistake(
        "no-logarithm",
        "a probability came; its negative logarithm is the loss",
        _gives(lambda margin: -margin.sigmoid().mean()),
    ),
    Mistake(
        "no-sigmoid",
        "the margin itself was maximised: it has no end, and one pair can pull all the others along",
        _gives(lambda margin: -margin.mean()),
    ),
    Mistake(
        "hinge",
        "this is a hinge loss; Bradley and Terry's is smooth",
        _gives(lambda margin: (1 - margin).clamp(min=0).mean()),
    ),
    Mistake(
        "mean-margin-first",
        "the margins were averaged before the logarithm: pairs that are wrong hide behind those that are right",
        _gives(lambda margin: -F.logsigmoid(margin.mean())),
    ),
    Mistake(
        "reads-the-last-column",
        "the last column was read, and there is padding in it where a text is shorter",
        _gives(_bradley_terry, lambda scores, _: scores[:, -1]),
    ),
    Mistake(
        "one-too-far",
        "a text of n tokens has its last one at position n - 1; the one after it is padding",
        _gives(
            _bradley_terry,
            lambda scores, lengths: scores.gather(1, lengths.clamp(max=scores.shape[1] - 1)[:, None])[:, 0],
        ),
    ),
    Mistake(
        "mean-of-tokens",
        "all tokens' scores were averaged; the last token has seen the whole text",
        _gives(_bradley_terry, _mean_of_tokens),
    ),
    Mistake(
        "mean-of-columns",
        "all columns were averaged, with the padding in them",
        _gives(_bradley_terry, lambda scores, _: scores.mean(1)),
    ),
    Mistake(
        "one-length-for-both",
        "the rejected text was read at the chosen one's length; each has its own",
        lambda chosen, rejected, long, _: _bradley_terry(_last(chosen, long) - _last(rejected, long)),
    ),
    Mistake(
        "everybody-against-everybody",
        "each chosen text was compared with every rejected one: check the shapes before you subtract",
        lambda chosen, rejected, long, short: _bradley_terry(_last(chosen, long)[:, None] - _last(rejected, short)),
    ),
]
