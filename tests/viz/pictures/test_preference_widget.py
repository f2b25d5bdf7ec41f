"""The preference widget, without a kernel and without a person: what a click sends, and what Python makes of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from course_lib.training import read_preferences
from course_lib.viz import collect_preferences
from course_lib.viz.preference_widget import PreferenceWidget

HOSTILE = "<img src=x onerror=alert(1)> $x$ \u2028 & </script>"
PAIRS = [("What is 1+1?", "2", "3"), (HOSTILE, "long " * 400, HOSTILE), ("q", "a\n" * 50, "b")]
KEYS = {"left": ["ArrowLeft", "1"], "right": ["ArrowRight", "2"], "equal": ["=", "0"], "undo": ["Backspace", "u"]}


@pytest.fixture
def widget(tmp_path: Path) -> PreferenceWidget:
    return collect_preferences(PAIRS, tmp_path / "chosen.jsonl")


def click(widget: PreferenceWidget, choice: str, pair: int | None) -> dict[str, Any]:
    """Send what the page sends, the way that it comes in; return what the page is then shown."""
    widget._handle_custom_msg({"choice": choice, "pair": pair}, [])
    return widget.payload


def test_clicks_are_on_the_disk_at_once(widget: PreferenceWidget, tmp_path: Path) -> None:
    assert click(widget, "right", 0)["current"] == 1
    assert [one.chosen for one in read_preferences(tmp_path / "chosen.jsonl")] == ["3"]
    click(widget, "equal", 1)
    shown = click(widget, "left", 2)
    assert (shown["current"], shown["judged"]) == (None, 3)
    assert shown["counts"] == {"left": 1, "right": 1, "equal": 1}
    assert "2 preferences are in chosen.jsonl" in shown["told"]
    assert click(widget, "undo", None)["current"] == 2
    assert [one.chosen for one in read_preferences(tmp_path / "chosen.jsonl")] == ["3"]


def test_it_goes_on_where_it_stopped(widget: PreferenceWidget, tmp_path: Path) -> None:
    widget.choose("left")
    widget.choose("equal")
    again = collect_preferences(PAIRS, tmp_path / "chosen.jsonl")
    assert again.payload == widget.payload
    assert again.payload["question"] == "q"
    again.undo()
    assert again.payload["current"] == 1


def test_a_choice_that_was_sent_twice_counts_once(widget: PreferenceWidget) -> None:
    click(widget, "left", 0)
    assert click(widget, "left", 0)["judged"] == 1
    assert click(widget, "undo", 0)["judged"] == 1


def test_every_message_is_answered(widget: PreferenceWidget, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page waits for it, even where nothing changes."""
    sent: list[Any] = []
    monkeypatch.setattr(PreferenceWidget, "send_state", lambda self, key=None: sent.append(key))
    click(widget, "left", 5)
    assert "payload" in sent


def test_a_disk_that_fails_is_said_in_the_widget(widget: PreferenceWidget, tmp_path: Path) -> None:
    (tmp_path / "chosen.jsonl").mkdir()
    shown = click(widget, "left", 0)
    assert shown["error"].startswith("Not kept: ") and shown["current"] == 0
    (tmp_path / "chosen.jsonl").rmdir()
    shown = click(widget, "left", 0)
    assert (shown["error"], shown["current"]) == ("", 1)
    assert "Not kept" in click(widget, "sideways", 1)["error"]


def test_keys(node: Callable[..., Any]) -> None:
    presses = [{"key": key} for keys in KEYS.values() for key in keys] + [
        {"key": "x"},
        {"key": "ArrowLeft", "ctrlKey": True},
    ]
    found = node("preference.mjs", "data.map((press) => asset.asked(press) ?? null)", presses)
    assert found == [choice for choice, keys in KEYS.items() for _ in keys] + [None, None]


def test_what_can_be_asked_for(node: Callable[..., Any], widget: PreferenceWidget) -> None:
    states = [widget.payload]
    for choice in ("left", "right", "equal"):
        states.append(click(widget, choice, widget.session.current))
    found = node("preference.mjs", "data.map((state) => [asset.possible(state), asset.place(state)])", states)
    choices = ["left", "right", "equal"]
    assert [can for can, _ in found] == [choices, [*choices, "undo"], [*choices, "undo"], ["undo"]]
    assert found[1][1] == "Pair 2 of 3 (1 left, 0 right, 0 equal)"
    assert found[3][1] == "All 3 pairs judged"


def test_a_saved_page_shows_the_pair_and_says_that_it_keeps_nothing(
    widget: PreferenceWidget, browser: Callable[..., Any], tmp_path: Path
) -> None:
    widget.choose("left")
    dom, complaints = browser(widget.to_html(tmp_path / "page.html"))
    assert complaints == []
    assert "To judge pairs, run this cell in a notebook." in dom
    assert "&lt;img src=x onerror=alert(1)&gt;" in dom  # text, and no element
    assert dom.count("disabled=") >= 4
    assert 'role="group"' in dom and 'aria-label="left answer"' in dom


def test_the_static_form(widget: PreferenceWidget) -> None:
    bundle, metadata = widget._repr_mimebundle_()
    assert bundle["text/plain"] == widget.words() == repr(widget)
    assert "0 of 3 pairs judged" in widget.words() and "What is 1+1?" in widget.words()
    assert len(bundle["image/png"]) > 1000
    for choice in ("left", "left"):
        widget.choose(choice)
        assert metadata["image/png"]["height"] <= widget.figure().get_size_inches()[1] * 100 < 450
    widget.choose("left")
    assert "All" not in widget.words() and "3 of 3 pairs judged" in widget.words()
    widget.figure()
