"""What a finished capstone run is worth, point by point."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from course_lib.viz.tables import Table

TARGET_ACCURACY = 0.9
BUDGET = {"cpu": 480, "gpu": 120}
"""Seconds that the run of a tier's recipe may take: what it takes on 2 cores or an H200, with room for a slower machine."""
CAPSTONE = "08"


@dataclass(frozen=True)
class Criterion:
    """One line of a report.

    Attributes:
        name: what is asked.
        points: what it is worth.
        earned: points that the run got.
        found: what the run shows.
    """

    name: str
    points: int
    earned: int
    found: str


def grade_capstone(records: Sequence[dict[str, Any]], steps: int, exported: bool) -> list[Criterion]:
    """Grade a capstone run.

    Points for accuracy go by the last measurement, which is the exported policy's: they grow from the untrained policy's
    accuracy to the goal.

    Args:
        records: the run's records, as `RLLoop.records()` returns them; none is worth nothing.
        steps: how many steps the run was to take.
        exported: whether the trained policy was written as a model folder.
    """
    taken = [record for record in records if record["step"] > 0]
    complete = 0 < steps <= len(taken)
    clean = sum(record["receipt"]["ok"] for record in taken)
    refused = sum(not record["applied"] and record["groups_with_signal"] > 0 for record in taken)
    tier = "gpu" if any("gpu" in record.get("peak_memory", {}) for record in records) else "cpu"
    seconds = run_seconds(records)
    kept = complete and seconds is not None and seconds <= BUDGET[tier]
    found = "not recorded" if seconds is None else f"{seconds:.0f} s"
    return [
        Criterion("the run is complete", 15, 15 * complete, f"{len(taken)} of {steps} steps"),
        _accuracy([record["held_out"] for record in records if "held_out" in record]),
        Criterion("every receipt is clean", 20, 20 * (0 < clean == len(taken)), f"{clean} of {len(taken)}"),
        Criterion("no step was refused", 5, 5 * (bool(taken) and not refused), f"{refused} refused"),
        Criterion(f"the budget of {BUDGET[tier]} s is kept", 10, 10 * kept, found),
        Criterion("the policy is exported", 10, 10 * exported, "yes" if exported else "no"),
    ]


def run_seconds(records: Sequence[dict[str, Any]]) -> float | None:
    """Return how long a run took, its earlier starts included; None where it did not record that."""
    timelines = [record["timeline"] for record in records if record.get("timeline")]
    if timelines:
        return float(timelines[-1][-1][2])
    steps = [record["seconds"]["step"] for record in records if "step" in record.get("seconds", {})]
    return float(sum(steps)) if steps else None


def _accuracy(measured: Sequence[float]) -> Criterion:
    """Grade held-out accuracies, the untrained policy's first."""
    points, name = 40, f"held-out accuracy of {TARGET_ACCURACY:.0%}"
    if len(measured) < 2:
        return Criterion(name, points, 0, "not measured")
    first, last = measured[0], measured[-1]
    learned = (last - first) / (TARGET_ACCURACY - first) if last > first < TARGET_ACCURACY else 0.0
    found = f"{first:.0%} -> {last:.0%}, best {max(measured):.0%}"
    return Criterion(name, points, int(points * min(1.0, learned)), found)


def newest_run(runs: Path) -> Path | None:
    """Return the folder of the newest run, None where there is none; one that exported its policy before one that did not.

    So the three steps with a learner's own parts, at the end of lesson 08, don't take the place of its run.
    """
    found = sorted(runs.glob("*/metrics.jsonl"), key=lambda file: (_exported(file.parent), file.stat().st_mtime))
    return found[-1].parent if found else None


def grade_run(run: Path) -> list[Criterion]:
    """Grade the capstone run in a folder, also one that was stopped while it wrote.

    Raises:
        ValueError: a file of the run holds something else.
    """
    try:
        config: dict[str, Any] = json.loads((run / "config.json").read_text(encoding="utf-8"))
        records = read_records(run / "metrics.jsonl")
        return grade_capstone(records, config["steps"], _exported(run))
    except (OSError, KeyError, TypeError, IndexError, json.JSONDecodeError) as error:
        raise ValueError(f"the run in {run} can't be graded: {type(error).__name__}: {error}") from error


def report_run(run: str | Path) -> "Table":
    """Return the graded report of a capstone run, as a notebook shows it.

    Args:
        run: the run's folder.

    Raises:
        ValueError: the folder holds no run that can be graded.
    """
    from course_lib.viz.tables import Cell, Table

    lines = grade_run(Path(run))
    earned, points = (sum(getattr(line, of) for line in lines) for of in ("earned", "points"))
    rows = [
        (
            line.name,
            line.found,
            Cell(f"{line.earned} of {line.points}", "right" if line.earned == line.points else "wrong"),
        )
        for line in lines
    ]
    return Table(f"This run: {earned} of {points} points", ("what is asked", "found", ">points"), rows)


def read_records(metrics: Path) -> list[dict[str, Any]]:
    """Return the records of a metrics.jsonl; a last line that a killed run cut off is left out.

    Raises:
        json.JSONDecodeError: a line before the last one is not JSON.
    """
    lines = metrics.read_text(encoding="utf-8", errors="replace").splitlines()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            if number < len(lines):
                raise
    return records


def _exported(run: Path) -> bool:
    return (run / "policy" / "model.safetensors").exists()
