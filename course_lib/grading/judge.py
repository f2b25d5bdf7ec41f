"""The one grading path: an exercise and an answer to a result, for the notebook's cell, the command line and CI."""

import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from types import FrameType
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis.errors import Flaky
from hypothesis.strategies import SearchStrategy

from course_lib.grading.exercise import Answer, Exercise, Part, WrongAnswer
from course_lib.grading.show import result_html, result_text
from course_lib.grading.steady import steady_inputs

SECONDS_A_PART = 30.0
NOT_STARTED, CRASH, TOO_SLOW, UNSTEADY, BORROWED = "not-started", "crash", "too-slow", "unsteady", "borrowed"


@dataclass(frozen=True)
class PartResult:
    """What one part of an exercise came to.

    Attributes:
        asks: what must hold.
        points: what it is worth.
        earned: what the answer got.
        diagnosis: the mistake's short name, empty where the answer is right.
        message: the mistake in words, empty where the answer is right.
        picture: the counterexample drawn, or None.
    """

    asks: str
    points: int
    earned: int
    diagnosis: str = ""
    message: str = ""
    picture: Any = None


@dataclass(frozen=True, repr=False)
class Result:
    """What an answer to an exercise came to."""

    exercise: Exercise
    parts: tuple[PartResult, ...]

    @property
    def earned(self) -> int:
        """The points that the answer got."""
        return sum(part.earned for part in self.parts)

    @property
    def points(self) -> int:
        """The points that there are."""
        return self.exercise.points

    @property
    def solved(self) -> bool:
        """Whether the answer got them all."""
        return self.earned == self.points

    @property
    def diagnoses(self) -> list[str]:
        """The short names of the mistakes found, in the order of the parts."""
        return [part.diagnosis for part in self.parts if part.diagnosis]

    @property
    def started(self) -> bool:
        """Whether there is anything but the untouched stub."""
        return any(diagnosis != NOT_STARTED for diagnosis in self.diagnoses) or self.earned > 0

    def __repr__(self) -> str:
        return result_text(self)

    def _repr_html_(self) -> str:
        return result_html(self)


def judge(exercise: Exercise, answer: Answer, seconds: float = SECONDS_A_PART) -> Result:
    """Judge an answer, part by part. Whatever the answer raises or never finishes, only Ctrl-C gets out of here.

    Args:
        exercise: what was asked.
        answer: what the learner wrote.
        seconds: how long a part may take. It is enforced in the main thread; code that never returns to Python is
            stopped by the grader of whole notebooks alone.
    """
    return Result(exercise, tuple(_judge_part(exercise, part, answer, seconds) for part in exercise.parts))


def for_all(test: Callable[..., None], *, examples: int = 100, **strategies: SearchStrategy[Any]) -> None:
    """Run a test on inputs drawn by Hypothesis, the same ones each time; raise what it raises on the smallest bad one.

    Args:
        test: takes the strategies' names as keywords.
        examples: how many inputs to try.
        strategies: a strategy for each of the test's arguments.

    Raises:
        WrongAnswer: `unsteady`, where the same input is once right and once wrong.
    """
    quiet = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate, Phase.shrink],
        print_blob=False,
        report_multiple_bugs=False,
        verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
    )

    @wraps(test)
    def run(**drawn: Any) -> None:
        test(**drawn)  # what it returns is of no interest, and Hypothesis would complain of it

    try:
        with steady_inputs():
            quiet(given(**strategies)(run))()
    except Flaky as error:
        told = (
            "the same input gives once a right and once a wrong result: does something stay behind from call to call?"
        )
        raise WrongAnswer(UNSTEADY, told) from error


def call(answer: Answer, *args: Any, **kwargs: Any) -> Any:
    """Call the learner's function; where it raises, the mistake is a `crash` that shows the call.

    Raises:
        WrongAnswer: it raised.
        NotImplementedError: it is still the stub.
    """
    try:
        return answer(*args, **kwargs)
    except (NotImplementedError, WrongAnswer):
        raise
    except (Exception, SystemExit) as error:
        shown = ", ".join([*map(_short, args), *(f"{key}={_short(value)}" for key, value in kwargs.items())])
        name = getattr(answer, "__qualname__", type(answer).__name__)
        raise WrongAnswer(CRASH, f"{name}({shown}) raised {_error(error)}") from error


class _TimeLimitError(BaseException):
    """A part took too long. Not an Exception, so that neither the answer nor Hypothesis swallows it."""


def _judge_part(exercise: Exercise, part: Part, answer: Answer, seconds: float) -> PartResult:
    def failed(diagnosis: str, message: str, picture: Any = None) -> PartResult:
        return PartResult(part.asks, part.points, 0, diagnosis, message, picture)

    try:
        with _time_limit(seconds):
            part.test(answer)
    except NotImplementedError:
        return failed(NOT_STARTED, f"{exercise.name} is not written yet: replace the `raise NotImplementedError` in it")
    except WrongAnswer as wrong:
        return failed(wrong.diagnosis, wrong.message, wrong.picture)
    except _TimeLimitError:
        return failed(TOO_SLOW, f"not finished after {seconds:g} s: is there a loop that never ends?")
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  whatever an answer raises, sys.exit too, is the learner's news
        return failed(CRASH, f"{exercise.name} raised {_error(error)}")
    return PartResult(part.asks, part.points, part.points)


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise _TimeLimitError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _error(error: BaseException) -> str:
    """Return the error in one line, with the line of the learner's code that raised it where that is known."""
    said = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "ipykernel" in frame.filename]
    where = f" in line {frames[-1].lineno} of the cell: {frames[-1].line}" if frames and frames[-1].line else ""
    return f"{said[:300]}{where}"


def _short(value: Any) -> str:
    said = " ".join(repr(value).split())
    return said if len(said) <= 120 else f"{said[:117]}..."
