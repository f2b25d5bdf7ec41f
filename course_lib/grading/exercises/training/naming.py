"""Naming a mistake once, on the smallest input that shows it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from course_lib.grading.exercise import Answer, WrongAnswer
from course_lib.grading.exercises.paged_attention.mistakes import Mistake, recognise
from course_lib.grading.judge import CRASH


@contextmanager
def named(
    general: str,
    answer: Answer,
    right: Callable[..., Any],
    mistakes: Sequence[Mistake],
    inputs: Sequence[tuple[Any, ...]],
    same: Callable[[Any, Any], bool],
    hint: str,
) -> Iterator[None]:
    """Give the diagnosis `general`, or a crash, of a check inside the `with` block the name of the mistake behind it.

    A search for the smallest input meets many wrong results. To compare with all mistakes takes longer than to see that a
    result is wrong, so it is done here, after the search, and once.

    Args:
        general: the diagnosis that a check gives where it knows only that the result is wrong.
        answer: what to compare with the mistakes, as `recognise` calls it.
        right: gives the right results. A mistake that makes no difference on these inputs is none here.
        mistakes: those that people make.
        inputs: on these each of them gives something else.
        same: whether a result is the one that a mistake gives.
        hint: what to say where it is none of them.
    """
    try:
        yield
    except WrongAnswer as wrong:
        if wrong.diagnosis not in (general, CRASH):
            raise
        expected = [right(*given) for given in inputs]

        def matters(mistake: Mistake) -> bool:
            return not all(same(mistake.gives(*given), one) for given, one in zip(inputs, expected, strict=True))

        mistake = recognise(answer, list(filter(matters, mistakes)), inputs, same)
        if mistake is None and wrong.diagnosis == CRASH:
            raise
        name, why = (mistake.name, mistake.why) if mistake else (general, hint)
        raise WrongAnswer(name, f"{wrong.message}; {why}", wrong.picture) from None


def several(number: int, noun: str) -> str:
    """Return `1 rank` or `2 ranks`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "es" if noun.endswith("ch") else "s")
