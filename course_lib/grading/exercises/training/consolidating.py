"""A checkpoint in slices, put together again: what DeepSpeed's zero_to_fp32 does."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from course_lib.grading.exercise import Answer, Exercise, WrongAnswer
from course_lib.grading.exercises.paged_attention.mistakes import Mistake
from course_lib.grading.exercises.training.naming import named, several
from course_lib.grading.judge import call, for_all
from course_lib.viz.tables import Cell, Table

checkpoint = Exercise("06.checkpoint", "consolidate", "One model out of slices", difficulty=4, importance=4, minutes=25)

Shape = tuple[int, ...]
Shapes = dict[str, Shape]
_PADDING = -1.0
_NAMES = ("embed", "up", "bias", "down")
_SHAPES = st.lists(st.lists(st.integers(1, 3), max_size=2).map(tuple), min_size=1, max_size=len(_NAMES)).map(
    lambda shapes: dict(zip(_NAMES, shapes, strict=False))
)
_RANKS = st.integers(1, 4)


@dataclass(frozen=True)
class _Saved:
    """A checkpoint.

    Attributes:
        shapes: each parameter's, in the order in which they were saved.
        ranks: how many ranks saved it.
        stage: of ZeRO.
        more: stage 1 and 2 pad at the end of everything, by so many elements a rank more than they need.
        tied: names of weights that are another one.
    """

    shapes: Shapes
    ranks: int
    stage: int
    more: int = 0
    tied: Mapping[str, str] = field(default_factory=dict)

    @property
    def state(self) -> dict[str, Tensor]:
        """The model, its numbers counted from 0 in the order of the file."""
        found, start = {}, 0
        for name, shape in self.shapes.items():
            found[name] = torch.arange(start, start + prod(shape), dtype=torch.float32).view(shape)
            start += prod(shape)
        return found

    @property
    def shards(self) -> list[Tensor]:
        """What each rank saved: DeepSpeed's layout of the stage."""
        flats = [tensor.flatten() for tensor in self.state.values()]
        if self.stage == 3:
            cut = [_pad(flat, -len(flat) % self.ranks).chunk(self.ranks) for flat in flats]
            return [torch.cat([slices[rank] for slices in cut]) for rank in range(self.ranks)]
        flat = torch.cat(flats)
        return list(_pad(flat, -len(flat) % self.ranks + self.more * self.ranks).chunk(self.ranks))

    @property
    def arguments(self) -> tuple[list[Tensor], Shapes, int, dict[str, str]]:
        return [shard.clone() for shard in self.shards], dict(self.shapes), self.stage, dict(self.tied)

    def __str__(self) -> str:
        sizes = ", ".join(f"{name} {list(shape)}" for name, shape in self.shapes.items())
        return f"stage {self.stage}, {several(self.ranks, 'rank')}, {sizes}"


@checkpoint.part(3, "stage 1 and 2: the slices of everything, one after another, and the padding behind it")
def _flat(answer: Answer) -> None:
    with _named(answer, (1, 2)):
        for_all(
            lambda shapes, ranks, stage, more: _check(answer, _Saved(shapes, ranks, stage, more)),
            examples=60,
            shapes=_SHAPES,
            ranks=_RANKS,
            stage=st.integers(1, 2),
            more=st.integers(0, 2),
        )


@checkpoint.part(4, "stage 3: each parameter was padded and cut on its own")
def _each(answer: Answer) -> None:
    with _named(answer, (3,)):
        for_all(
            lambda shapes, ranks: _check(answer, _Saved(shapes, ranks, 3)), examples=80, shapes=_SHAPES, ranks=_RANKS
        )


@checkpoint.part(3, "tied weights are there under both names, as one tensor; all is fp32, as it was saved")
def _tied(answer: Answer) -> None:
    for stage in (1, 3):
        saved = _Saved({"embed": (3, 2), "up": (3,)}, 2, stage, tied={"lm_head": "embed"})
        with _named(answer, (stage,)):
            got = _model(answer, saved)
        if "lm_head" not in got:
            said = f"{saved}; lm_head is tied to embed, and came not at all: what loads this expects both names"
            raise WrongAnswer("forgets-tied", said)
        if not isinstance(got["lm_head"], Tensor) or got["lm_head"].data_ptr() != got["embed"].data_ptr():
            said = f"{saved}; lm_head is tied to embed: one tensor under two names was expected, not two tensors"
            raise WrongAnswer("copies-tied", said)
        if extra := got.keys() - {"embed", "up", "lm_head"}:
            raise WrongAnswer("more-names", f"{saved}: {min(extra)!r} came, and is no weight of this model")


def _check(answer: Answer, saved: _Saved) -> None:
    _model(answer, saved)


def _model(answer: Answer, saved: _Saved) -> dict[str, Tensor]:
    got = call(answer, *saved.arguments)
    if not isinstance(got, dict):
        raise WrongAnswer("no-dict", f"a dict from names to tensors was expected, and {type(got).__name__} came")
    for name, right in saved.state.items():
        mine = got.get(name)
        if not isinstance(mine, Tensor):
            raise WrongAnswer("no-tensor", f"{saved}: a tensor was expected as {name!r}, and {mine!r} came")
        if mine.shape != right.shape:
            same = mine.flatten().shape == right.flatten().shape
            why = (
                "the numbers are as many, but a flat tensor is no weight"
                if same
                else "padding, or some other's numbers?"
            )
            said = f"{saved}: {name!r} has shape {list(mine.shape)}, expected {list(right.shape)}; {why}"
            raise WrongAnswer("stays-flat" if same and mine.ndim == 1 else "other-shape", said)
        if mine.dtype != torch.float32:
            said = f"{saved}: {name!r} has dtype {mine.dtype}; the checkpoint is fp32, and a caller may round it later"
            raise WrongAnswer("rounded", said)
        if not torch.equal(mine, right):
            first = int((mine.flatten() != right.flatten()).nonzero()[0])
            what = f"element {first} of {name!r} is {_said(float(mine.flatten()[first]))}, expected {right.flatten()[first]:g}"
            raise WrongAnswer("wrong-numbers", f"{saved}: {what}", _picture(saved, got))
    return got


def _picture(saved: _Saved, got: dict[str, Any]) -> Table:
    rows: list[list[Cell | str]] = [
        [f"rank {rank}", ", ".join(map(_said, shard.tolist()))] for rank, shard in enumerate(saved.shards)
    ]
    for name, right in saved.state.items():
        mine = got.get(name)
        numbers = mine.flatten().tolist() if isinstance(mine, Tensor) else []
        shown = ", ".join(map(_said, numbers))
        rows.append([f"your {name}", Cell(shown, "right" if numbers == right.flatten().tolist() else "wrong")])
    return Table("The slices; a right model counts from 0 on", ["where", "numbers"], rows)


def _said(number: float) -> str:
    return "padding" if number == _PADDING else f"{number:g}"


def _pad(flat: Tensor, more: int) -> Tensor:
    return torch.nn.functional.pad(flat, (0, more), value=_PADDING)


@dataclass(frozen=True)
class _Sketch:
    """A consolidation that is right as it is here; each other value is a mistake that people make."""

    swaps_only: tuple[int, ...] = ()
    order: Callable[[Sequence[Any]], Sequence[Any]] = list
    names: Callable[[Sequence[Any]], Sequence[Any]] = list
    advances: bool = True
    counts_padding: bool = True
    interleaved: bool = False
    first_rank: bool = False
    trims: bool = True

    def __call__(self, shards: list[Tensor], shapes: Shapes, stage: int, _tied: Any) -> dict[str, list[float]]:
        """Return each parameter's numbers; nothing at all where they do not fit into its shape."""
        shards, found, start = list(self.order(shards)), {}, 0
        each = (stage == 3) != (stage in self.swaps_only)
        if self.first_rank:
            shards = shards[:1] * len(shards)
        whole = torch.stack(shards, 1).flatten() if self.interleaved else torch.cat(shards)
        for name, shape in self.names(list(shapes.items())):
            numel = prod(shape)
            share = -(-numel // len(shards)) if each else numel
            if each:
                parts = [shard[start : start + share] for shard in shards]
                numbers = torch.stack(parts, 1).flatten() if self.interleaved else torch.cat(parts)
            else:
                numbers = whole[start : start + share]
            found[name] = numbers[:numel].tolist() if self.trims else numbers.tolist()
            if len(found[name]) != numel:
                return {}
            if self.advances:
                start += share if self.counts_padding else numel // len(shards)
        return found


def _named(answer: Answer, stages: tuple[int, ...]) -> Any:
    def numbers(*arguments: Any) -> dict[str, list[float]]:
        try:
            return {name: tensor.flatten().tolist() for name, tensor in answer(*arguments).items()}
        except Exception:  # noqa: BLE001  what does not fit into a shape falls over, in a mistake as well
            return {}

    def same(one: dict[str, list[float]], other: dict[str, list[float]]) -> bool:
        return bool(one) == bool(other) and all(one.get(name) == found for name, found in other.items())

    even: Shapes = {"up": (2, 3), "embed": (2, 4)}
    odd: Shapes = {"up": (3,), "embed": (2, 2), "bias": (1,)}
    inputs = [_Saved(shapes, 2, stage).arguments for shapes in (even, odd) for stage in stages]
    hint = "draw the ranks' slices, and mark where each parameter is"
    return named("wrong-numbers", numbers, _RIGHT, _MISTAKES, inputs, same, hint)


_RIGHT = _Sketch()
_MISTAKES = [
    Mistake(
        "joined-as-stage-1",
        "all slices were joined first; at stage 3 a rank's slice holds a piece of every parameter",
        replace(_RIGHT, swaps_only=(3,)),
    ),
    Mistake(
        "joined-as-stage-3",
        "a piece was taken from every rank; at stage 1 and 2 the parameters stand one after another through all slices",
        replace(_RIGHT, swaps_only=(1, 2)),
    ),
    Mistake(
        "ranks-backwards",
        "the slices were joined from the last rank on",
        replace(_RIGHT, order=lambda shards: shards[::-1]),
    ),
    Mistake(
        "sorts-the-names",
        "the parameters were taken in the order of their names; they were saved in the order of `shapes`",
        replace(_RIGHT, names=sorted),
    ),
    Mistake(
        "always-from-the-start",
        "every parameter was read from the start of the slices",
        replace(_RIGHT, advances=False),
    ),
    Mistake(
        "forgets-the-padding-between",
        "behind each parameter's piece there may be padding: the next one's begins after that",
        replace(_RIGHT, counts_padding=False),
    ),
    Mistake(
        "keeps-the-padding",
        "the padding behind a parameter's last piece belongs to no shape",
        replace(_RIGHT, trims=False),
    ),
    Mistake(
        "interleaved",
        "the slices were woven into one another; a rank's piece is contiguous",
        replace(_RIGHT, interleaved=True),
    ),
    Mistake(
        "first-rank-only", "only the first rank's slice was read, again and again", replace(_RIGHT, first_rank=True)
    ),
]
