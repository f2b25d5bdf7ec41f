"""The serving benchmark's record as a table and as a plot."""

from typing import Any

from course_lib.serving import benchmark
from course_lib.viz.tables import Table
from course_lib.viz.theme import COLORS, CourseFigure, new_figure

_ENGINE_COLORS = {"vllm": COLORS["orange"], "transformers": COLORS["grey"]}
_RUNGS = {
    "naive": "the first kernel",
    "paged": "heads packed, keys split",
    "graphs": "+ CUDA graphs",
    "fused": "+ fused kernels",
    "ours": "+ a step ahead",
}
"""What each rung of the ladder adds."""


def serve_table(record: str | dict[str, Any] = "serve_cpu") -> Table:
    """Return a record of `course bench serve` as a table.

    Args:
        record: the record, or the name of one that the course carries: `serve_cpu`, `serve_h200`.
    """
    found, how = _found(record)
    return Table(f"{benchmark.heading(found)} ({how})", benchmark.COLUMNS, benchmark.rows(found))


def serve_plot(*records: str | dict[str, Any]) -> CourseFigure:
    """Return each record's engines as bars: how much of the floor's speed they reach."""
    found = [_found(record)[0] for record in records]
    with new_figure(height=0.9 + 1.25 * len(found)) as figure:
        panels = figure.subplots(len(found), 1, sharex=True, squeeze=False)[:, 0]
        for axes, record in zip(panels, found, strict=True):
            engines = {name: result for name, result in record["engines"].items() if "of_floor" in result}
            for place, (name, result) in enumerate(engines.items()):
                share = 100 * result["of_floor"]
                axes.barh(place, share, color=_ENGINE_COLORS.get(name, COLORS["blue"]), height=0.7)
                speed = f"{result['tokens_per_second']:,.0f} tokens/s"
                axes.annotate(speed, (share, place), (5, 0), textcoords="offset points", va="center", fontsize=9)
            ladder = len(engines.keys() & _RUNGS.keys()) > 1
            axes.set_yticks(range(len(engines)), [_RUNGS.get(name, name) if ladder else name for name in engines])
            axes.invert_yaxis()
            axes.grid(visible=False, axis="y")
            axes.set_title(f"{record['model']} on {record['machine']['machine']}", fontsize=10, fontweight="normal")
        best = max(100 * result.get("of_floor", 0) for record in found for result in record["engines"].values())
        panels[-1].set_xlim(0, min(115, best * 1.25))
        panels[-1].set_xlabel("speed, % of what the hardware allows at most")
        figure.suptitle(
            "How near to the roofline each engine serves", x=0.01, ha="left", fontsize=11, fontweight="bold"
        )
    return figure


def _found(record: str | dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the record, and where it comes from."""
    if isinstance(record, dict):
        return record, "measured here"
    found = benchmark.recorded(record)
    return found, f"recorded on {found['date']}, commit {found['commit']}"
