"""Mistakes by name, and pictures of a memory, for all exercises of the lesson."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from course_lib.fragmentation.memory_map import Segment, Snapshot, State
from course_lib.grading.exercise import Answer, WrongAnswer
from course_lib.viz.memory_strip import filmstrip

Mistakes = Mapping[str, tuple[str, Callable[..., Any]]]
"""By name: what the mistake is, in words, and a function that makes it."""


def named(
    answer: Answer,
    wrong: WrongAnswer,
    mistakes: Mistakes,
    inputs: Iterable[Sequence[Any]],
    same: Callable[[Any, Any], bool] = lambda got, mistaken: bool(got == mistaken),
) -> WrongAnswer:
    """Return the wrong answer under the name of the mistake that it makes, where one explains it on all inputs.

    One input is not enough: on the smallest counterexample several mistakes often give the same.

    Args:
        answer: what the learner wrote.
        wrong: what was found.
        mistakes: the known ones.
        inputs: arguments to try, on which no two of the mistakes agree throughout.
        same: whether what the answer gave is what the mistake gives.
    """
    outputs = [_tried(answer, given) for given in inputs]
    for name, (why, mistaken) in mistakes.items():
        if all(same(got, _tried(mistaken, given)) for got, given in zip(outputs, inputs, strict=True)):
            return WrongAnswer(name, f"{wrong.message}. {why}", wrong.picture)
    return wrong


@dataclass(frozen=True)
class Strips:
    """Memories, one below the other, drawn when they are shown: a search for the smallest counterexample makes hundreds.

    Attributes:
        snapshots: the memories.
    """

    snapshots: tuple[Snapshot, ...]

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        return filmstrip(self.snapshots)._repr_png_()


Piece = tuple[int, int, str]
"""First slot, number of slots, and the owner; nobody where it is free."""


def strips(*events: tuple[str, int, Sequence[Piece]]) -> Strips:
    """Return a picture of memories.

    Args:
        events: a title, the slots in all, and pieces of the memory. What is in none is free.
    """
    return Strips(tuple(_snapshot(float(place), *event) for place, event in enumerate(events)))


def around(size: int, pieces: Iterable[Piece], owner: str = "taken") -> list[Piece]:
    """Return the pieces, and everything between them as the owner's."""
    whole: list[Piece] = []
    end = 0
    for start, length, who in [*sorted(pieces), (size, 0, "")]:
        if start > end:
            whole.append((end, start - end, owner))
        if length:
            whole.append((start, length, who))
        end = start + length
    return whole


def _snapshot(time: float, title: str, size: int, pieces: Sequence[Piece]) -> Snapshot:
    segments = []
    for start, length, owner in around(size, pieces, owner=""):
        state: State = "used" if owner else "free"
        segments.append(Segment(start, length, state, owner))
    return Snapshot(time, title, size, tuple(segments))


def _tried(function: Callable[..., Any], given: Sequence[Any]) -> Any:
    try:
        return function(*deepcopy(tuple(given)))
    except Exception as error:  # noqa: BLE001  an answer may raise anything; a crash is a result like another here
        return error
