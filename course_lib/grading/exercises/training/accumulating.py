"""Gradient accumulation: micro-batches that give the big batch's step."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  its name everywhere

from course_lib.grading.exercise import Answer, Exercise, WrongAnswer
from course_lib.grading.exercises.paged_attention.mistakes import Mistake
from course_lib.grading.exercises.threads import one_thread
from course_lib.grading.exercises.training.naming import named, several
from course_lib.grading.judge import call, for_all
from course_lib.viz.tables import Cell, Table

accumulate = Exercise(
    "06.accumulate", "train_step", "Small batches, one big step", difficulty=3, importance=5, minutes=20
)

_VOCAB, _LENGTH, _RATE = 6, 4, 0.5
_NO_MEAN = "the mean over no tokens at all is 0 / 0"
MicroBatch = tuple[Tensor, Tensor]
Counts = list[list[int]]
"""For each micro-batch, how many target tokens each of its rows has."""

_EVEN = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, _LENGTH)).map(
    lambda drawn: [[drawn[2]] * drawn[1] for _ in range(drawn[0])]
)
_UNEVEN = st.lists(st.lists(st.integers(0, _LENGTH), min_size=1, max_size=3), min_size=1, max_size=4).filter(
    lambda counts: any(map(sum, counts))
)
_SEEDS = st.integers(0, 9)


@accumulate.part(3, "micro-batches with equally many target tokens give the big batch's loss and step")
@one_thread()
def _even(answer: Answer) -> None:
    with _named(answer):
        for_all(lambda counts, seed: _compare(answer, counts, seed), examples=30, counts=_EVEN, seed=_SEEDS)


@accumulate.part(4, "so do micro-batches with different numbers of target tokens, even with none")
@one_thread()
def _uneven(answer: Answer) -> None:
    with _named(answer):
        for_all(lambda counts, seed: _compare(answer, counts, seed), examples=60, counts=_UNEVEN, seed=_SEEDS)


@accumulate.part(3, "one micro-batch is in memory at a time, and a second step starts from zero gradients")
@one_thread()
def _steps(answer: Answer) -> None:
    work = _Work.draw([[4, 4], [4, 4], [4, 4]], 3)
    _step(answer, work)
    model = work.model
    if model.most_rows > 2:
        said = (
            f"three micro-batches of 2 rows: the model got {model.most_rows} rows at once, which do not fit into memory"
        )
        raise WrongAnswer("one-big-batch", said)
    if model.most_graphs > 1:
        said = (
            f"before the first backward pass the model ran {model.most_graphs} times: all of these micro-batches'"
            " activations were in memory together, and accumulation is there to avoid that"
        )
        raise WrongAnswer("one-backward", said)
    if work.optimizer.steps != 1:
        said = f"three micro-batches: optimizer.step() was called {work.optimizer.steps} times, and once was expected"
        raise WrongAnswer("steps-each-micro-batch" if work.optimizer.steps == 3 else "other-steps", said)
    _starts_anew(answer, work)


def _starts_anew(answer: Answer, work: "_Work") -> None:
    """Step once more, and beside it with a model of the same weights that has no gradients yet."""
    before, kept = work.weights.clone(), _gradient(work)
    fresh = _Work.draw([[4, 4], [4, 4], [4, 4]], 3)
    fresh.model.table.data.copy_(before)
    _step(answer, work)
    _step(answer, fresh)
    if _close(work.weights, fresh.weights):
        return
    if _close(work.weights, fresh.weights - _RATE * kept):
        name, why = "forgets-zero-grad", "the first step's gradients were still there"
    else:
        name, why = "another-second-step", "does something stay behind from call to call?"
    said = "a second step on the same micro-batches is another one than that of a new model with the same weights"
    raise WrongAnswer(name, f"{said}; {why}")


class _Model(nn.Module):
    """Logits from the token alone; it notes how it is used."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        chance = torch.Generator().manual_seed(seed)
        self.table = nn.Parameter(torch.randn(_VOCAB, _VOCAB, generator=chance))
        self.most_rows = self.most_graphs = self._graphs = 0

    def forward(self, ids: Tensor) -> Tensor:
        """Return the logits `[rows, length, vocab]`."""
        logits = self.table[ids]
        self.most_rows = max(self.most_rows, len(ids))
        if logits.requires_grad:
            self._graphs += 1
            self.most_graphs = max(self.most_graphs, self._graphs)
            logits.register_hook(self._back)
        return logits

    def _back(self, _gradient: Tensor) -> None:
        self._graphs -= 1


class _SGD(torch.optim.SGD):
    """Plain SGD, so that the scale of a gradient shows; it counts its steps."""

    steps = 0

    def step(self, *arguments: Any, **options: Any) -> Any:
        """Step."""
        self.steps += 1
        return super().step(*arguments, **options)


@dataclass
class _Work:
    """A model, its optimizer and a batch in pieces."""

    model: _Model
    optimizer: _SGD
    batches: list[MicroBatch]

    @classmethod
    def draw(cls, counts: Counts, seed: int) -> "_Work":
        model, chance = _Model(seed), torch.Generator().manual_seed(seed + 100)
        batches = []
        for rows in counts:
            ids, labels = torch.randint(_VOCAB, (2, len(rows), _LENGTH), generator=chance)
            targets = torch.arange(_LENGTH) >= _LENGTH - torch.tensor(rows)[:, None]
            batches.append((ids, labels.where(targets, -100)))
        return cls(model, _SGD(model.parameters(), lr=_RATE), batches)

    @property
    def weights(self) -> Tensor:
        return self.model.table.detach()

    def big_step(self) -> float:
        """Take the step of the whole batch at once; return its loss."""
        ids, labels = (torch.cat(parts) for parts in zip(*self.batches, strict=True))
        loss = F.cross_entropy(self.model.table[ids].flatten(0, 1), labels.flatten())
        self.model.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


def _gradient(work: _Work) -> Tensor:
    gradient = work.model.table.grad
    return torch.zeros_like(work.weights) if gradient is None else gradient.clone()


def _close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-4, atol=1e-5)


def _step(answer: Answer, work: _Work) -> float:
    got = call(answer, work.model, work.optimizer, [(ids.clone(), labels.clone()) for ids, labels in work.batches])
    if isinstance(got, Tensor) and got.numel() == 1:
        got = float(got.detach())
    if not isinstance(got, int | float):
        raise WrongAnswer("no-loss", f"the batch's loss was expected, a number, and {got!r} came")
    return float(got)


def _compare(answer: Answer, counts: Counts, seed: int) -> None:
    mine, big = _Work.draw(counts, seed), _Work.draw(counts, seed)
    before, right = big.weights.clone(), big.big_step()
    got = _step(answer, mine)
    given = f"{several(len(counts), 'micro-batch')} with {', '.join(str(sum(rows)) for rows in counts)} target tokens"
    if _close(mine.weights, big.weights):
        if abs(got - right) <= 1e-4 * max(1.0, abs(right)):
            return
        said = f"{given}: the step is right, but the loss is {right:.4f} and {got:.4f} was returned"
        raise WrongAnswer(*(("nan", f"{said}; {_NO_MEAN}") if math.isnan(got) else ("another-loss", said)))
    if torch.equal(mine.weights, before) and not mine.optimizer.steps:
        raise WrongAnswer("never-steps", f"{given}: no weight changed; the optimizer never stepped")
    table = _picture(before, mine, big)
    if not bool(mine.weights.isfinite().all()):
        raise WrongAnswer("nan", f"{given}: weights are NaN now; {_NO_MEAN}", table)
    if mine.optimizer.steps > 1:
        said = f"{given}: optimizer.step() was called {mine.optimizer.steps} times, each on a piece of the gradient"
        raise WrongAnswer("steps-each-micro-batch", said, table)
    raise WrongAnswer("wrong-step", f"{given}: the weights moved otherwise than with the whole batch at once", table)


def _picture(before: Tensor, mine: _Work, big: _Work) -> Table:
    """Draw how far the weights of the tokens that moved most went."""
    right, got = big.weights - before, mine.weights - before
    rows: list[list[Cell | str]] = []
    for token in right.abs().sum(1).argsort(descending=True)[:3].tolist():
        cells = [
            Cell(f"{a:+.3f}", "right" if abs(a - b) < 1e-4 else "wrong")
            for a, b in zip(got[token].tolist(), right[token].tolist(), strict=True)
        ]
        rows += [[f"token {token}, yours", *cells], ["big batch", *(f"{b:+.3f}" for b in right[token].tolist())]]
    return Table("How far a token's logits moved", ["row of the weights", *(f">{n}" for n in range(_VOCAB))], rows)


Weight = Callable[[int, Sequence[int], Sequence[int]], float]
"""What a token's loss counts, from its micro-batch's index, all micro-batches' target tokens and all their rows."""


def _weighing(weight: Weight, last_only: bool = False) -> Callable[[Counts, int], Tensor]:
    """Return what the weights are after a step on a loss that counts each token so much."""

    def run(counts: Counts, seed: int) -> Tensor:
        work = _Work.draw(counts, seed)
        targets, rows = [sum(row) for row in counts], [len(row) for row in counts]
        loss = torch.zeros(())
        for index, (ids, labels) in enumerate(work.batches):
            summed = F.cross_entropy(work.model.table[ids].flatten(0, 1), labels.flatten(), reduction="sum")
            if not last_only or index == len(counts) - 1:
                loss = loss + summed * weight(index, targets, rows)
        loss.backward()
        work.optimizer.step()
        return work.weights

    return run


def _named(answer: Answer) -> Any:
    def weights(counts: Counts, seed: int) -> Tensor:
        work = _Work.draw(counts, seed)
        answer(work.model, work.optimizer, work.batches)
        return work.weights

    right = _weighing(lambda _index, targets, _rows: 1 / sum(targets))
    hint = "what does one token's loss count in the big batch's mean, and what here?"
    return named("wrong-step", weights, right, _MISTAKES, _INPUTS, _close, hint)


_INPUTS: list[tuple[Counts, int]] = [([[3, 4], [1], [2, 2, 2]], 1), ([[4], [1, 3]], 2), ([[2, 2], [2]], 3)]
_MISTAKES = [
    Mistake(
        "mean-of-means",
        "each micro-batch's mean counts the same, so a token counts more where there are fewer of them",
        _weighing(lambda index, targets, _rows: 1 / (len(targets) * targets[index])),
    ),
    Mistake(
        "sum-of-means",
        "the micro-batches' means were added up: the gradient grows with their number",
        _weighing(lambda index, targets, _rows: 1 / targets[index]),
    ),
    Mistake(
        "sum-of-losses",
        "the tokens' losses were added up, and never divided by their number",
        _weighing(lambda _index, _targets, _rows: 1.0),
    ),
    Mistake(
        "divides-by-micro-batches",
        "the tokens' losses were added up, and divided by the number of micro-batches, which says nothing of the tokens",
        _weighing(lambda _index, targets, _rows: 1 / len(targets)),
    ),
    Mistake(
        "counts-all-positions",
        "positions without a target were counted, too: labels of -100 are no tokens to learn",
        _weighing(lambda _index, _targets, rows: 1 / (sum(rows) * _LENGTH)),
    ),
    Mistake(
        "weighs-by-rows",
        "a micro-batch counts by its rows, and rows have different numbers of target tokens",
        _weighing(lambda index, targets, rows: rows[index] / (sum(rows) * targets[index])),
    ),
    Mistake(
        "last-micro-batch-only",
        "only the last micro-batch's gradient was there when the optimizer stepped: what did zero_grad throw away?",
        _weighing(lambda _index, targets, _rows: 1 / sum(targets), last_only=True),
    ),
    Mistake(
        "last-mean-only",
        "only the last micro-batch's mean loss was there when the optimizer stepped: what did zero_grad throw away?",
        _weighing(lambda index, targets, _rows: 1 / targets[index], last_only=True),
    ),
]
