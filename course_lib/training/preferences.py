"""Preference pairs: which of two answers to a prompt somebody would rather have."""

import json
import random
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from os import PathLike
from pathlib import Path

from course_lib.training.addition import LARGEST, additions, question, statement

_OPENERS = (
    "That is a very good question, and I am happy that you asked it. ",
    "Well, adding numbers is something that people have done for a very long time. ",
    "There are many ways to think about this, and I would like to tell you about them. ",
)
_REFUSALS = (
    "I am not sure about that.",
    "That depends on what you mean by it.",
    "I would rather talk about something else.",
)
_CLOSERS = (
    " Let me know if you have any other questions about numbers, and I will gladly go on.",
    " Of course, one could say much more about addition, its history and its many uses.",
    " I hope that this helps you, and that you have a wonderful rest of your day.",
)


@dataclass(frozen=True)
class Preference:
    """One comparison: of two answers to a user's message, `chosen` was preferred to `rejected`."""

    prompt: str
    chosen: str
    rejected: str

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, str) or not value.strip():
                raise ValueError(f"`{field.name}` is {value!r}; it must be text, and not empty.")
        if self.chosen == self.rejected:
            raise ValueError(f"`chosen` and `rejected` are the same text, {self.chosen!r}; a pair has to differ.")


def write_preferences(path: str | PathLike[str], preferences: Iterable[Preference]) -> None:
    """Write preferences as JSON lines: one object a line with `prompt`, `chosen` and `rejected`."""
    lines = [json.dumps(asdict(preference), ensure_ascii=False) + "\n" for preference in preferences]
    Path(path).write_text("".join(lines), encoding="utf-8")


def read_preferences(path: str | PathLike[str]) -> list[Preference]:
    """Return the preferences of a file of JSON lines; empty lines and further keys are passed over.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is no preference, or there is none; the message gives file and line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; write_preferences() makes one.")
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if line.strip():
            try:
                found.append(_parse(line))
            except ValueError as error:
                raise ValueError(f"{path.name}, line {number}: {error}") from error
    if not found:
        raise ValueError(f"{path.name} holds no preferences; give one JSON object a line.")
    return found


def _parse(line: str) -> Preference:
    keys = [field.name for field in fields(Preference)]
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON ({error.msg} at column {error.colno}).") from error
    if not isinstance(value, dict):
        raise ValueError(f"is {value!r:.60}; expected an object with {', '.join(keys)}.")  # noqa: TRY004 (the file's fault)
    missing = [key for key in keys if key not in value]
    if missing:
        raise ValueError(f"has no {', '.join(missing)}; it has {', '.join(value) or 'nothing'}.")
    return Preference(**{key: value[key] for key in keys})


KINDS = ("wrong sum", "another sum", "refusal", "rambling")
"""What is wrong with the rejected answer of `synthetic_preferences(...)[0]`, `[1]`, `[2]`, `[3]`, and again from `[4]`."""


def synthetic_preferences(count: int, seed: int = 0) -> list[Preference]:
    """Return `count` preferences of a judge who wants additions answered, right and short.

    The prompts are additions, no two of the same two numbers, so that any cut of the list is held out. Every chosen answer
    is the bare right statement ("7 + 5 = 12."). The rejected ones take turns, in the order of `KINDS`: a wrong sum, mostly
    far off ("7 + 5 = 61."); a right statement that answers another question ("20 + 3 = 23."); a refusal; and the right
    statement with talk around it.

    The kinds are not equally hard: manner shows in any token, while to tell a wrong sum one has to add. Measure them apart
    (`held_out[0::4]` and so on): a reward model of one number a pair is good at what is easy before it is good at the rest.

    Raises:
        ValueError: `count` is below 1, or above the number of different additions.
    """
    chance = random.Random(f"preferences {seed}")
    sums = additions(count, seed)
    return [
        Preference(question(a, b), statement(a, b, a + b), _rejected(KINDS[index % len(KINDS)], (a, b), chance))
        for index, (a, b) in enumerate(sums)
    ]


def _rejected(kind: str, sum_of: tuple[int, int], chance: random.Random) -> str:
    a, b = sum_of
    if kind == "wrong sum":
        return statement(a, b, chance.choice([other for other in range(2 * LARGEST + 1) if other != a + b]))
    if kind == "another sum":
        others = [pair for pair in additions(4, chance.randrange(10**6)) if sorted(pair) != sorted(sum_of)]
        return statement(*others[0], sum(others[0]))
    if kind == "refusal":
        return chance.choice(_REFUSALS)
    return chance.choice(_OPENERS) + statement(a, b, a + b) + chance.choice(_CLOSERS)
