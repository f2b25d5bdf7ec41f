"""`course grade`: what there is to grade, graded, in the terminal."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from course_lib.grading.report import grade_capstone

EXERCISES = Path("exercises")
RUNS = Path("runs")


def main(lessons: list[str]) -> int:
    """Grade the exercises of these lessons (all without any), and the newest capstone run. Return the exit status."""
    console = Console()
    notebooks = sorted(EXERCISES.glob("*.ipynb"))
    if not notebooks:
        console.print("There are no exercises in exercises/ yet: the first ones come with lesson 01.")
    if lessons and not any(lesson.startswith("08") for lesson in lessons):
        console.print(
            f"Nothing to grade for {', '.join(lessons)}. So far only the capstone's runs are graded: course grade 08."
        )
        return 1
    newest = max(RUNS.glob("*/metrics.jsonl"), key=lambda file: file.stat().st_mtime, default=None)
    if newest is None:
        console.print(
            "There is no capstone run in runs/ yet: make one with `make capstone`, or in notebooks/08_capstone.ipynb."
        )
        return 1
    return _grade_run(console, newest.parent)


def _grade_run(console: Console, run: Path) -> int:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    config: dict[str, Any] = json.loads((run / "config.json").read_text())
    criteria = grade_capstone(records, config["steps"], (run / "policy" / "model.safetensors").exists())
    table = Table("what is asked", "found", "points", title=f"The capstone run in {run}", title_justify="left")
    for line in criteria:
        colour = "green" if line.earned == line.points else "yellow"
        table.add_row(line.name, line.found, f"[{colour}]{line.earned} of {line.points}[/]")
    earned, points = sum(line.earned for line in criteria), sum(line.points for line in criteria)
    table.add_row("", "", f"{earned} of {points}", style="bold")
    console.print(table)
    return 0 if earned == points else 1
