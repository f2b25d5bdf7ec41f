"""Plots, tables, interactive pictures, and the terminal's view of a run.

Each is imported when it is first asked for: a table needs no matplotlib, and a plot no widgets.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from course_lib.viz.block_tables import block_explorer
    from course_lib.viz.bug_plots import noise_plot, signature_plot, zoo_plot, zoo_table
    from course_lib.viz.dashboard import Dashboard, dashboard_html
    from course_lib.viz.kv_budget import kv_calculator
    from course_lib.viz.live import live_metrics
    from course_lib.viz.memory_maps import memory_map
    from course_lib.viz.picture import Picture
    from course_lib.viz.playground import fragmentation_playground
    from course_lib.viz.preference_widget import collect_preferences
    from course_lib.viz.run import entropy_and_length, mismatch_curve, phase_times, reward_curve, run_figure
    from course_lib.viz.tables import Table, answers_table, receipt_table, samples_table
    from course_lib.viz.tensorboard_log import TensorBoardLog
    from course_lib.viz.terminal import TerminalView
    from course_lib.viz.time_travel import trace_viewer
    from course_lib.viz.views import Views
    from course_lib.viz.zero_budget import zero_calculator
    from course_lib.viz.zero_picture import who_holds_what

__all__ = [
    "Dashboard",
    "Picture",
    "Table",
    "TensorBoardLog",
    "TerminalView",
    "Views",
    "answers_table",
    "block_explorer",
    "collect_preferences",
    "dashboard_html",
    "entropy_and_length",
    "fragmentation_playground",
    "kv_calculator",
    "live_metrics",
    "memory_map",
    "mismatch_curve",
    "noise_plot",
    "phase_times",
    "receipt_table",
    "reward_curve",
    "run_figure",
    "samples_table",
    "signature_plot",
    "trace_viewer",
    "who_holds_what",
    "zero_calculator",
    "zoo_plot",
    "zoo_table",
]

# No module may have the name of what it gives: once imported, it would stand in that one's place.
_MODULES = {
    "block_tables": ["block_explorer"],
    "bug_plots": ["noise_plot", "signature_plot", "zoo_plot", "zoo_table"],
    "dashboard": ["Dashboard", "dashboard_html"],
    "kv_budget": ["kv_calculator"],
    "live": ["live_metrics"],
    "memory_maps": ["memory_map"],
    "picture": ["Picture"],
    "playground": ["fragmentation_playground"],
    "preference_widget": ["collect_preferences"],
    "run": ["entropy_and_length", "mismatch_curve", "phase_times", "reward_curve", "run_figure"],
    "tables": ["Table", "answers_table", "receipt_table", "samples_table"],
    "tensorboard_log": ["TensorBoardLog"],
    "terminal": ["TerminalView"],
    "time_travel": ["trace_viewer"],
    "views": ["Views"],
    "zero_budget": ["zero_calculator"],
    "zero_picture": ["who_holds_what"],
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
