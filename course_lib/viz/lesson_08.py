"""Figures of lesson 08: recorded runs of the loop."""

from pathlib import Path

from course_lib.machine.record import read_record
from course_lib.viz.tables import Cell, Table


def kill_table(path: str | Path) -> Table:
    """List the kills of a recorded study: when each struck, and whether the resumed curve is the undisturbed one.

    Raises:
        FileNotFoundError: there is no such record.
    """
    record = read_record(path, "python -m course_lib.rl.kill_points", "study of kills")
    rows = []
    for number, point in enumerate(record["points"], start=1):
        moment = point["moment"]
        when = moment if isinstance(moment, str) else f"after {moment} s"
        start = "the beginning" if point["resumed_from"] is None else f"step {point['resumed_from']}"
        same = not point["differences"]
        verdict = Cell("equal", "right") if same else Cell(f"differs: {', '.join(point['differences'])}", "wrong")
        rows.append((str(number), when, start, verdict))
    caption = f"{record['equal']} of {len(rows)} killed runs, resumed, drew the undisturbed run's curve"
    return Table(caption, (">kill", "struck", "resumed from", "curve"), rows)
