"""Tables of a run: its receipts, its answers before and after, its samples."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from course_lib.viz.series import Records

if TYPE_CHECKING:
    from course_lib.rl import Problem

Mark = Literal["", "right", "wrong"]
# An untrusted notebook keeps inline styles, but of colours only named ones, hex, rgb() and rgba(). Text has the page's own
# colour, and grounds are see-through tints, so that a table can be read on a light page and on a dark one.
_TINT = {
    "": "",
    "right": "background-color: rgba(0, 158, 115, 0.2);",
    "wrong": "background-color: rgba(213, 94, 0, 0.2);",
}
_SIGN = {"": "", "right": "✓ ", "wrong": "✗ "}
_LINE = "1px solid rgba(127, 127, 127, 0.4)"
_LONGEST = 160


@dataclass(frozen=True)
class Cell:
    """A cell's text, and whether it is marked as right or wrong."""

    text: str
    mark: Mark = ""

    def __str__(self) -> str:
        return _SIGN[self.mark] + self.text


class Table:
    """A table that a notebook shows as HTML and a terminal as text.

    Args:
        caption: what to see in it.
        columns: the columns' names; one that starts with `>` holds numbers, which stand at its right edge.
        rows: the cells, one for each column.
    """

    def __init__(self, caption: str, columns: Sequence[str], rows: Sequence[Sequence[Cell | str]]):
        self.caption = caption
        self.columns = [name.removeprefix(">") for name in columns]
        self.rows = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
        self._align = ["right" if name.startswith(">") else "left" for name in columns]

    def __repr__(self) -> str:
        lines = [self.columns, *([str(cell) for cell in row] for row in self.rows)]
        widths = [max(len(line[place]) for line in lines) for place in range(len(self.columns))]
        lines.insert(1, ["-" * width for width in widths])
        padded = [
            "  ".join(
                text.rjust(width) if align == "right" else text.ljust(width)
                for text, width, align in zip(line, widths, self._align, strict=True)
            ).rstrip()
            for line in lines
        ]
        return "\n".join([self.caption, *padded])

    def _repr_html_(self) -> str:
        head = "".join(
            f'<th style="text-align: {align}; padding: 4px 10px; border-bottom: {_LINE};">{html.escape(name)}</th>'
            for name, align in zip(self.columns, self._align, strict=True)
        )
        body = "".join(
            "<tr>" + "".join(_html_cell(*pair) for pair in zip(row, self._align, strict=True)) + "</tr>"
            for row in self.rows
        )
        return (
            f"<div><p><b>{html.escape(self.caption)}</b></p>"
            f'<table style="border-collapse: collapse;"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        )


def receipt_table(records: Records, limit: int = 20) -> Table:
    """Return a table of the weight syncs' receipts, one row each.

    Args:
        records: a run's records.
        limit: with more syncs than that, clean ones in the middle are left out; a failed receipt never is.
    """
    receipts = [record["receipt"] for record in records if record.get("receipt")]
    clean = sum(bool(receipt["ok"]) for receipt in receipts)
    rows: list[Sequence[Cell | str]] = []
    left_out = 0
    for place, receipt in enumerate(receipts):
        middle = limit // 2 <= place < len(receipts) - (limit - limit // 2)
        if middle and receipt["ok"]:
            left_out += 1
            continue
        if left_out:
            rows.append(_gap_row(left_out))
            left_out = 0
        rows.append(_receipt_row(receipt))
    if left_out:
        rows.append(_gap_row(left_out))
    columns = [">version", ">tensors equal", ">changed", ">cached tokens", ">gap (nats)", ">floor (nats)", "verdict"]
    return Table(f"Weight syncs: {clean} of {len(receipts)} receipts clean", columns, rows)


def answers_table(problems: "Sequence[Problem]", before: Sequence[str], after: Sequence[str]) -> Table:
    """Return a table of the policy's answers before and after training, each marked right or wrong: the last number counts."""
    from course_lib.rl import number_match

    was, now = number_match(problems, before), number_match(problems, after)
    rows: list[Sequence[Cell | str]] = [
        [_shown(problem.question), _shown(problem.answer), _judged(old, old_right), _judged(new, new_right)]
        for problem, old, old_right, new, new_right in zip(problems, before, was, after, now, strict=True)
    ]
    caption = f"Right answers: {sum(was):.0f} of {len(rows)} before, {sum(now):.0f} of {len(rows)} after"
    return Table(caption, ["question", "right answer", "before", "after"], rows)


def samples_table(record: dict[str, Any], limit: int = 16) -> Table:
    """Return a table of a step's samples; the question stands at the first sample of its group.

    Args:
        record: a line of the run's samples.jsonl: `step` and `samples`.
        limit: how many samples to show.
    """
    samples = record["samples"]
    rows: list[Sequence[Cell | str]] = []
    question = None
    for sample in samples[:limit]:
        new = sample["question"] != question
        question = sample["question"]
        rows.append(
            [
                _shown(question) if new else "",
                _shown(sample["answer"]) if new else "",
                _shown(sample["completion"]),
                _number(sample["reward"], "{:.2f}"),
                _number(sample["advantage"], "{:+.2f}"),
            ]
        )
    shown = f"{len(rows)} of {len(samples)} samples" if len(rows) < len(samples) else f"{len(rows)} samples"
    caption = f"Step {record['step']}: {shown}; an advantage compares a sample with its group"
    return Table(caption, ["question", "right answer", "completion", ">reward", ">advantage"], rows)


def _receipt_row(receipt: dict[str, Any]) -> list[Cell | str]:
    tensors = receipt["tensors"]
    verdict = Cell("clean", "right") if receipt["ok"] else Cell(_shown(receipt["culprit"] or "failed"), "wrong")
    return [
        str(receipt["version"]),
        f"{tensors - len(receipt['stale'])} / {tensors}",
        _number(receipt["changed"], "{:.2%}"),
        str(receipt["cached_tokens"]),
        _number(receipt["gap"], "{:.4f}"),
        _number(receipt["noise_floor"], "{:.4f}"),
        verdict,
    ]


def _gap_row(count: int) -> list[Cell | str]:
    return ["…", "", "", "", "", "", f"{count} clean ones left out"]


def _html_cell(cell: Cell, align: str) -> str:
    # A marked cell says its verdict in words too: neither colour nor a font's sign has to be seen.
    said = f' title="{cell.mark}"' if cell.mark else ""
    style = f"text-align: {align}; vertical-align: top; padding: 4px 10px; border-bottom: {_LINE}; {_TINT[cell.mark]}"
    return f'<td{said} style="{style.strip()}">{html.escape(str(cell))}</td>'


def _judged(text: str, right: float) -> Cell:
    return Cell(_shown(text), "right" if right else "wrong")


def _shown(text: str) -> str:
    """Return the text on one line, control characters made visible, shortened."""
    line = "".join("↵ " if char == "\n" else char if char.isprintable() else " " for char in text.strip())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def _number(value: float | None, form: str) -> str:
    return form.format(value) if value is not None and math.isfinite(value) else "-"
