"""Plots, tables and the terminal's view of a run."""

from course_lib.viz.run import entropy_and_length, mismatch_curve, phase_times, reward_curve, run_figure
from course_lib.viz.tables import Table, answers_table, receipt_table, samples_table
from course_lib.viz.terminal import TerminalView

__all__ = [
    "Table",
    "TerminalView",
    "answers_table",
    "entropy_and_length",
    "mismatch_curve",
    "phase_times",
    "receipt_table",
    "reward_curve",
    "run_figure",
    "samples_table",
]
