"""Small instruction data with a checkable answer: additions, answered as "7 + 5 = 12."."""

import random

from course_lib.training.chat import Message

LARGEST = 50


def additions(count: int, seed: int = 0) -> list[tuple[int, int]]:
    """Return `count` pairs of numbers from 0 to 50 that share no unordered pair, so that any cut of them is held out.

    Raises:
        ValueError: `count` is below 1 or above the number of unordered pairs.
    """
    pairs = [(a, b) for a in range(LARGEST + 1) for b in range(a, LARGEST + 1)]
    if not 1 <= count <= len(pairs):
        raise ValueError(f"count is {count}; numbers up to {LARGEST} make from 1 to {len(pairs)} different additions.")
    chance = random.Random(seed)
    return [(a, b) if chance.random() < 0.5 else (b, a) for a, b in chance.sample(pairs, count)]


def question(a: int, b: int) -> str:
    """Return how an addition is asked."""
    return f"What is {a}+{b}?"


def statement(a: int, b: int, result: int) -> str:
    """Return how an addition is answered: restated before the sum, as a small model needs it to add well."""
    return f"{a} + {b} = {result}."


def addition_conversations(count: int, seed: int = 0) -> list[list[Message]]:
    """Return `count` conversations, each an addition and its answer in one fixed form, such as "7 + 5 = 12.".

    No two share an unordered pair of numbers: hold out any of them. Whether a policy has learned the form and the sum
    shows in its greedy answer, which is then the conversation's last message, letter for letter.

    Raises:
        ValueError: `count` is below 1, or above 1326, the number of pairs.
    """
    return [
        [{"role": "user", "content": question(a, b)}, {"role": "assistant", "content": statement(a, b, a + b)}]
        for a, b in additions(count, seed)
    ]
