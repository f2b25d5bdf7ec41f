"""A person as the judge: two answers side by side, a choice, and the next pair."""

from collections.abc import Sequence
from os import PathLike
from textwrap import wrap
from typing import Any

from course_lib.rl.preference_pairs import Pair
from course_lib.rl.preference_session import Choice, PreferenceSession
from course_lib.viz.picture import WIDTH, Picture, bundle, sheet, stylesheet, write
from course_lib.viz.theme import COLORS, CourseFigure

_COLUMN = 58  # characters of an answer's line in the static form
_LINES = 12
_TOLD: dict[Choice, str] = {"left": "left is better", "right": "right is better", "equal": "equal, or not to be judged"}


def collect_preferences(pairs: Sequence[Pair], path: str | PathLike[str]) -> "PreferenceWidget":
    """Return a widget in which a person compares answers, by mouse or by keyboard.

    Every choice is on the disk before the next pair is shown. Run the cell again, today or tomorrow, and it goes on where it
    stopped. `training.read_preferences(path)` gives what was chosen, and `RewardTrainer.step` learns from it.

    Args:
        pairs: question, left answer, right answer: see `rl.preference_pairs.preference_pairs`.
        path: the file of preferences; pairs that were called equal go to `<name>.equal.jsonl` beside it.

    Raises:
        ValueError: there are no pairs, two are the same, or a pair's answers are the same or empty.
    """
    return PreferenceWidget(PreferenceSession(pairs, path))


class PreferenceWidget(Picture):
    """The widget that `collect_preferences` returns.

    Args:
        session: keeps the choices.
    """

    _esm = bundle("preference.mjs")
    _css = stylesheet("preference.css")

    def __init__(self, session: PreferenceSession):
        self.session = session
        super().__init__(payload=self._state())
        self.on_msg(self._received)

    def choose(self, choice: Choice) -> None:
        """Judge the current pair, as a click does.

        Raises:
            ValueError: no such choice, or there is no pair left.
            OSError: the file can't be written; the pair is not judged.
        """
        self.session.choose(choice)
        self.payload = self._state()

    def undo(self) -> None:
        """Take the last choice back, as a click does.

        Raises:
            OSError: the file can't be written; the choice stands.
        """
        self.session.undo()
        self.payload = self._state()

    def figure(self) -> CourseFigure:
        """Return the current pair, side by side."""
        state = self.payload
        question = _shortened(state["question"], 2 * _COLUMN, 3)
        sides = [_shortened(state[name], _COLUMN, _LINES) for name in ("left", "right")]
        top = 0.95 + 0.2 * len(question)
        with sheet(top + 0.55 + 0.19 * max(map(len, sides)), state["title"]) as (figure, axes):
            write(axes, 0.2, 0.52, self._progress(), 9, color=COLORS["grey"])
            for place, line in enumerate(question):
                write(axes, 0.2, 0.85 + 0.2 * place, line, 9.5, fontweight="bold")
            for column, (name, lines) in enumerate(zip(("Left", "Right"), sides, strict=True)):
                x = 0.2 + column * WIDTH / 2
                if lines:
                    write(axes, x, top, name, 9, color=COLORS["blue"], fontweight="bold")
                for place, line in enumerate(lines):
                    write(axes, x, top + 0.25 + 0.19 * place, line, 8.5)
        return figure

    def words(self) -> str:
        """Return the current pair in words."""
        state = self.payload
        lines = [state["title"], f"  {self._progress()}"]
        if state["current"] is not None:
            lines += [f"  {name}: {state[name]}" for name in ("question", "left", "right")]
        return "\n".join(lines)

    def _progress(self) -> str:
        state = self.payload
        counts = ", ".join(f"{count} {choice}" for choice, count in state["counts"].items())
        return f"{state['judged']} of {state['total']} pairs judged ({counts}), kept in {self.session.path.name}"

    def _state(self, error: str = "") -> dict[str, Any]:
        """Return what the page shows."""
        session, place = self.session, self.session.current
        question, left, right = ("", "", "") if place is None else session.pairs[place]
        return {
            "title": "Which answer is better?",
            "total": len(session.pairs),
            "judged": sum(session.counts.values()),
            "counts": session.counts,
            "current": place,
            "question": question,
            "left": left,
            "right": right,
            "told": self._told(),
            "error": error,
        }

    def _told(self) -> str:
        session = self.session
        if session.current is None:
            counts = session.counts
            return f"{counts['left'] + counts['right']} preferences are in {session.path.name}. Thank you!"
        if session.last is None:
            return f"Choices go to {session.path.name}, each at once. Click, or use the keys that the buttons show."
        place, choice = session.last
        return f"Kept: pair {place + 1}, {_TOLD[choice]}."

    def _received(self, _widget: Any, content: Any, _buffers: Any) -> None:
        """Take a choice from the page; one about a pair that is not the current one was made twice, and counts once."""
        asked, error = content.get("choice"), ""
        if content.get("pair") == self.session.current:
            try:
                if asked == "undo":
                    self.session.undo()
                else:
                    self.session.choose(asked)
            except (OSError, ValueError) as problem:
                error = f"Not kept: {problem}"
        self.payload = self._state(error)
        self.send_state("payload")  # even where nothing has changed: the page waits for an answer


def _shortened(text: str, width: int, most: int) -> list[str]:
    """Return a text in lines, with three dots after the last one that there is room for."""
    lines = [part for line in text.splitlines() for part in (wrap(line, width) or [""])]
    return lines if len(lines) <= most else [*lines[: most - 1], "..."]
