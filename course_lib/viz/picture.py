"""Interactive pictures: a widget where it can run, and everywhere else a PNG and words.

A notebook that was just cloned is untrusted: JupyterLab shows none of its widgets. GitHub shows none at all. So a picture
puts three forms into a cell's output, and whoever shows it takes the best that it can.
"""

import base64
import html
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import anywidget
import matplotlib as mpl
import traitlets
from matplotlib.axes import Axes
from matplotlib.font_manager import findfont, get_font
from matplotlib.text import Text

from course_lib.viz.theme import COLORS, CourseFigure, new_figure

WIDTH = 9.0
"""Inches of a static form."""
ASSETS = Path(__file__).parent / "assets"
OWNER_COLORS = [COLORS[name] for name in ("blue", "orange", "green", "purple", "vermillion", "sky")]
"""The colours of requests, in the order of their first appearance; the seventh has the first one's again."""
OWNER_INKS = ["#FFFFFF", *["#111111"] * 5]
"""What can be read on each of them: a contrast of at least 5 to 1."""

_IMPORT = re.compile(r'^import \{[^}]*\} from "\./([\w.]+)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=function|const)", re.MULTILINE)
_DEFAULT = "export default { render };"
_Event = TypeVar("_Event")


def bundle(asset: str) -> str:
    """Return an ES module of `assets/` as one file: those that it imports are written out before it.

    The widget manager loads a widget's code from a string, in which a path next to it means nothing.
    """
    sources: dict[str, str] = {}

    def collect(name: str) -> None:
        if name not in sources:
            source = (ASSETS / name).read_text(encoding="utf-8")
            for imported in _IMPORT.findall(source):
                collect(imported)
            sources[name] = _EXPORT.sub("", _IMPORT.sub("", source))

    collect(asset)
    return "".join(sources.values())


def stylesheet(*more: str) -> str:
    """Return the pictures' CSS, with the theme's colours as variables, and that of `more` assets."""
    colors = "".join(
        f"--owner-{place}: {color}; --ink-{place}: {ink}; "
        for place, (color, ink) in enumerate(zip(OWNER_COLORS, OWNER_INKS, strict=True))
    )
    sheets = ((ASSETS / name).read_text(encoding="utf-8") for name in ("picture.css", *more))
    return "".join([f".course-picture {{ {colors}}}\n", *sheets])


def pack(data: Any, level: int = 9) -> str:
    """Return data as compressed JSON in base64: a step is much like the one before it, so a tenth of the bytes remains.

    Args:
        data: JSON-ready values; an object stands for its attributes.
        level: how hard to press, 1 (fast) to 9 (small).
    """
    text = json.dumps(data, default=vars, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode("utf-8"), level)).decode("ascii")


def unpack(packed: str) -> Any:
    """Return what `pack` packed."""
    return json.loads(zlib.decompress(base64.b64decode(packed)))


def mimebundle(view: Any, words: str, figure: CourseFigure) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a cell's output: the widget's view, and beside it the PNG and the words for those who can't show it.

    Args:
        view: what the widget's own `_repr_mimebundle_` returned: data, or data and metadata.
        words: the picture in words.
        figure: the picture that does not move.
    """
    data, metadata = view if isinstance(view, tuple) else (view or {}, {})
    png, size = figure._repr_png_()
    static = {"image/png": base64.b64encode(png).decode("ascii"), "text/plain": words}
    return {**data, **static}, {**metadata, "image/png": size}


def key_frames(events: Sequence[_Event], important: Sequence[bool], limit: int) -> list[int]:
    """Return the places of at most `limit` events that tell the story: the first, the last, important ones, and some between.

    Args:
        events: all events.
        important: for each whether it is one to see.
        limit: how many to take, 2 or more.
    """
    last = len(events) - 1
    chosen = {0, last}
    marked = [place for place in range(last + 1) if important[place]]
    # Important ones get half of the room, so that what led to them is seen too.
    for candidates, most in ((marked, (limit + 1) // 2), (range(last + 1), limit)):
        rest = [place for place in candidates if place not in chosen]
        room = min(most, limit - len(chosen))
        # Spread over the whole time where there are more than there is room for.
        chosen |= (
            {rest[(2 * step + 1) * len(rest) // (2 * room)] for step in range(room)} if len(rest) > room else set(rest)
        )
    return sorted(chosen)


@contextmanager
def sheet(height: float, title: str = "") -> Iterator[tuple[CourseFigure, Axes]]:
    """Yield a figure `WIDTH` by `height` inches, and axes on all of it that count inches from its upper left corner."""
    # A token may be a dollar sign, which begins a formula everywhere else.
    with new_figure(WIDTH, height) as figure, mpl.rc_context({"text.parse_math": False}):
        figure.set_layout_engine("none")
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, WIDTH), ylim=(height, 0))
        axes.axis("off")
        write(axes, 0.2, 0.23, title, 11, fontweight="bold")
        yield figure, axes


def write(axes: Axes, x: float, y: float, text: str, size: float = 8, **look: Any) -> Text:
    """Write on a sheet; `y` is the middle of the line.

    What the plots' font has no sign for becomes a box: matplotlib would warn of each at length.
    """
    font = get_font(findfont("DejaVu Sans"))
    shown = "".join(char if font.get_char_index(ord(char)) else "□" for char in text)
    return axes.text(x, y, shown, va="center", fontsize=size, clip_on=True, **look)


class Picture(anywidget.AnyWidget):
    """An interactive picture with a static form.

    A subclass sets `_esm` to its bundled code and says what its `figure()` and `words()` are.

    Attributes:
        payload: all that the picture shows, as JSON; a new one redraws it.
        frame: the event that the slider stands at, from 0.
    """

    _css = stylesheet()
    payload = traitlets.Dict().tag(sync=True)
    frame = traitlets.Int(0).tag(sync=True)

    def figure(self) -> CourseFigure:
        """Return the picture's static form."""
        raise NotImplementedError

    def words(self) -> str:
        """Return the picture in words, for a terminal and for a reader who can't see it."""
        raise NotImplementedError

    def to_html(self, path: str | Path) -> Path:
        """Write the interactive picture as a web page of its own, which needs neither a kernel nor a network.

        Args:
            path: the file to write.

        Returns:
            The same path.
        """
        state = json.dumps({"payload": self.payload, "frame": self.frame}).replace("<", "\\u003c")
        page = (ASSETS / "page.html").read_text(encoding="utf-8")
        parts = {
            "TITLE": html.escape(self.payload.get("title") or "Picture"),
            "STYLE": str(self._css),
            "STATE": state,
            "CODE": str(self._esm).replace(_DEFAULT, ""),
        }
        # One pass over the page, so that no part's text is taken for a place of another part.
        written = re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], page)
        target = Path(path)
        target.write_text(written, encoding="utf-8")
        return target

    def __repr__(self) -> str:
        return self.words()

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        return mimebundle(super()._repr_mimebundle_(**kwargs), self.words(), self.figure())
