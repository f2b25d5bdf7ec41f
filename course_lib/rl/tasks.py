"""Tasks: where prompts come from, and what a right answer is."""

import random
from collections.abc import Sequence
from typing import Protocol

from course_lib.rl.problem import Problem
from course_lib.rl.rewards import number_match


class Task(Protocol):
    """What the loop needs of a task. Write your own by giving these five members."""

    name: str
    held_out: Sequence[Problem]
    """Problems that training never sees, for measuring accuracy."""

    def draw(self, count: int, rng: random.Random) -> list[Problem]:
        """Return `count` training problems, all different as far as there are enough."""
        ...

    def grade(self, problems: Sequence[Problem], completions: Sequence[str]) -> Sequence[float]:
        """Return 1.0 for each right completion and 0.0 for each wrong one: the held-out accuracy, and the default reward."""
        ...

    def note(self, problems: Sequence[Problem], completions: Sequence[str]) -> None:
        """Take note of a step's samples, or don't: a task may draw by what went wrong. Called again when a run resumes."""
        ...


class Addition:
    """What is a + b? Two numbers from 0 to `largest`, answered with just the number.

    The held-out problems share no unordered pair with the training problems: who has seen 3 + 5 has seen 5 + 3.

    Args:
        largest: the largest number of a problem.
        held_out: how many unordered pairs are held out.
        seed: decides which pairs; it is not the loop's seed, so that every run is measured on the same problems.

    Raises:
        ValueError: there are not enough pairs for both sets.
    """

    name = "addition"

    def __init__(self, largest: int = 20, held_out: int = 64, seed: int = 0):
        pairs = [(a, b) for a in range(largest + 1) for b in range(a, largest + 1)]
        if not 0 < held_out < len(pairs):
            raise ValueError(
                f"held_out is {held_out}, but numbers up to {largest} make {len(pairs)} unordered pairs:"
                f" hold out between 1 and {len(pairs) - 1}."
            )
        random.Random(seed).shuffle(pairs)
        self.held_out: Sequence[Problem] = [_sum(a, b) for a, b in pairs[:held_out]]
        training = pairs[held_out:]
        self.training = [_sum(*pair) for pair in training + [(b, a) for a, b in training if a != b]]

    def draw(self, count: int, rng: random.Random) -> list[Problem]:
        """Return `count` training problems, all different as far as there are enough."""
        rounds, rest = divmod(count, len(self.training))
        return self.training * rounds + rng.sample(self.training, rest)

    def grade(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
        """Return 1.0 where the last number in the completion is the sum, else 0.0."""
        return number_match(problems, completions)

    def note(self, problems: Sequence[Problem], completions: Sequence[str]) -> None:
        """Do nothing: every draw is a fresh one."""

    def __repr__(self) -> str:
        return f"Addition({len(self.training)} training problems, {len(self.held_out)} held out)"


def _sum(a: int, b: int) -> Problem:
    return Problem(f"What is {a}+{b}? Answer with just the number.", str(a + b))


class Rehearsal:
    """A task that comes back to what went wrong.

    A policy that solves nine problems of ten learns nothing from most of its samples, because all samples of a solved
    problem are alike. So a part of each draw are problems whose last samples were not all right, and the rest is drawn as
    ever. (Prioritised sampling by outcome, as in Schaul et al., arXiv 1511.05952, in its plainest form.)

    Args:
        task: where the problems come from.
        share: of each draw that is rehearsed, as far as there is something to rehearse.
    """

    def __init__(self, task: Task, share: float = 0.5):
        if not 0 <= share <= 1:
            raise ValueError(f"share is {share}; it must be from 0 to 1.")
        self.task, self.share, self.name = task, share, task.name
        self.held_out = task.held_out
        self._open: dict[Problem, None] = {}  # in the order in which they went wrong, so that a seed decides the draw

    def draw(self, count: int, rng: random.Random) -> list[Problem]:
        """Return `count` training problems, some of them again."""
        again = rng.sample(list(self._open), min(len(self._open), int(count * self.share)))
        fresh = [problem for problem in self.task.draw(count, rng) if problem not in again]
        return (again + fresh)[:count]

    def grade(self, problems: Sequence[Problem], completions: Sequence[str]) -> Sequence[float]:
        """Return the task's own grades."""
        return self.task.grade(problems, completions)

    def note(self, problems: Sequence[Problem], completions: Sequence[str]) -> None:
        """Remember which problems went wrong; those that went well all the time are done with."""
        for problem in problems:
            self._open.pop(problem, None)
        for problem, grade in zip(problems, self.grade(problems, completions), strict=True):
            if grade < 1:
                self._open[problem] = None

    def __repr__(self) -> str:
        return f"Rehearsal({self.task!r}, {len(self._open)} open)"
