"""What the dashboard's page is fed with: a run as columns, spans of time, receipts in words and samples, small enough to send."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from course_lib.viz.dashboard_charts import Chart, charts
from course_lib.viz.dashboard_run import RunFiles
from course_lib.viz.dashboard_samples import grouped
from course_lib.viz.dashboard_time import IDLE, curves, timeline
from course_lib.viz.series import PHASES, Records, from_to, scalars, series, smoothed, trained, window
from course_lib.viz.terminal import was_refused

MOST_STEPS = 600
"""Of a longer run every k-th step is drawn, and each that failed or was measured: a chart has no more dots than that."""


@dataclass(frozen=True)
class Limits:
    """How much of a run is sent to the page.

    Attributes:
        sampled_steps: steps with a table of samples, spread over the run.
        samples: of each of them.
        points: of KV use in all.
    """

    sampled_steps: int
    samples: int
    points: int


LIVE = Limits(sampled_steps=6, samples=16, points=3000)
FULL = [Limits(64, 24, 8000), Limits(40, 16, 6000), Limits(24, 16, 4000), Limits(12, 12, 3000), Limits(6, 8, 2000)]
"""For a finished run: the first that fits."""


def dashboard_data(runs: Sequence[RunFiles], limits: Limits) -> dict[str, Any]:
    """Return runs as JSON-ready data, with the charts that one of them fills."""
    kept = [_kept(run.records) for run in runs]
    columns = [_columns(run.records, steps) for run, steps in zip(runs, kept, strict=True)]
    found = charts({key for run in columns for key in run})
    wanted = {line.key for chart in found for line in chart.lines}
    names = _names(runs)
    return {
        "charts": [_chart(chart) for chart in found],
        "phases": _phases(runs),
        "runs": [
            {
                "name": name,
                "facts": facts(run),
                "about": decisions(run),
                "columns": {key: values for key, values in column.items() if key.removesuffix("~") in wanted},
                **_steps(run, steps, limits),
            }
            for name, run, steps, column in zip(names, runs, kept, columns, strict=True)
        ],
    }


def facts(run: RunFiles) -> list[list[str]]:
    """Return the run in a few figures: label, value, and `bad` where it should worry the reader."""
    steps = trained(run.records)
    rewards = series(steps, "reward")[1]
    receipts = [record["receipt"] for record in steps if record.get("receipt")]
    clean = sum(bool(receipt["ok"]) for receipt in receipts)
    found = [
        ["steps", f"{len(steps)} of {run.config['steps']}" if "steps" in run.config else f"{len(steps)}", ""],
        ["reward", from_to(smoothed(rewards, window(len(rewards)))), ""],
        ["held-out accuracy", from_to(series(run.records, "held_out")[1], "{:.0%}"), ""],
    ]
    if receipts:
        found.append(["receipts", f"{clean} of {len(receipts)} clean", "" if clean == len(receipts) else "bad"])
    wholes = [whole for record in steps if (whole := record.get("seconds", {}).get("step"))]
    if wholes:
        found.append(["median step", f"{median(wholes):.3g} s", ""])
    spans, measured = timeline(run.records)
    lengths: dict[str, float] = {}
    for span in (span for step in spans for span in step):
        lengths[span.phase] = lengths.get(span.phase, 0.0) + span.length
    whole = sum(lengths.values())
    if whole:
        most = max(lengths, key=lambda phase: lengths[phase])
        found.append(["most of the time", f"{most} {lengths[most] / whole:.0%}", ""])
        if measured:
            found.append(["idle", f"{lengths.get(IDLE, 0.0) / whole:.1%}", ""])
    speeds = [record["tokens_per_second"] for record in steps if record.get("tokens_per_second")]
    if speeds:
        found.append(["median speed", f"{median(speeds):,.0f} tokens/s", ""])
    for label, count in {"refused steps": sum(map(was_refused, steps)), "reward faults": _faults(steps)}.items():
        if count:
            found.append([label, f"{count}", "bad"])
    return found


def decisions(run: RunFiles) -> str:
    """Return in a line what the run was: policy, task, algorithm, samples a step."""
    config = run.config
    parts = [str(config[name]) for name in ("policy", "task") if name in config]
    algorithm = config.get("algorithm")
    parts += [str(algorithm.get("name", "")) if isinstance(algorithm, dict) else str(algorithm)] if algorithm else []
    if "prompts_per_step" in config:
        parts.append(f"{config['prompts_per_step']} prompts x {config.get('samples_per_prompt', '?')} samples")
    return ", ".join(part for part in parts if part)


def receipt_words(receipt: dict[str, Any]) -> str:
    """Return what a receipt says; the culprit's own words where it failed."""
    stale, tensors = len(receipt.get("stale", [])), receipt.get("tensors", 0)
    figures = [f"{tensors - stale} of {tensors} tensors equal the trainer's"]
    for name, form in {"changed": "{:.1%} of values changed", "cached_tokens": "{} cached tokens"}.items():
        if receipt.get(name) is not None:
            figures.append(form.format(receipt[name]))
    if _number(receipt.get("gap")) is not None:
        figures.append(f"gap {receipt['gap']:.4f} nats, noise floor {receipt.get('noise_floor', math.nan):.4f}")
    verdict = "clean" if receipt["ok"] else f"FAILED: {receipt.get('culprit') or 'it does not say why'}"
    return f"weights {receipt.get('version', '?')} {verdict}. " + "; ".join(figures)


def _steps(run: RunFiles, kept: list[int], limits: Limits) -> dict[str, Any]:
    """Return what stands at single steps."""
    spans, measured = timeline(run.records)
    kv = curves(run.records, limits.points)
    records = [run.records[place] for place in kept]
    samples = sorted(run.samples)
    return {
        "steps": [record["step"] for record in records],
        "left_out": len(run.records) - len(kept),
        "measured": measured,
        "spans": [[[span.phase, *map(_fine, (span.start, span.end))] for span in spans[place]] for place in kept],
        "kv": [[[_fine(at), _number(used), *counts] for at, used, *counts in kv[place]] for place in kept],
        "receipts": [
            [bool(record["receipt"]["ok"]), receipt_words(record["receipt"])] if record.get("receipt") else None
            for record in records
        ],
        "notes": [_notes(record) for record in records],
        "samples": {
            step: grouped(run.samples[step], limits.samples) for step in _spread(samples, limits.sampled_steps)
        },
    }


def _columns(records: Records, kept: list[int]) -> dict[str, list[float | None]]:
    """Return every number of the records as a column with a value, or None, for each kept record; `~` marks a smoothed one."""
    rows = [scalars(record) for record in records]
    for row in rows:
        if not row["step"]:
            row.pop("tokens_per_second", None)  # nothing was sampled for training yet
    keys = {key for row in rows for key in row}
    columns = {key: [_number(rows[place].get(key)) for place in kept] for key in sorted(keys)}
    steps, rewards = series(records, "reward")
    if len(rewards):
        mean = dict(zip(steps.tolist(), smoothed(rewards, window(len(rewards))).tolist(), strict=True))
        columns["reward~"] = [_number(mean.get(records[place]["step"])) for place in kept]
    return {key: values for key, values in columns.items() if any(value is not None for value in values)}


def _kept(records: Records) -> list[int]:
    """Return the places of the records that are drawn."""
    every = max(1, math.ceil(len(records) / MOST_STEPS))
    last = len(records) - 1
    return [
        place
        for place, record in enumerate(records)
        if place % every == 0 or place == last or "held_out" in record or _notes(record) or not _clean(record)
    ]


def _notes(record: dict[str, Any]) -> list[str]:
    found = ["loss or gradient was not finite: the step was refused"] if was_refused(record) else []
    faults = record.get("reward_faults") or 0
    return found + ([f"the reward failed on {faults} samples"] if faults else [])


def _clean(record: dict[str, Any]) -> bool:
    return not record.get("receipt") or bool(record["receipt"]["ok"])


def _faults(steps: Records) -> int:
    return sum(record.get("reward_faults") or 0 for record in steps)


def _phases(runs: Sequence[RunFiles]) -> list[str]:
    """Return the phases of the runs, those of every step first, idle last."""
    found = {span.phase: None for run in runs for step in timeline(run.records)[0] for span in step}
    return [*PHASES, *(phase for phase in found if phase not in PHASES and phase != IDLE), IDLE]


def _names(runs: Sequence[RunFiles]) -> list[str]:
    """Return the runs' names, told apart by the folder above where they are the same."""
    names = [run.name for run in runs]
    if len(set(names)) == len(names):
        return names
    return [f"{run.folder.resolve().parent.name}/{run.name}" if run.folder else run.name for run in runs]


def _spread(steps: Sequence[int], limit: int) -> list[int]:
    """Return at most `limit` of the steps: the first, the last, and some between."""
    if len(steps) <= limit:
        return list(steps)
    return [steps[round(place * (len(steps) - 1) / (limit - 1))] for place in range(limit)]


def _chart(chart: Chart) -> dict[str, Any]:
    return asdict(chart)


def _number(value: float | None) -> float | None:
    """Return a number with five digits, None where it is not finite: JSON has no NaN."""
    return float(f"{value:.5g}") if value is not None and math.isfinite(value) else None


def _fine(seconds: float) -> float:
    return round(seconds, 4)
