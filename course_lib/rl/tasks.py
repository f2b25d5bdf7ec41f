"""Tasks: where prompts come from, and what a right answer is."""

import random
from collections.abc import Sequence
from typing import Protocol

from course_lib.rl.problem import Problem
from course_lib.rl.rewards import number_match


class Task(Protocol):
    """What the loop needs of a task. Write your own by giving these four members."""

    name: str
    held_out: Sequence[Problem]
    """Problems that training never sees, for measuring accuracy."""

    def draw(self, count: int, rng: random.Random) -> list[Problem]:
        """Return `count` training problems, all different as far as there are enough."""
        ...

    def grade(self, problems: Sequence[Problem], completions: Sequence[str]) -> Sequence[float]:
        """Return 1.0 for each right completion and 0.0 for each wrong one: the held-out accuracy, and the default reward."""
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

    def __repr__(self) -> str:
        return f"Addition({len(self.training)} training problems, {len(self.held_out)} held out)"


def _sum(a: int, b: int) -> Problem:
    return Problem(f"What is {a}+{b}? Answer with just the number.", str(a + b))
