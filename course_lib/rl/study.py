"""Finished runs in one record: `python -m course_lib.rl.study RUN ... --out FILE`."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from course_lib.machine.record import provenance, read_record
from course_lib.rl.durable import json_lines
from course_lib.rl.run_folder import RunError

GOAL = 0.9


@dataclass(frozen=True)
class Curve:
    """What a run came to.

    Attributes:
        name: of the run.
        decisions: its config.json.
        rewards: the mean reward of each step's samples.
        parts: of each step the mean of each part of its reward, where it says what it is made of.
        held_out: `(step, seconds since the run began, accuracy on held-out problems)` of each measurement.
        seconds: of the run, without the engines' start.
        clean_receipts: syncs whose receipt is clean.
        peak_memory: GiB of host memory.
    """

    name: str
    decisions: dict[str, Any]
    rewards: list[float]
    parts: list[dict[str, float]]
    held_out: list[tuple[int, float, float]]
    seconds: float
    clean_receipts: int
    peak_memory: float

    def reached(self, goal: float = GOAL) -> tuple[int, float, float] | None:
        """Return the first measurement of held-out accuracy at the goal, or None."""
        return next((tuple_ for tuple_ in self.held_out if tuple_[2] >= goal), None)

    @property
    def last(self) -> float:
        """Held-out accuracy at the end."""
        return self.held_out[-1][2]

    def __repr__(self) -> str:
        return f"Curve({self.name}: {len(self.rewards)} steps, held out {self.held_out[0][2]:.2f} -> {self.last:.2f})"


def curve(run: str | Path) -> Curve:
    """Read a run's folder.

    Raises:
        RunError: it holds no run, or one without a measured step.
    """
    run = Path(run)
    try:
        decisions = json.loads((run / "config.json").read_text())
        records = [record for _, record in json_lines(run / "metrics.jsonl") if record is not None]
    except (OSError, ValueError) as error:
        raise RunError(f"{run} holds no run that can be read ({error}): give the folder of a run.") from error
    steps = [record for record in records if record["step"] > 0]
    measured = [record for record in records if "held_out" in record]
    if not steps or not measured:
        raise RunError(f"{run} has no step with a measurement yet: let it run first.")
    return Curve(
        name=run.name,
        decisions=decisions,
        rewards=[round(record["reward"], 4) for record in steps],
        parts=[record["reward_parts"] for record in steps if record.get("reward_parts")],
        held_out=[(record["step"], round(_evaluated(record), 1), record["held_out"]) for record in measured],
        seconds=round(_end(steps[-1]), 1),
        clean_receipts=sum(record["receipt"]["ok"] for record in steps),
        peak_memory=round(records[-1]["peak_memory"]["host"], 2),
    )


def recorded(path: str | Path) -> list[Curve]:
    """Return the runs of a file that this module wrote.

    Raises:
        ValueError: it is no such file; the message says how one is made.
    """
    content = read_record(path, "python -m course_lib.rl.study RUN ... --out FILE", "a record of runs")
    return [
        Curve(**run | {"held_out": [tuple(measurement) for measurement in run["held_out"]]}) for run in content["runs"]
    ]


def _evaluated(record: dict[str, Any]) -> float:
    ends = [end for phase, _, end in record.get("timeline", []) if phase == "evaluate"]
    return float(ends[-1]) if ends else 0.0


def _end(record: dict[str, Any]) -> float:
    return max((float(end) for _, _, end in record.get("timeline", [])), default=0.0)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--command", default="course capstone", help="what made the runs")
    parser.add_argument("--commit", default="")
    asked = parser.parse_args(arguments)
    curves = [curve(run) for run in asked.runs]
    content = provenance(asked.command, asked.commit) | {"runs": [asdict(found) for found in curves]}
    asked.out.write_text(json.dumps(content, indent=1) + "\n")
    for found in curves:
        at = found.reached()
        when = f"{GOAL} at step {at[0]} after {at[1]:.0f} s" if at else f"never {GOAL}"
        print(f"{found!r}, {when}, best {max(value for _, _, value in found.held_out):.2f}, {found.seconds:.0f} s")


if __name__ == "__main__":
    main()
