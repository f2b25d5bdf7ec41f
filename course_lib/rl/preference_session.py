"""A person's comparisons, one after the other: what is next, what was chosen, and back."""

from collections.abc import Sequence
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args

from course_lib.rl.preference_pairs import Pair, append_line, read_lines, remove_line
from course_lib.training.preferences import Preference

Choice = Literal["left", "right", "equal"]


class PreferenceSession:
    """Goes through pairs and keeps each choice on the disk, so that it can stop at any moment and go on later.

    A preferred answer goes to the file as a `Preference`, which `training.read_preferences` reads. A pair whose answers are
    equally good, or that one can't judge, says nothing to a reward model: it goes to a file of its own beside it,
    `<name>.equal.jsonl`, so that it is not asked again.

    Args:
        pairs: what to compare: question, left answer, right answer.
        path: the file of preferences; made with the first choice.

    Raises:
        ValueError: there are no pairs, two are the same, or a pair's answers are the same or empty.
    """

    def __init__(self, pairs: Sequence[Pair], path: str | PathLike[str]):
        if not pairs:
            raise ValueError("there are no pairs to compare; preference_pairs() makes some of a batch's samples.")
        for question, left, right in pairs:
            Preference(question, left, right)
        places = {_key(*pair): place for place, pair in enumerate(pairs)}
        if len(places) < len(pairs):
            raise ValueError(f"{len(pairs) - len(places)} of the {len(pairs)} pairs come twice; give each once.")
        self.pairs, self.path = list(pairs), Path(path)
        self.equal_path = self.path.with_name(f"{self.path.stem}.equal.jsonl")
        self._choices: dict[int, Choice] = {}
        for record in [*read_lines(self.path), *read_lines(self.equal_path)]:
            found = self._read(record, places)
            if found is not None:
                self._choices[found[0]] = found[1]
        self._order = sorted(self._choices)

    @property
    def current(self) -> int | None:
        """The number of the pair to judge now, or None where all are judged."""
        return next((place for place in range(len(self.pairs)) if place not in self._choices), None)

    @property
    def counts(self) -> dict[Choice, int]:
        """How many pairs got each choice."""
        given = list(self._choices.values())
        return {choice: given.count(choice) for choice in get_args(Choice)}

    @property
    def last(self) -> tuple[int, Choice] | None:
        """The number of the pair that was judged last, and its choice: what `undo` takes back."""
        return (self._order[-1], self._choices[self._order[-1]]) if self._order else None

    def choose(self, choice: Choice) -> None:
        """Judge the current pair; it is on the disk when this returns.

        Raises:
            ValueError: no such choice, or there is no pair left.
            OSError: the file can't be written; the pair is not judged.
        """
        if choice not in get_args(Choice):
            raise ValueError(f"the choice is {choice!r}; expected one of {', '.join(get_args(Choice))}.")
        place = self.current
        if place is None:
            raise ValueError(f"all {len(self.pairs)} pairs are judged; undo() takes the last one back.")
        append_line(*self._line(place, choice))
        self._choices[place] = choice
        self._order.append(place)

    def undo(self) -> None:
        """Take the last choice back, from the disk too; its pair is the current one again. Nothing happens where there is none.

        Raises:
            OSError: the file can't be written; the choice stands.
        """
        if self.last is not None:
            place, choice = self.last
            remove_line(*self._line(place, choice))
            self._order.pop()
            del self._choices[place]

    def __repr__(self) -> str:
        return f"PreferenceSession({self.path.name}, {len(self._choices)} of {len(self.pairs)} pairs judged)"

    def _line(self, place: int, choice: Choice) -> tuple[Path, dict[str, Any]]:
        question, left, right = self.pairs[place]
        if choice == "equal":
            return self.equal_path, {"prompt": question, "left": left, "right": right}
        chosen, rejected = (left, right) if choice == "left" else (right, left)
        return self.path, asdict(Preference(question, chosen, rejected))

    def _read(self, record: dict[str, Any], places: dict[Any, int]) -> tuple[int, Choice] | None:
        """Return which of the pairs a line is about, and its choice; None for a line about another pair."""
        question = record.get("prompt", "")
        if "chosen" in record:
            place = places.get(_key(question, record["chosen"], record.get("rejected", "")))
            return None if place is None else (place, "left" if self.pairs[place][1] == record["chosen"] else "right")
        place = places.get(_key(question, record.get("left", ""), record.get("right", "")))
        return None if place is None else (place, "equal")


def _key(question: str, a: str, b: str) -> tuple[str, frozenset[str]]:
    """Return what makes a pair the same one, whichever side its answers are on."""
    return question, frozenset((a, b))
