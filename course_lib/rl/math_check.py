"""Whether two answers are mathematically equal, by the package math-verify. Also a program: see `math_reward`.

It imports nothing of the course, so that it starts in a second as a program of its own.
"""

import json
import logging
import sys
from collections.abc import Sequence


def equal_answers(answers: Sequence[str], completions: Sequence[str], seconds: int) -> list[bool | None]:
    r"""Return for each completion whether what it ends in equals the answer; None where the answer itself can't be read.

    To be called in a process's main thread: math-verify limits its time by a signal, which only that thread gets.

    Args:
        answers: right ones, as LaTeX or plain formulas.
        completions: texts; the last formula in them counts, and one in `\boxed{}` before others.
        seconds: for reading one text, and for comparing one pair. What takes longer is not equal.
    """
    from math_verify import parse, verify

    found: list[bool | None] = []
    for answer, completion in zip(answers, completions, strict=True):
        # Without dollars only numbers would be found: x + 1 would be read as 1.
        marked = answer if any(sign in answer for sign in ("$", "\\boxed", "\\(", "\\[")) else f"${answer}$"
        gold = parse(marked, parsing_timeout=seconds, fallback_mode="no_fallback")
        given = parse(completion, parsing_timeout=seconds) if gold else []
        found.append(verify(gold, given, timeout_seconds=seconds) if gold else None)
    return found


if __name__ == "__main__":
    logging.disable()
    json.dump(equal_answers(**json.load(sys.stdin)), sys.stdout)
