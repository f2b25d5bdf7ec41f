"""Pairs for a person to compare, the file of choices, and a session that can stop and go on at any moment."""

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from course_lib.rl import preference_pairs as module
from course_lib.rl.preference_pairs import append_preference, preference_pairs, read_lines
from course_lib.rl.preference_session import PreferenceSession
from course_lib.training import Preference, read_preferences

ROWS = st.lists(
    st.builds(
        lambda q, text: {"question": f"q{q}", "completion": text}, st.integers(0, 4), st.text("ab \n", max_size=3)
    ),
    max_size=30,
)
PAIRS = [(f"question {number}\n", f"left {number} ä", f'right "{number}"\u2028') for number in range(4)]


def all_pairs(rows: list[dict[str, str]]) -> set[tuple[str, frozenset[str]]]:
    return {
        (one["question"], frozenset((one["completion"], other["completion"])))
        for one in rows
        for other in rows
        if one["question"] == other["question"] and one["completion"] != other["completion"]
        if one["completion"].strip() and other["completion"].strip()
    }


@given(ROWS, st.integers(0, 9), st.data())
def test_pairs_are_different_answers_to_one_prompt(rows: list[dict[str, str]], seed: int, data: st.DataObject) -> None:
    possible = all_pairs(rows)
    if not possible:
        with pytest.raises(ValueError, match="have 0 pairs"):
            preference_pairs(rows, 1)
        return
    count = data.draw(st.integers(1, len(possible)))
    pairs = preference_pairs(rows, count, seed)
    found = {(question, frozenset((a, b))) for question, a, b in pairs}
    assert len(found) == len(pairs) == count
    assert found <= possible
    assert pairs == preference_pairs(rows, count, seed)
    # No prompt gets another pair while one that has more is behind it.
    asked, has = Counter(question for question, _, _ in pairs), Counter(question for question, _ in possible)
    assert all(asked[q] >= min(has[q], max(asked.values()) - 1) for q in has)
    with pytest.raises(ValueError, match=f"have {len(possible)} pairs"):
        preference_pairs(rows, len(possible) + 1)


def test_neither_side_is_that_of_the_first_sample() -> None:
    rows = [{"question": f"q{number}", "completion": text} for number in range(200) for text in ("first", "second")]
    lefts = Counter(left for _, left, _ in preference_pairs(rows, 200))
    assert 60 < lefts["first"] < 140


def test_pairs_of_a_batch(make_batch: Callable[..., Any]) -> None:
    batch = make_batch([1, 1, 1, 1], [0.0] * 4)
    batch.completions = ["a", "b", "c", "c"]
    assert [(question, {a, b}) for question, a, b in preference_pairs(batch, 1)] == [("question 0", {"a", "b"})]


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    given = [Preference(question, a, b) for question, a, b in PAIRS]
    for number, preference in enumerate(given, 1):
        append_preference(tmp_path / "new" / "p.jsonl", preference)
        assert read_preferences(tmp_path / "new" / "p.jsonl") == given[:number]


@given(cut=st.integers(0, 200))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_crash_in_the_middle_of_a_line_loses_that_line_only(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "p.jsonl"
    path.unlink(missing_ok=True)
    for question, a, b in PAIRS[:3]:
        append_preference(path, Preference(question, a, b))
    path.write_bytes(path.read_bytes()[:cut])
    whole = [line for line in path.read_bytes().split(b"\n") if is_json(line)]
    assert read_lines(path) == [json.loads(line) for line in whole]
    append_preference(path, Preference("q", "a", "b"))
    assert [vars(one) for one in read_preferences(path)] == [*map(json.loads, whole), vars(Preference("q", "a", "b"))]


def is_json(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = PreferenceSession(PAIRS, tmp_path / "p.jsonl")
    session.choose("left")
    before = (tmp_path / "p.jsonl").read_bytes()

    def full(_file: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        session.choose("right")
    assert (tmp_path / "p.jsonl").read_bytes() == before
    assert session.current == 1


class Judging(RuleBasedStateMachine):
    """A person who judges, takes back, and closes the notebook, against a list of what was chosen."""

    @initialize()
    def begin(self) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name, "p.jsonl")
        append_preference(self.path, Preference("of another day", "a", "b"))
        self.chosen: list[str] = []
        self.session = PreferenceSession(PAIRS, self.path)

    @precondition(lambda self: len(self.chosen) < len(PAIRS))
    @rule(choice=st.sampled_from(["left", "right", "equal"]))
    def choose(self, choice: Any) -> None:
        self.session.choose(choice)
        self.chosen.append(choice)

    @rule()
    def undo(self) -> None:
        self.session.undo()
        self.chosen = self.chosen[:-1]

    @rule(mirrored=st.booleans())
    def reopen(self, mirrored: bool) -> None:
        """In another order of sides too: which side an answer was on is no part of what was said."""
        pairs = [(question, b, a) for question, a, b in PAIRS] if mirrored else PAIRS
        again = PreferenceSession(pairs, self.path)
        swap = {"left": "right", "right": "left", "equal": "equal"} if mirrored else {}
        assert again.last == (len(self.chosen) - 1, swap.get(self.chosen[-1], self.chosen[-1])) if self.chosen else True
        self.session = PreferenceSession(PAIRS, self.path)

    @invariant()
    def the_disk_says_the_same(self) -> None:
        if not hasattr(self, "session"):
            return
        assert self.session.current == (len(self.chosen) if len(self.chosen) < len(PAIRS) else None)
        assert self.session.counts == {choice: self.chosen.count(choice) for choice in ("left", "right", "equal")}
        wanted = [Preference("of another day", "a", "b")]
        for (question, left, right), choice in zip(PAIRS, self.chosen, strict=False):
            if choice != "equal":
                wanted.append(Preference(question, *((left, right) if choice == "left" else (right, left))))
        assert read_preferences(self.path) == wanted

    def teardown(self) -> None:
        self.folder.cleanup()


Judging.TestCase.settings = settings(max_examples=30, stateful_step_count=12, deadline=None)
TestJudging = Judging.TestCase


def test_the_end_and_what_is_no_choice(tmp_path: Path) -> None:
    session = PreferenceSession(PAIRS[:1], tmp_path / "p.jsonl")
    with pytest.raises(ValueError, match="the choice is 'both'; expected one of left, right, equal"):
        session.choose("both")  # type: ignore[arg-type]
    session.choose("equal")
    with pytest.raises(ValueError, match=r"all 1 pairs are judged; undo\(\)"):
        session.choose("left")
    assert repr(session) == "PreferenceSession(p.jsonl, 1 of 1 pairs judged)"


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ([], "no pairs to compare"),
        ([("q", "a", "a")], "a pair has to differ"),
        ([("q", " ", "a")], "must be text, and not empty"),
        ([("q", "a", "b"), ("q", "b", "a")], "1 of the 2 pairs come twice"),
    ],
)
def test_bad_pairs(pairs: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        PreferenceSession(pairs, tmp_path / "p.jsonl")
