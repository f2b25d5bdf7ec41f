"""A reward for free-form mathematics: equal to the answer, however it is written."""

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from course_lib.rl import math_check
from course_lib.rl.problem import Problem

_SECONDS = 2


def math_match(problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
    r"""Return 1.0 where a completion ends in a formula that is equal to the answer, else 0.0, by the package math-verify.

    `0.5`, `1/2` and `\frac{1}{2}` are the same; so are `x+1` and `1+x`, written between dollars. A formula in `\boxed{}`
    counts before others. A formula that takes over 2 s, such as `9^{9^{9}}`, is not equal. For answers in words take
    `exact_match`: here each letter is a variable.

    math-verify keeps its time with a signal, which only a process's main thread gets. In any other thread, a widget's or a
    server's, the batch goes to a process of its own, which takes a second more.

    Raises:
        ValueError: math-verify can't read a problem's answer, so that nothing could ever equal it.
    """
    answers = [problem.answer for problem in problems]
    if threading.current_thread() is threading.main_thread():
        with _quiet():
            found = math_check.equal_answers(answers, completions, _SECONDS)
    else:
        found = _in_a_process(answers, completions)
    for answer, equal in zip(answers, found, strict=True):
        if equal is None:
            raise ValueError(
                f"math-verify finds no formula in the answer {answer!r}; write it as a number or in LaTeX."
            )
    return [float(equal or False) for equal in found]


def _in_a_process(answers: Sequence[str], completions: Sequence[str]) -> list[bool | None]:
    """Return `equal_answers` of a program that is started for it: a fork could inherit a lock that another thread holds."""
    task = json.dumps({"answers": answers, "completions": completions, "seconds": _SECONDS})
    command = [sys.executable, str(math_check.__file__)]
    done = subprocess.run(command, input=task, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"math-verify's process failed: {done.stderr.strip()[-300:]}")
    found: list[bool | None] = json.loads(done.stdout)
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep math-verify from logging each formula that takes too long: to a policy that is learning this happens."""
    logger = logging.getLogger("math_verify")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
