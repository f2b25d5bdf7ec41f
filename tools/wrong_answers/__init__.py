"""Answers that are wrong, each with the diagnosis that its exercise's checks must give: CI holds the graders to it.

A lesson's module defines them in the order of its exercises:

    @wrong("01.kv_bytes", "keys-only", "Counts the keys and forgets the values.")
    def keys_only(layers, kv_heads, head_dim, bytes_per_number):
        return layers * kv_heads * head_dim * bytes_per_number
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar

from course_lib.grading.exercises import LESSONS

_T = TypeVar("_T")


@dataclass(frozen=True)
class Wrong:
    """A wrong answer.

    Attributes:
        exercise: the id of the exercise that it pretends to solve.
        diagnosis: the short name of the mistake, which must be the first one that the check reports.
        says: the mistake in one sentence, for the published table.
        answer: the function or class.
    """

    exercise: str
    diagnosis: str
    says: str
    answer: Any


_found: list[Wrong] = []


def wrong(exercise: str, diagnosis: str, says: str) -> Callable[[_T], _T]:
    """Register the decorated function or class as a wrong answer."""

    def add(answer: _T) -> _T:
        _found.append(Wrong(exercise, diagnosis, says, answer))
        return answer

    return add


def wrong_answers() -> list[Wrong]:
    """Return the wrong answers of all lessons, in order."""
    for module in LESSONS.values():
        import_module(f"{__name__}.{module}")
    return list(_found)
