"""`course grade` and `course progress` in the terminal."""

import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from course_lib.grading.course import Checkout, asks_for_run, grade
from course_lib.grading.exercise import Exercise
from course_lib.grading.grade_report import Report, status, write_report
from course_lib.grading.judge import Result
from course_lib.grading.notebook import course_of, load
from course_lib.grading.progress import read_progress, record
from course_lib.grading.runner import Grade, Limits

_STYLES = {"solved": "green", "not solved yet": "yellow", "not started": "dim"}


def main(
    names: list[str],
    *,
    solutions: bool = False,
    out: Path | None = None,
    limits: Limits | None = None,
    checkout: Checkout | None = None,
) -> int:
    """Grade exercises and the newest capstone run, write the report, show it, and return the exit status.

    Args:
        names: lessons and exercises, `08` with the newest capstone run; none means all.
        solutions: grade the solutions instead of the learner's exercises.
        out: the report's folder; the checkout without it.
        limits: of time and memory.
        checkout: what to grade; this one without it.
    """
    checkout = checkout or Checkout()
    if solutions:
        checkout = replace(checkout, folder="solutions")
    console = Console()
    try:
        report = _grade_and_show(console, checkout, names, limits or Limits())
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    if not solutions:
        _remember(report.results)
    _show(console, report)
    no_run = bool(names) and asks_for_run(names) and not report.capstone
    if no_run:
        console.print(
            "There is no capstone run in runs/ yet: `make capstone`, or notebooks/08_capstone.ipynb, makes one."
        )
    if no_run and not report.points:
        return 1
    written = write_report(report, out or checkout.root)
    console.print(f"Report: {', '.join(str(_short(path)) for path in written)}", style="dim")
    return 0 if report.solved and not no_run else 1


def show_progress(checkout: Checkout | None = None) -> int:
    """Show what is solved and what comes next; return the exit status, 0."""
    checkout = checkout or Checkout()
    console = Console()
    records = read_progress()
    table = Table(title="Your progress", title_justify="left")
    for column in ("exercise", "", "difficulty", "minutes", "points"):
        table.add_column(column, justify="right" if column in ("minutes", "points") else "left")
    following: Exercise | None = None
    solved, exercises = 0, checkout.catalogue.exercises()
    for exercise in exercises:
        best = min(records[exercise.id].best, exercise.points) if exercise.id in records else None
        done = best == exercise.points
        solved += done
        following = following or (None if done else exercise)
        style = "green" if done else "yellow" if best is not None else "dim"
        last = exercise is checkout.catalogue.exercises(exercise.lesson)[-1]
        dots = "●" * exercise.difficulty + "○" * (5 - exercise.difficulty)
        points = f"{'-' if best is None else best} of {exercise.points}"
        cells = (f"{'✓' if done else ' '} {exercise.id}", exercise.title, dots, str(exercise.minutes), points)
        table.add_row(*cells, style=style, end_section=last)
    console.print(table)
    console.print(f"{solved} of {len(exercises)} exercises solved.")
    if following is not None:
        notebook = checkout.notebook(following.lesson)
        console.print(Text.assemble("Next: ", (following.title, "bold"), f", about {following.minutes} minutes, in"))
        console.print(
            f"  {_short(notebook)}#{_anchor(notebook, following)}", style="bold", highlight=False, soft_wrap=True
        )
    return 0


def _grade_and_show(console: Console, checkout: Checkout, names: list[str], limits: Limits) -> Report:
    """Grade, with a bar that tells which exercise is being judged."""
    total = len(checkout.pick(names))
    columns = (TextColumn("{task.description:<40}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bar:
        task = bar.add_task("starting", total=total)

        def told(exercise: Exercise, done: Grade | None) -> None:
            bar.update(task, description=f"{exercise.id} {exercise.title}"[:40], advance=int(done is not None))

        return grade(checkout, names, limits, told)


def _show(console: Console, report: Report) -> None:
    if report.lessons:
        table = Table(title="Exercises", title_justify="left")
        for column in ("exercise", "", "points", "what to look at first"):
            table.add_column(column, justify="right" if column == "points" else "left")
        for result in report.results:
            style = _STYLES[status(result)]
            points = Text(f"{result.earned} of {result.points}", style)
            table.add_row(result.exercise.id, result.exercise.title, points, Text(_first_news(result)))
        console.print(table)
    if report.capstone:
        table = Table(
            "what is asked", "found", "points", title=f"The capstone run in {report.run}", title_justify="left"
        )
        for line in report.capstone:
            colour = "green" if line.earned == line.points else "yellow"
            table.add_row(line.name, line.found, f"[{colour}]{line.earned} of {line.points}[/]")
        console.print(table)
    if report.points:
        console.print(f"[bold]{report.earned} of {report.points} points[/] in {report.seconds:.0f} s.")


def _first_news(result: Result) -> str:
    if result.solved or not result.started:
        return status(result)
    part = next(part for part in result.parts if part.diagnosis)
    said = f"{part.diagnosis}: {' '.join(part.message.split())}"
    return said if len(said) <= 240 else f"{said[:239]}…"


def _remember(results: list[Result]) -> None:
    started = {result.exercise.id: (result.earned, result.points) for result in results if result.started}
    if started:
        try:
            record(started)
        except OSError as error:
            print(f"your points were not saved for `course progress`: {error}", file=sys.stderr)


def _anchor(notebook: Path, exercise: Exercise) -> str:
    """Return the link to an exercise's heading as Jupyter names it."""
    try:
        cells = load(notebook).cells
    except (OSError, ValueError):
        cells = []
    tasks = [cell.source for cell in cells if course_of(cell).get("key") == f"{exercise.id}/task"]
    heading = tasks[0].splitlines()[0].lstrip("# ") if tasks and tasks[0] else exercise.title
    return heading.strip().replace(" ", "-")


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
