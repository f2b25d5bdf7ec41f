"""Tasks from the package reasoning-gym: over a hundred generators of problems, each with its own grader."""

import contextlib
import difflib
import io
import random
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

from course_lib.rl.problem import Problem
from course_lib.rl.shaping import tagged_answer

_SECONDS = 2.0  # for the grading of one completion
_TRIES = 20  # for each problem that is drawn


class ReasoningGym:
    """A dataset of reasoning-gym as a task: its problems, graded by its own `score_answer`.

        ReasoningGym("chain_sum", size=500, min_digits=1, max_digits=2)

    Graded is what stands in a completion's `<answer>` tags, or all of it where it has none. Most graders are strict and give
    part of the credit for an answer that is nearly right, some give 0.01 for any: see the dataset's source. An answer that the
    grader can't read, or not within 2 s, is wrong.

    Some graders, countdown's among them, parse formulas with sympy, which runs Python. Where a policy's text must not be run,
    take a task that parses it, such as `Countdown`.

    Args:
        dataset: its name, such as "countdown", "chain_sum", "gcd" or "sudoku"; `reasoning_gym_datasets()` has all.
        size: problems in all. Each is made when it is first drawn.
        held_out: how many of them are held out. A training problem that asks the same as one of them is passed over.
        seed: of the dataset; it is not the loop's seed, so that every run is measured on the same problems.
        instruction: a sentence to put under each question, such as how to mark the answer.
        options: the dataset's own settings, such as `max_numbers`.

    Raises:
        ValueError: no such dataset, an option that it does not have or refuses, or no problem left to train on.
    """

    def __init__(
        self,
        dataset: str,
        size: int = 1000,
        held_out: int = 64,
        seed: int = 0,
        instruction: str = "",
        **options: Any,
    ):
        if not 0 < held_out < size:
            raise ValueError(f"held_out is {held_out} and size {size}; expected 0 < held_out < size")
        self.name = f"reasoning_gym/{dataset}"
        self.size, self.instruction = size, instruction
        self._dataset = _create(dataset, {"size": size, "seed": seed, **options})
        self._entries: dict[int, dict[str, Any]] = {}
        by_question = {problem.question: problem for problem in map(self._problem, range(held_out))}
        self.held_out: Sequence[Problem] = list(by_question.values())
        self._held_out, self._first = set(by_question), held_out

    def draw(self, count: int, rng: random.Random) -> list[Problem]:
        """Return `count` training problems, all different as far as there are enough.

        Raises:
            ValueError: every one of the dataset's problems is held out.
        """
        found: dict[str, Problem] = {}
        training = range(self._first, self.size)
        for index in rng.sample(training, min(len(training), _TRIES * count)):  # some will ask what another one asks
            problem = self._problem(index)
            if problem.question not in self._held_out:
                found.setdefault(problem.question, problem)
            if len(found) == count:
                break
        if not found:
            raise ValueError(
                f"all problems of {self.name} are held out: hold out fewer, or choose options with more problems"
            )
        different = list(found.values())
        return [different[index % len(different)] for index in range(count)]

    def grade(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
        """Return the dataset's score of each completion, from 0.0 to 1.0.

        Raises:
            ValueError: a problem is of another task.
        """
        return [self._score(problem, text) for problem, text in zip(problems, completions, strict=True)]

    def __repr__(self) -> str:
        training = self.size - self._first
        return f"ReasoningGym({self.name}, {training} training problems, {len(self.held_out)} held out)"

    def _entry(self, index: int) -> dict[str, Any]:
        if index not in self._entries:
            with contextlib.redirect_stdout(io.StringIO()):  # some datasets print while they search for a problem
                self._entries[index] = self._dataset[index]
        return self._entries[index]

    def _problem(self, index: int) -> Problem:
        entry = self._entry(index)
        question = f"{entry['question']}\n{self.instruction}".strip()
        # An entry's own metadata may hold anything; its place is enough to find it again, in another process too.
        return Problem(question, str(entry["answer"] or ""), {"dataset": self.name, "index": index})

    def _score(self, problem: Problem, completion: str) -> float:
        if problem.metadata.get("dataset") != self.name:
            raise ValueError(f"{problem.question!r} is no problem of {self.name}: grade it with its own task")
        answer = tagged_answer(completion)
        try:
            with _time_limit(_SECONDS), warnings.catch_warnings(action="ignore"):
                given = completion.strip() if answer is None else answer
                return float(self._dataset.score_answer(given, self._entry(problem.metadata["index"])))
        except Exception:  # noqa: BLE001  graders parse what a policy wrote, and many expect that it can be parsed
            return 0.0


def reasoning_gym_datasets() -> list[str]:
    """Return the names of all datasets."""
    return sorted(_registry())


def _create(name: str, options: dict[str, Any]) -> Any:
    registry = _registry()
    if name not in registry:
        near = difflib.get_close_matches(name, registry, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "reasoning_gym_datasets() lists them."
        raise ValueError(f"reasoning-gym has no dataset {name!r}; {hint}")
    from reasoning_gym import create_dataset

    known = [field.name for field in fields(registry[name][1])]
    unknown = sorted(options.keys() - set(known))
    if unknown:
        raise ValueError(f"the dataset {name} has no option {', '.join(unknown)}; it has {', '.join(known)}.")
    try:
        return create_dataset(name, **options)
    except Exception as error:
        raise ValueError(f"the dataset {name} refuses {options}: {error or type(error).__name__}") from error


def _registry() -> dict[str, Any]:
    with warnings.catch_warnings(action="ignore"):  # a package that it needs warns of its own source
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    assert reasoning_gym  # its import fills the registry
    return dict(DATASETS)


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError inside the block after `seconds`; only the main thread can be interrupted, in others it may run on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise TimeoutError

    handler = signal.signal(signal.SIGALRM, stop)
    left, every = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:  # somebody else's timer, such as a test's
            signal.setitimer(signal.ITIMER_REAL, left, every)
