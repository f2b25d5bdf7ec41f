"""Made-up records of runs, in the form that the loop writes."""

import math
from types import SimpleNamespace
from typing import Any

import pytest


def receipt(version: int, gap: float = 0.05, culprit: str | None = None) -> dict[str, Any]:
    return {
        "version": version,
        "tensors": 273,
        "stale": ["lm_head.weight"] if culprit else [],
        "changed": 0.03,
        "cached_tokens": 0,
        "gap": gap,
        "noise_floor": 0.045,
        "culprit": culprit,
        "seconds": {"reload": 0.2, "check": 0.8},
        "ok": culprit is None,
    }


def measurement(held_out: float = 0.0) -> dict[str, Any]:
    """Step 0: the measurement before the first step."""
    return {
        "step": 0,
        "held_out": held_out,
        "seconds": {"evaluate": 2.0, "step": 0.0},
        "tokens_per_second": 0.0,
        "peak_memory": {"host": 2.5},
    }


def step(number: int, **changes: Any) -> dict[str, Any]:
    """A step that trained."""
    done = 1 - math.exp(-number / 30)
    record = {
        "step": number,
        "reward": done * 0.9 + 0.05 * math.sin(number),
        "reward_std": 0.1,
        "exact": done,
        "length": 20 - 15 * done,
        "finished": 1.0,
        "groups_with_signal": 0.5,
        "tokens": 1000,
        "applied": True,
        "loss": 0.04,
        "grad_norm": 1.0,
        "learning_rate": 2e-5,
        "entropy": 2 - 1.9 * done,
        "mismatch": 0.04 - 0.03 * done,
        "receipt": receipt(number, 0.05 + 0.02 * math.sin(number)),
        "seconds": {"generate": 1.6, "reward": 0.001, "train": 5.0, "sync": 1.1, "step": 7.701},
        "tokens_per_second": 130.0,
        "peak_memory": {"host": 4.8, "gpu": 20.5},
    }
    return record | changes


def idle(number: int) -> dict[str, Any]:
    """A step where no group had a signal: nothing was trained, and no token was seen by the trainer."""
    record = step(number, reward=0.0, groups_with_signal=0.0, applied=False)
    for key in ("loss", "grad_norm", "learning_rate", "entropy", "mismatch"):
        del record[key]
    return record


def run(steps: int) -> list[dict[str, Any]]:
    """A run that learns, measured every tenth step."""
    records = [measurement()]
    for number in range(1, steps + 1):
        record = step(number)
        if number % 10 == 0 or number == steps:
            record["held_out"] = 0.8 * (1 - math.exp(-number / 30))
        records.append(record)
    return records


@pytest.fixture
def make() -> SimpleNamespace:
    return SimpleNamespace(receipt=receipt, measurement=measurement, step=step, idle=idle, run=run)
