"""A run's records as series of numbers."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Records = Sequence[dict[str, Any]]
"""A run's records, one a step, as `RLLoop.records()` returns them; step 0 is the measurement before the first step."""

Numbers = NDArray[np.float64]
PHASES = ("generate", "reward", "train", "sync")
"""The phases of a step, in their order."""


def trained(records: Records) -> list[dict[str, Any]]:
    """Return the records of real steps, so without step 0."""
    return [record for record in records if record.get("step", 0) > 0]


def series(records: Records, *keys: str) -> tuple[Numbers, Numbers]:
    """Return the step numbers of the records that hold a value under `keys`, and the values.

    A value that is not finite becomes NaN, which plots as a gap; inf would take the axis with it.

    Args:
        records: a run's records.
        keys: the key, or the path of keys, such as `"receipt", "gap"`.
    """
    steps, values = [], []
    for record in records:
        found: Any = record
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        if found is not None:
            steps.append(float(record["step"]))
            values.append(float(found) if math.isfinite(found) else math.nan)
    return np.array(steps), np.array(values)


def scalars(record: dict[str, Any]) -> dict[str, float]:
    """Return all numbers of a record under flat names: those of nested records as `receipt/gap`. True is 1, False 0.

    Texts, lists and what was not measured (None) are left out.
    """
    found: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            found |= {f"{name}/{inner}": number for inner, number in scalars(value).items()}
        elif isinstance(value, (bool, int, float)):
            found[name] = float(value)
    return found


def window(count: int) -> int:
    """Return how many steps a smoothed line averages over: a tenth of the run, 3 at the least."""
    return max(3, math.ceil(count / 10))


def smoothed(values: Numbers, size: int) -> Numbers:
    """Return at each place the mean of the last `size` values up to it, NaN left out; it never looks ahead."""
    means = []
    for end in range(1, len(values) + 1):
        recent = values[max(0, end - size) : end]
        recent = recent[~np.isnan(recent)]
        means.append(recent.mean() if len(recent) else math.nan)
    return np.array(means)


def finite(values: Numbers) -> Numbers:
    """Return the values without NaN."""
    return values[np.isfinite(values)]


def from_to(values: Numbers, form: str = "{:z.2f}") -> str:
    """Return `first → last`, or the only value, or `not measured`; `form` holds the unit."""
    found = finite(values)
    if not len(found):
        return "not measured"
    first, last = form.format(found[0]), form.format(found[-1])
    return last if len(found) == 1 else f"{first.split()[0]} → {last}"
