"""The report of a grading, as data, as Markdown and as a page."""

import html
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from course_lib.grading.judge import Result
from course_lib.grading.report import Criterion
from course_lib.grading.runner import Grade
from course_lib.grading.saving import save_bytes
from course_lib.grading.show import result_html, sign
from course_lib.machine.versions import versions

NAME = "grade_report"
# Both themes by the reader's own setting; the results in it are tints that are see-through.
_STYLE = """
:root { color-scheme: light dark; --ground: #fbfaf7; --card: #ffffff; --ink: #1f2328; --soft: #5b6068; --line: #dad8d1; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #15181c; --card: #1d2126; --ink: #e6e8ea; --soft: #a2a8b0; --line: #3a3f46; }
}
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 900px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 19px; margin: 36px 0 10px; }
p.soft, td.soft { color: var(--soft); } p { margin: 0 0 16px; } a { color: inherit; }
table { width: 100%; border-collapse: collapse; background: var(--card); border: 1px solid var(--line); }
td, th { text-align: left; padding: 7px 12px; border-top: 1px solid var(--line); }
td.n, th.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
section { margin: 10px 0; } section > div { background: var(--card); }
.bar { height: 10px; background: var(--line); border-radius: 5px; margin: 14px 0 20px; }
.bar div { height: 10px; background: #009e73; border-radius: 5px; }
"""


@dataclass(frozen=True)
class LessonGrades:
    """What the exercises of one lesson came to."""

    lesson: str
    notebook: str
    grades: tuple[Grade, ...]


@dataclass(frozen=True)
class Report:
    """A grading.

    Attributes:
        lessons: the lessons whose exercises were graded.
        capstone: what the capstone's run is worth; empty where none was graded.
        run: the folder of that run.
        seconds: how long it took.
        when: when it was done, in ISO 8601.
        machine: the machine, its tier, and the versions of Python and the engines.
    """

    lessons: tuple[LessonGrades, ...]
    capstone: tuple[Criterion, ...] = ()
    run: str = ""
    seconds: float = 0.0
    when: str = field(default_factory=lambda: datetime.now().astimezone().isoformat(timespec="seconds"))
    machine: dict[str, str] = field(default_factory=versions)

    @property
    def results(self) -> list[Result]:
        """The results of all exercises."""
        return [grade.result for lesson in self.lessons for grade in lesson.grades]

    @property
    def earned(self) -> int:
        """The points of the exercises and of the capstone."""
        return sum(result.earned for result in self.results) + sum(line.earned for line in self.capstone)

    @property
    def points(self) -> int:
        """The points that there are."""
        return sum(result.points for result in self.results) + sum(line.points for line in self.capstone)

    @property
    def solved(self) -> bool:
        """Whether all points were earned."""
        return self.earned == self.points


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write grade_report.json, .md and .html into a folder and return their paths."""
    written = []
    for ending, text in {"json": as_json(report), "md": as_markdown(report), "html": as_html(report)}.items():
        path = folder / f"{NAME}.{ending}"
        save_bytes(text.encode(errors="replace"), path)
        written.append(path)
    return written


def as_json(report: Report) -> str:
    """Return the report as JSON, without pictures."""
    content: dict[str, Any] = {
        "format": 1,
        "when": report.when,
        "seconds": round(report.seconds, 1),
        "machine": report.machine,
        "earned": report.earned,
        "points": report.points,
        "exercises": [
            {
                "id": grade.result.exercise.id,
                "title": grade.result.exercise.title,
                "notebook": lesson.notebook,
                "status": status(grade.result),
                "earned": grade.result.earned,
                "points": grade.result.points,
                "seconds": round(grade.seconds, 1),
                "parts": [
                    {name: value for name, value in vars(part).items() if name != "picture"}
                    for part in grade.result.parts
                ],
            }
            for lesson in report.lessons
            for grade in lesson.grades
        ],
        "capstone": {"run": report.run, "criteria": list(map(asdict, report.capstone))} if report.capstone else None,
    }
    return json.dumps(content, indent=1) + "\n"


def as_markdown(report: Report) -> str:
    """Return the report as Markdown: a table, and what is wrong."""
    lines = [f"# Grade report: {report.earned} of {report.points} points", "", _foot(report)]
    if report.lessons:
        lines += ["", "| exercise | | status | points | seconds |", "|---|---|---|---:|---:|"]
    for lesson in report.lessons:
        for grade in lesson.grades:
            result = grade.result
            points = f"{result.earned} of {result.points}"
            title = f"{result.exercise.id} | {result.exercise.title} | {status(result)}"
            lines.append(f"| {title} | {points} | {grade.seconds:.1f} |")
    for result in report.results:
        if result.started and not result.solved:
            lines += ["", f"## {result.exercise.id} {result.exercise.title}", ""]
            for part in result.parts:
                said = f" **{part.diagnosis}**: {_line(part.message)}" if part.diagnosis else ""
                lines.append(f"- {sign(part)} {part.earned} of {part.points}: {part.asks}.{said}")
    if report.capstone:
        lines += [
            "",
            f"## The capstone run in {report.run}",
            "",
            "| what is asked | found | points |",
            "|---|---|---:|",
        ]
        lines += [f"| {line.name} | {line.found} | {line.earned} of {line.points} |" for line in report.capstone]
    return "\n".join(lines) + "\n"


def as_html(report: Report) -> str:
    """Return the report as a page that needs no other file."""
    share = 100 * report.earned / report.points if report.points else 0
    body = "".join(_sections(report))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Grade report: {report.earned} of {report.points}</title><style>{_STYLE}</style></head><body><main>"
        f"<h1>{report.earned} of {report.points} points</h1>"
        f'<div class="bar"><div style="width: {share:.0f}%"></div></div>'
        f'{body}<h2>This grading</h2><p class="soft">{html.escape(_foot(report))}</p></main></body></html>\n'
    )


def status(result: Result) -> str:
    """Return a result in a word or two."""
    if result.solved:
        return "solved"
    return "not solved yet" if result.started else "not started"


def _sections(report: Report) -> Iterator[str]:
    if report.lessons:
        head = '<tr><th>exercise</th><th></th><th>status</th><th class="n">points</th><th class="n">seconds</th></tr>'
        rows = (_row(grade) for lesson in report.lessons for grade in lesson.grades)
        yield f"<table>{head}{''.join(rows)}</table>"
    for lesson in report.lessons:
        yield f"<h2>Lesson {lesson.lesson}: {html.escape(lesson.notebook)}</h2>"
        for grade in lesson.grades:
            yield f'<section id="{html.escape(grade.result.exercise.id)}">{result_html(grade.result)}</section>'
    if report.capstone:
        lines = "".join(
            f'<tr><td>{html.escape(line.name)}</td><td>{html.escape(line.found)}</td><td class="n">'
            f"{line.earned} of {line.points}</td></tr>"
            for line in report.capstone
        )
        yield f"<h2>Capstone: {html.escape(report.run)}</h2><table>{lines}</table>"


def _row(grade: Grade) -> str:
    result = grade.result
    name = html.escape(result.exercise.id)
    return (
        f'<tr><td><a href="#{name}">{name}</a></td><td>{html.escape(result.exercise.title)}</td>'
        f'<td class="soft">{status(result)}</td><td class="n">{result.earned} of {result.points}</td>'
        f'<td class="n soft">{grade.seconds:.1f}</td></tr>'
    )


def _foot(report: Report) -> str:
    machine = ", ".join(value if name == "machine" else f"{name} {value}" for name, value in report.machine.items())
    return f"Graded {report.when} in {report.seconds:.0f} s on {machine}."


def _line(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")
