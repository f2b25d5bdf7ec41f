"""A result as a notebook and a terminal show it.

The HTML has inline styles alone, in the colours that an untrusted notebook keeps (hex and rgba()): tints that are see-through
and text in the page's own colour, so that it reads on a light page and on a dark one. No script, no SVG.
"""

import base64
import html
import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from course_lib.grading.judge import PartResult, Result

_GREEN, _ORANGE, _GREY = "#009E73", "#D55E00", "#8A8F98"
_TINTS = {"✓": "rgba(0, 158, 115, 0.12)", "✗": "rgba(213, 94, 0, 0.14)", "○": "rgba(127, 127, 127, 0.10)"}
_LINE = "1px solid rgba(127, 127, 127, 0.35)"
_NOT_STARTED = "not-started"


def result_text(result: "Result") -> str:
    """Return the result for a terminal."""
    exercise = result.exercise
    lines = [f"{exercise.id} {exercise.title}: {result.earned} of {result.points} points"]
    for part in result.parts:
        lines.append(f"  {sign(part)} {part.earned} of {part.points}  {part.asks}")
        if part.diagnosis and result.started:
            message = textwrap.fill(f"{part.diagnosis}: {part.message}", 100, break_long_words=False)
            lines.append(textwrap.indent(message, "      "))
    if not result.started:
        lines.append(f"  {result.parts[0].message if result.parts else ''}")
    return "\n".join(lines)


def result_html(result: "Result") -> str:
    """Return the result for a notebook."""
    exercise = result.exercise
    colour = _GREEN if result.solved else _ORANGE if result.started else _GREY
    verdict = "solved" if result.solved else "not solved yet" if result.started else "not started"
    share = round(100 * result.earned / result.points) if result.points else 0
    head = (
        f'<span style="float: right;"><b>{result.earned}</b> of {result.points} points</span>'
        f'<b>{html.escape(exercise.title)}</b>: <span style="color: {colour};"><b>{verdict}</b></span>'
    )
    bar = (
        '<div style="height: 6px; margin: 8px 0px; background-color: rgba(127, 127, 127, 0.25); border-radius: 3px;">'
        f'<div style="height: 6px; width: {share}%; background-color: {colour}; border-radius: 3px;"></div></div>'
    )
    parts = "".join(part_html(part, explain=result.started) for part in result.parts)
    if not result.started and result.parts:
        parts += f'<div style="margin: 8px 0px 0px 8px;">{html.escape(result.parts[0].message)}</div>'
    return (
        f'<div style="border: {_LINE}; border-left: 5px solid {colour}; border-radius: 4px; padding: 10px 14px; '
        f'margin: 4px 0px; max-width: 880px; line-height: 1.45;">{head}{bar}{parts}</div>'
    )


def part_html(part: "PartResult", *, explain: bool = True) -> str:
    """Return one part: what is asked, points, and where it is wrong why, with the counterexample drawn."""
    mark = sign(part)
    said = (
        f'<span style="float: right; margin-left: 12px;">{part.earned} of {part.points}</span>'
        f"{mark} {html.escape(part.asks)}"
    )
    if part.diagnosis and explain:
        said += (
            f'<div style="margin: 4px 0px 2px 18px;"><b>{html.escape(part.diagnosis)}.</b> '
            f"{html.escape(part.message).replace(chr(10), '<br>')}</div>"
        )
        if drawn := picture_html(part.picture):
            said += f'<div style="margin: 8px 0px 4px 18px; overflow-x: auto;">{drawn}</div>'
    return f'<div style="padding: 6px 10px; margin: 4px 0px; background-color: {_TINTS[mark]};">{said}</div>'


def sign(part: "PartResult") -> str:
    """Return ✓ for a part that is right, ○ for one that is not written yet and ✗ for one that is wrong."""
    return "✗" if part.diagnosis not in ("", _NOT_STARTED) else "○" if part.diagnosis else "✓"


def picture_html(picture: Any) -> str:
    """Return a counterexample's drawing as HTML that is complete in itself; a picture that fails to draw is left out."""
    if picture is None or isinstance(picture, str):
        return picture or ""  # already HTML: a result that came from another process
    try:
        bundle = _bundle(picture)
    except Exception:  # noqa: BLE001  a diagnosis without its picture is better than no diagnosis
        return ""
    if "text/html" in bundle:
        return str(bundle["text/html"])
    if "image/png" in bundle:
        return (
            f'<img alt="the counterexample" style="max-width: 100%;" src="data:image/png;base64,{bundle["image/png"]}">'
        )
    return f"<pre>{html.escape(repr(picture))}</pre>"


def _bundle(picture: Any) -> dict[str, Any]:
    """Return what an object shows in a notebook: its HTML and its PNG in base64, those that it has."""
    found: dict[str, Any] = {}
    if hasattr(picture, "_repr_mimebundle_"):
        shown = picture._repr_mimebundle_()
        found |= shown[0] if isinstance(shown, tuple) else shown
    if hasattr(picture, "_repr_html_") and (text := picture._repr_html_()):
        found["text/html"] = text
    if hasattr(picture, "_repr_png_") and (image := picture._repr_png_()):
        found["image/png"] = image[0] if isinstance(image, tuple) else image
    if isinstance(found.get("image/png"), bytes):
        found["image/png"] = base64.b64encode(found["image/png"]).decode()
    return found
