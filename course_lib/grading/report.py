"""What a finished capstone run is worth, point by point."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

TARGET_ACCURACY = 0.9


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
