"""What a finished run comes to, in one record that can be compared and repeated."""

from collections.abc import Sequence
from typing import Any

from course_lib import machine

PHASES = ("generate", "reward", "train", "sync")


def summarize(records: Sequence[dict[str, Any]], seconds: float | None = None) -> dict[str, Any]:
    """Return a run's summary as JSON-ready values.

    Keys: `steps`, `samples_tokens` (response tokens in all), `held_out` (first, best and last accuracy), `reward` (first and
    last step's), `seconds` (wall time of the run where it is given, mean seconds a step and of each phase, without the first
    step, in which the engines warm up), `receipts` (clean and all), `peak_memory` (GiB), `machine` (versions).
    """
    steps = [record for record in records if record["step"] > 0]
    accuracies = [record["held_out"] for record in records if "held_out" in record]
    warm = steps[1:] or steps
    mean = {
        phase: sum(step["seconds"].get(phase, 0.0) for step in warm) / max(len(warm), 1) for phase in ("step", *PHASES)
    }
    return {
        "steps": len(steps),
        "samples_tokens": sum(step["tokens"] for step in steps),
        "held_out": {"first": accuracies[0], "best": max(accuracies), "last": accuracies[-1]} if accuracies else {},
        "reward": {"first": steps[0]["reward"], "last": steps[-1]["reward"]} if steps else {},
        "seconds": {"run": seconds, "a_step": mean},
        "receipts": {"clean": sum(step["receipt"]["ok"] for step in steps), "all": len(steps)},
        "peak_memory": records[-1]["peak_memory"] if records else {},
        "machine": machine.versions(),
    }
