"""The terminal's view: a live panel in a terminal, plain lines in a pipe."""

import io
import math
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from course_lib.viz import TerminalView
from course_lib.viz.terminal import sparkline, warnings


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def drive(console: Console, records: list[dict[str, Any]], steps: int, **options: Any) -> TerminalView:
    clock = Clock()
    view = TerminalView(console, clock=clock, **options)
    view.started(steps, 0)
    for record in records:
        for phase in ("generate", "reward", "train", "sync") if record["step"] else ("evaluate",):
            view.phase(phase)
            clock.now += 2.0
        view.step(record)
    return view


def terminal(width: int = 100) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, force_interactive=True, width=width, color_system=None)


def pipe() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=80)


def written(console: Console) -> str:
    return console.file.getvalue()  # of the StringIO that the console was made with


def panel(view: TerminalView, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(view.render())
    return written(console)


def test_the_panel_tells_where_the_run_is(make: SimpleNamespace) -> None:
    view = drive(terminal(), make.run(10), 30)
    try:
        shown = panel(view)
    finally:
        view.finished()
    for part in ("step 10 of 30", "33%", "2:40 left", "sync", "0% at step 0", "23% at step 10", "10 of 10 clean"):
        assert part in shown
    for part in ("train 65%", "130 tokens/s", "host 4.8 GiB, gpu 20.5 GiB", "entropy", "length", "█"):
        assert part in shown


def test_the_last_panel_stays_on_the_screen(make: SimpleNamespace) -> None:
    console = terminal()
    drive(console, make.run(3), 30).finished()
    assert "stopped at step 3" in written(console).rsplit("Training", 1)[1]


def test_prints_of_others_while_the_panel_is_live_are_kept(make: SimpleNamespace) -> None:
    console = terminal()
    view = drive(console, make.run(1), 3)
    print("the engine says something")
    view.finished()
    assert "the engine says something" in written(console)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_panel_fits_its_terminal(width: int, make: SimpleNamespace) -> None:
    view = drive(terminal(width), make.run(12), 30)
    try:
        assert max(len(line) for line in panel(view, width).splitlines()) <= width
    finally:
        view.finished()


def test_a_pipe_gets_one_unbroken_line_a_step(make: SimpleNamespace) -> None:
    console = pipe()
    drive(console, make.run(3), 3).finished()
    lines = written(console).splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["step", "0/3"],
        ["step", "1/3"],
        ["step", "2/3"],
        ["step", "3/3"],
        ["done:", "3"],
    ]
    assert "held out 0%" in lines[0]
    assert "receipt clean (gap" in lines[1]
    assert "0:16 left" in lines[1]
    assert "\x1b" not in written(console)


def test_a_pipe_is_no_terminal_even_where_colour_is_forced() -> None:
    script = "from course_lib.viz.terminal import TerminalView; print(TerminalView().console.is_interactive)"
    shown = subprocess.run(
        [sys.executable, "-c", script], env={"FORCE_COLOR": "1", "TERM": "xterm"}, capture_output=True, text=True
    )
    assert shown.stdout.strip() == "False", shown.stderr


@pytest.mark.parametrize("where", [terminal, pipe])
def test_what_went_wrong_is_said_in_words(where: Any, make: SimpleNamespace) -> None:
    console = where()
    failed = make.step(2, receipt=make.receipt(2, 0.4, "stale lm_head"))
    view = drive(console, [make.step(1, applied=False, loss=math.nan), failed], 5)
    shown = panel(view)
    view.finished()
    text = " ".join(written(console).split())
    assert "step 1: loss or gradient was not finite; the step was refused, the weights are untouched." in text
    assert "step 2: the weight sync to version 2 failed its receipt: stale lm_head." in text
    assert "1 of 2 clean" in shown
    assert "refused" in shown


def test_a_step_without_a_signal_is_not_refused(make: SimpleNamespace) -> None:
    assert warnings(make.idle(1)) == []
    view = drive(pipe(), [make.measurement(), make.idle(1)], 5)
    assert "refused" not in panel(view)


def test_a_resumed_run_keeps_its_history(make: SimpleNamespace) -> None:
    view = TerminalView(pipe(), history=make.run(10))
    view.started(30, 10)
    view.step(make.step(11))
    assert "11 of 11 clean" in panel(view)
    assert "resumed after step 10 of 30" in written(view.console)


def test_it_stands_before_anything_was_measured() -> None:
    view = TerminalView(pipe())
    assert "step 0 of 0" in panel(view)
    view.started(3, 0)
    assert "? left" in panel(view)
    view.finished()
    view.finished()


def test_sparkline() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([0.0, math.nan, 1.0]) == "▁ █"
    assert sparkline([0.5, 0.5]) == "▁▁"
    assert sparkline([math.nan]) == " "
    assert sparkline([]) == ""
    assert len(sparkline(list(range(1000)), width=20)) == 20
