"""Preference pairs: what a file says, what is wrong with it, and the judge that the course makes up."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.training import Preference, read_preferences, synthetic_preferences, write_preferences
from course_lib.training.preferences import KINDS

TEXT = st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip)
PREFERENCES = (
    st.tuples(TEXT, TEXT, TEXT).filter(lambda texts: texts[1] != texts[2]).map(lambda texts: Preference(*texts))
)
GOOD = '{"prompt": "p", "chosen": "a", "rejected": "b"}'


@settings(max_examples=50, deadline=None)
@given(preferences=st.lists(PREFERENCES, min_size=1, max_size=5))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, preferences: list[Preference]) -> None:
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    write_preferences(path, preferences)
    assert read_preferences(path) == preferences
    assert len(path.read_bytes().strip(b"\n").split(b"\n")) == len(preferences)


def test_empty_lines_and_further_keys_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n" + GOOD + "\n\n" + json.dumps(json.loads(GOOD) | {"judge": "me"}))
    assert read_preferences(path) == [Preference("p", "a", "b")] * 2


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "is not JSON"),
        ("[1]", r"is \[1\]; expected an object"),
        ('{"prompt": "p", "chosen": "a"}', "has no rejected; it has prompt, chosen"),
        ('{"prompt": "p", "chosen": "a", "rejected": 5}', "`rejected` is 5"),
        ('{"prompt": " ", "chosen": "a", "rejected": "b"}', "`prompt` is ' '"),
        ('{"prompt": "p", "chosen": "a", "rejected": "a"}', "the same text"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(f"{GOOD}\n\n{line}\n{GOOD}\n")
    with pytest.raises(ValueError, match=rf"^pairs\.jsonl, line 3: .*{reason}"):
        read_preferences(path)


def test_no_file_and_an_empty_one_are_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_preferences(tmp_path / "pairs.jsonl")
    (tmp_path / "pairs.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="holds no preferences"):
        read_preferences(tmp_path / "pairs.jsonl")


@settings(max_examples=30)
@given(st.integers(1, 300), st.integers(0, 5))
def test_the_made_up_judge_wants_additions_right_and_short(count: int, seed: int) -> None:
    preferences = synthetic_preferences(count, seed)
    assert preferences == synthetic_preferences(count, seed)
    assert len({preference.prompt for preference in preferences}) == count
    for index, pair in enumerate(preferences):
        a, b = map(int, pair.prompt.removeprefix("What is ").removesuffix("?").split("+"))
        assert pair.chosen == f"{a} + {b} = {a + b}."
        match KINDS[index % len(KINDS)]:
            case "wrong sum":
                left, wrong = pair.rejected.removesuffix(".").split(" = ")
                assert left == f"{a} + {b}" and int(wrong) != a + b
            case "another sum":
                left, total = pair.rejected.removesuffix(".").split(" = ")
                others = sorted(map(int, left.split(" + ")))
                assert others != sorted((a, b)) and sum(others) == int(total)
            case "refusal":
                assert not any(letter.isdigit() for letter in pair.rejected)
            case "rambling":
                assert pair.chosen in pair.rejected and len(pair.rejected) > 5 * len(pair.chosen)
