"""The benchmarks' records as plots: what `course bench` measured."""

import statistics
from collections.abc import Mapping
from typing import Any, Literal

from matplotlib.axes import Axes

from course_lib.viz.series import PHASES
from course_lib.viz.serve_benchmark import serve_plot
from course_lib.viz.theme import COLORS, CourseFigure, new_figure

_PHASE_COLORS = {
    "generate": COLORS["blue"],
    "reward": COLORS["purple"],
    "train": COLORS["orange"],
    "sync": COLORS["green"],
    "whole step": COLORS["grey"],
    "between phases": "#B4B7BB",
}


def bench_plot(record: dict[str, Any]) -> CourseFigure:
    """Return the plot of a record of `course bench serve`, `loop` or `scale`.

    Raises:
        ValueError: it is none of them, or nothing in it was measured.
    """
    for key, figure in (("engines", serve_plot), ("loops", loop_plot), ("rows", scale_plot)):
        found = record.get(key)
        if found:
            results = found.values() if isinstance(found, dict) else found
            if all("error" in result for result in results):
                raise ValueError("nothing in this record was measured: each part has an error.")
            return figure(record)
    raise ValueError("this is no record of `course bench serve`, `course bench loop` or `course bench scale`.")


def loop_plot(record: dict[str, Any]) -> CourseFigure:
    """Draw a step of each loop, ours by phase; TRL's whole, since it is measured from outside."""
    measured = {name: result for name, result in record["loops"].items() if "step" in result}
    with new_figure(height=1.9 + 0.6 * len(measured)) as figure:
        axes = figure.subplots()
        for place, result in enumerate(measured.values()):
            _stack(axes, place, _loop_phases(result), f"{result['step']:.2f} s")
        _rows(axes, [f"{name} {result.get('version', '')}".strip() for name, result in measured.items()])
        axes.set_xlabel(f"seconds of a step, median; {_work(record['work'])}")
        ratio = f": {record['ratio']:.2f} of TRL's time" if "ratio" in record else ""
        axes.set_title(f"Where a step of the loop goes{ratio}\n{_place(record)}")
    return figure


def scale_plot(record: dict[str, Any]) -> CourseFigure:
    """Draw a step of each combination by phase, with its scaling efficiency, and beside it the memory that it held."""
    measured = [row for row in record["rows"] if "step" in row]
    with new_figure(11, 1.9 + 0.5 * len(measured)) as figure:
        seconds, memory = figure.subplots(1, 2, sharey=True, width_ratios=(2, 1))
        for place, row in enumerate(measured):
            share = f" ({row['efficiency']:.0%} of perfect scaling)" if row["ranks"] > 1 and "efficiency" in row else ""
            _stack(seconds, place, row["phases"], f"{row['step']:.2f} s{share}", row["step"])
            held = row["memory"]
            memory.barh(place, held["most"], color=COLORS["sky"], height=0.7, label="at its fullest")
            memory.barh(place, held["train"], color=COLORS["blue"], height=0.35, label="while training")
            memory.annotate(
                f"{held['most']:.1f}",
                (held["most"], place),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
            )
        _rows(seconds, [_scale_label(row) for row in measured])
        _legend(memory, "outside lower right")
        memory.grid(visible=False, axis="y")
        memory.set_xlim(0, 1.25 * max(row["memory"]["most"] for row in measured))
        unit = "GiB held of a GPU" if record["machine"]["tier"] == "gpu" else "GiB held by a process"
        memory.set_xlabel(f"{unit}, the most on any rank")
        seconds.set_xlabel("seconds of a step, median")
        seconds.set_title(f"What more ranks do to a step: {_work(record['work'])} on one rank\n{_place(record)}")
    return figure


def _stack(axes: Axes, place: int, phases: Mapping[str, float], said: str, whole: float | None = None) -> None:
    """Draw a bar of phases one after the other, and what is said of it at its end."""
    parts = dict(phases)
    end = sum(parts.values())
    if whole is not None and whole > end:
        parts["between phases"] = whole - end
    left = 0.0
    for name, value in parts.items():
        axes.barh(place, value, left=left, color=_PHASE_COLORS[name], height=0.7, label=name)
        left += value
    axes.annotate(said, (left, place), (5, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_xlim(0, max(axes.get_xlim()[1], (1.7 if whole else 1.2) * left))


def _rows(axes: Axes, labels: list[str]) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    _legend(axes, "outside lower left")


def _legend(axes: Axes, place: Literal["outside lower left", "outside lower right"]) -> None:
    """Name each colour once, below the axes, where no bar lies."""
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    axes.figure.legend(list(unique.values()), list(unique), loc=place, ncols=len(unique))


def _loop_phases(result: Mapping[str, Any]) -> dict[str, float]:
    """Return the median seconds of each phase over the steps that count, or the whole step where that is all that is known."""
    if "phases" not in result:
        return {"whole step": result["step"]}
    # As in loop_benchmark: three warm up, and the last one measures accuracy and writes a checkpoint.
    phases = {name: statistics.median(result["phases"][name][3:-1]) for name in PHASES}
    rest = result["step"] - sum(phases.values())
    return phases | ({"between phases": rest} if rest > 0 else {})


def _scale_label(row: Mapping[str, Any]) -> str:
    name = f"ZeRO-{row['zero_stage']}, {row['ranks']} rank{'s' if row['ranks'] > 1 else ''}"
    return name if row["ranks"] == 1 else f"{name}, {'shared' if row['scaling'] == 'strong' else 'as much each'}"


def _work(work: Mapping[str, Any]) -> str:
    return f"{work['prompts']} prompts x {work['samples']} samples"


def _place(record: Mapping[str, Any]) -> str:
    return f"{record['model']} on {record['machine']['machine']}"
