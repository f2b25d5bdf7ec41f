"""Telling one mistake from another: by what each would have answered."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from operator import eq
from typing import Any

from course_lib.grading.exercise import Answer


@dataclass(frozen=True)
class Mistake:
    """A mistake that people make.

    Attributes:
        name: its diagnosis.
        why: what to say to whoever made it, without the solution.
        gives: what an answer with this mistake returns.
    """

    name: str
    why: str
    gives: Callable[..., Any]


def recognise(
    answer: Answer,
    mistakes: Sequence[Mistake],
    inputs: Sequence[tuple[Any, ...]],
    same: Callable[[Any, Any], bool] = eq,
) -> Mistake | None:
    """Return the first mistake that gives what the answer gives, on all of these inputs; None where none does."""
    try:
        answered = [answer(*deepcopy(given)) for given in inputs]
    except Exception:  # noqa: BLE001  an answer that raises on an input is none of these mistakes
        return None

    def agrees(mistake: Mistake) -> bool:
        return all(same(got, mistake.gives(*given)) for got, given in zip(answered, inputs, strict=True))

    return next(filter(agrees, mistakes), None)
