"""What a finished capstone run is worth, point by point."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TARGET_ACCURACY = 0.9
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

    Args:
        records: the run's records, as `RLLoop.records()` returns them; none is worth nothing.
        steps: how many steps the run was to take.
        exported: whether the trained policy was written as a model folder.
    """
    taken = [record for record in records if record["step"] > 0]
    clean = sum(record["receipt"]["ok"] for record in taken)
    refused = sum(not record["applied"] and record["groups_with_signal"] > 0 for record in taken)
    accuracy = [record["held_out"] for record in records if "held_out" in record]
    reached, first = (accuracy[-1], accuracy[0]) if len(accuracy) > 1 else (0.0, 0.0)
    share = (reached - first) / (TARGET_ACCURACY - first) if reached > first < TARGET_ACCURACY else 0.0
    return [
        Criterion("the run is complete", 20, 20 * (0 < steps <= len(taken)), f"{len(taken)} of {steps} steps"),
        Criterion(
            f"held-out accuracy of {TARGET_ACCURACY:.0%}",
            40,
            int(40 * min(1.0, share)),
            f"{first:.0%} -> {reached:.0%}",
        ),
        Criterion("every receipt is clean", 20, 20 * (0 < clean == len(taken)), f"{clean} of {len(taken)}"),
        Criterion("no step was refused", 10, 10 * (bool(taken) and not refused), f"{refused} refused"),
        Criterion("the policy is exported", 10, 10 * exported, "yes" if exported else "no"),
    ]


def newest_run(runs: Path) -> Path | None:
    """Return the folder of the newest capstone run, None where there is none."""
    newest = max(runs.glob("*/metrics.jsonl"), key=lambda file: file.stat().st_mtime, default=None)
    return newest.parent if newest else None


def grade_run(run: Path) -> list[Criterion]:
    """Grade the capstone run in a folder, also one that was stopped while it wrote.

    Raises:
        ValueError: a file of the run holds something else.
    """
    try:
        config: dict[str, Any] = json.loads((run / "config.json").read_text(encoding="utf-8"))
        records = read_records(run / "metrics.jsonl")
        return grade_capstone(records, config["steps"], (run / "policy" / "model.safetensors").exists())
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"the run in {run} can't be graded: {type(error).__name__}: {error}") from error


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
