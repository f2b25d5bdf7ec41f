"""What an exercise is: a name to define, and parts that ask one thing each and are worth points."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

Answer = Any
"""What the learner wrote: a function or a class."""
Test = Callable[[Answer], None]
_F = TypeVar("_F", bound=Test)


class WrongAnswer(AssertionError):  # noqa: N818  an answer is wrong, not in error
    """Raised by a part's test for an answer that is not right.

    Args:
        diagnosis: the mistake's short name, such as `keys-only`; one mistake, one name, within the exercise.
        message: what is wrong, on which input, what was expected and what came, without the solution.
        picture: the counterexample as something that a notebook draws (`_repr_html_` or `_repr_png_`), or None.
    """

    def __init__(self, diagnosis: str, message: str, picture: Any = None) -> None:
        super().__init__(message)
        self.diagnosis = diagnosis
        self.message = message
        self.picture = picture


@dataclass(frozen=True)
class Part:
    """One thing that an answer must do.

    Attributes:
        points: what it is worth.
        asks: what must hold, as one line of a report: `the pool never owns a block twice`.
        test: takes the answer, returns None where it is right, and raises `WrongAnswer` where it is not.
    """

    points: int
    asks: str
    test: Test


@dataclass(frozen=True)
class Exercise:
    """An exercise, without its text: that is in lessons/NN_topic_exercises.py.

    Attributes:
        id: the lesson's number and a short name, `01.kv_bytes`.
        name: what the learner defines, `kv_bytes_per_token`.
        title: what a list of exercises shows.
        difficulty: 1 (a line) to 5 (an evening).
        importance: 1 (a curiosity) to 5 (the lessons after this one build on it).
        minutes: how long it takes a reader who followed the lesson.
        parts: what the answer must do, in the order in which a learner gets it right.
    """

    id: str
    name: str
    title: str
    difficulty: int
    importance: int
    minutes: int
    parts: list[Part] = field(default_factory=list)

    @property
    def lesson(self) -> str:
        """The lesson's number, `01`."""
        return self.id.partition(".")[0]

    @property
    def points(self) -> int:
        """What all parts together are worth."""
        return sum(part.points for part in self.parts)

    def part(self, points: int, asks: str) -> Callable[[_F], _F]:
        """Add the decorated function as the next part's test."""

        def add(test: _F) -> _F:
            self.parts.append(Part(points, asks, test))
            return test

        return add
