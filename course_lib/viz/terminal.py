"""The view of a run in a terminal: a live panel, or a line a step where the output is a file or a pipe."""

import math
import sys
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar as Bar
from rich.table import Table
from rich.text import Text

from course_lib.viz.series import PHASES, Records

_LEVELS = "▁▂▃▄▅▆▇█"
_ASCII_LEVELS = "_.-=+*%#"
_SPARK_WIDTH = 48


class TerminalView:
    """A `LoopView` for a terminal. What happens once, such as a refused step, is printed above the panel and stays there.

    Args:
        console: where to draw; the terminal where None is given.
        history: records of the run's starts before this one, for a run that resumes.
        clock: seconds that only go up.
    """

    def __init__(
        self, console: Console | None = None, history: Records = (), clock: Callable[[], float] = time.monotonic
    ):
        # CI sets FORCE_COLOR for logs, and rich then takes a pipe for a terminal, so ask the stream itself.
        self.console = console or Console(force_interactive=None if sys.stdout.isatty() else False)
        self.records: list[dict[str, Any]] = list(history)
        self.steps, self.completed = 0, 0
        self._clock = clock
        self._phase, self._phase_start, self._begun = "start", clock(), clock()
        self._ended: float | None = None
        self._step_start: float | None = None
        self._walls: list[float] = []
        self._live: Live | None = None

    def started(self, steps: int, completed: int) -> None:
        """Open the panel."""
        self.steps, self.completed = steps, completed
        self._begun, self._phase_start, self._ended = self._clock(), self._clock(), None
        if self.console.is_interactive:
            # The panel is made anew at each refresh, so its clocks run while a phase takes long.
            self._live = Live(get_renderable=self.render, console=self.console, refresh_per_second=4)
            self._live.start()
        elif completed:
            self._say(f"resumed after step {completed} of {steps}")

    def phase(self, name: str) -> None:
        """Name the phase that the loop is in."""
        self._phase, self._phase_start = name, self._clock()
        if name == "generate":
            self._step_start = self._phase_start

    def step(self, record: dict[str, Any]) -> None:
        """Take in a step's record."""
        self.records.append(record)
        if record["step"]:
            self.completed = record["step"]
        if self._step_start is not None:
            self._walls.append(self._clock() - self._step_start)
            self._step_start = None
        if self._live is None:
            self._say(self._line(record))
        for warning in warnings(record):
            self._say(warning, "bold red")
        if self._live is not None:
            self._live.refresh()

    def finished(self) -> None:
        """Leave the last panel on the screen."""
        if self._ended is not None:
            return
        self._ended = self._clock()
        self._phase = "done" if self.completed >= self.steps else f"stopped at step {self.completed}"
        live, self._live = self._live, None
        if live is not None:
            live.stop()
        elif not self.console.is_interactive:
            self._say(f"{self._phase}: {self.completed} of {self.steps} steps in {_clock(self._elapsed())}")

    def render(self) -> RenderableType:
        """Return the panel as it is now."""
        facts = Table.grid(padding=(0, 2))
        facts.add_column(style="dim", no_wrap=True)
        facts.add_column(overflow="fold")
        for name, value in self._facts().items():
            facts.add_row(name, Text(value, style="bold red" if name == "refused" else ""))
        title = f"Training: step {self.completed} of {self.steps}"
        return Panel(Group(self._progress(), Text(), facts), title=title, title_align="left", width=self._width())

    def _progress(self) -> RenderableType:
        grid = Table.grid(padding=(0, 1), expand=True)
        grid.add_column(ratio=1)
        grid.add_column(no_wrap=True, justify="right")
        left = "" if self._ended else f" | {self._left()} left"
        share = self.completed / self.steps if self.steps else 0
        times = f"{share:.0%} | {_clock(self._elapsed())}{left}"
        grid.add_row(Bar(total=max(1, self.steps), completed=self.completed), times)
        return grid

    def _facts(self) -> dict[str, str]:
        last: dict[str, Any] = next((record for record in reversed(self.records) if record["step"]), {})
        running = "" if self._ended else f"  {self._clock() - self._phase_start:.0f} s"
        facts = {"phase": self._phase + running}
        if "reward" in last:
            facts["reward"] = f"{last['reward']:.3f}  {self._history()}"
        measured = [(record["step"], record["held_out"]) for record in self.records if "held_out" in record]
        if measured:
            # Where they don't all fit, the first tells where the run came from and the last ones where it is.
            chosen = measured if len(measured) <= 5 else [measured[0], *measured[-4:]]
            facts["held out"] = ", ".join(f"{share:.0%} at step {step}" for step, share in chosen)
        if last:
            facts["samples"] = ", ".join(_about_samples(last)) or "not measured"
        facts |= self._about_syncs(last)
        totals = self._totals()
        if totals:
            whole = sum(totals.values()) or 1.0
            facts["time"] = ", ".join(f"{name} {seconds / whole:.0%}" for name, seconds in totals.items())
        if last.get("tokens_per_second"):
            facts["speed"] = f"{last['tokens_per_second']:.0f} tokens/s, {last['seconds']['step']:.1f} s a step"
        peak = self.records[-1].get("peak_memory") if self.records else None
        if peak:
            facts["peak memory"] = ", ".join(f"{name} {size:.1f} GiB" for name, size in peak.items())
        refused = [str(record["step"]) for record in self.records if was_refused(record)]
        if refused:
            facts["refused"] = f"{len(refused)} so far, last step {refused[-1]}"
        return facts

    def _about_syncs(self, last: dict[str, Any]) -> dict[str, str]:
        receipts = [record["receipt"] for record in self.records if record.get("receipt")]
        if not receipts:
            return {}
        clean = sum(bool(receipt["ok"]) for receipt in receipts)
        newest = last.get("receipt") or receipts[-1]
        gap = f"gap {newest['gap']:.4f} nats, noise floor {newest['noise_floor']:.4f}"
        return {"receipts": f"{clean} of {len(receipts)} clean, {gap}"}

    def _totals(self) -> dict[str, float]:
        totals = {name: sum(record.get("seconds", {}).get(name, 0.0) for record in self.records) for name in PHASES}
        return totals if any(totals.values()) else {}

    def _history(self) -> str:
        rewards = [record["reward"] for record in self.records if "reward" in record]
        utf = self.console.encoding.lower().startswith("utf")
        bars = sparkline(rewards, min(_SPARK_WIDTH, max(8, self._width() - 48)), _LEVELS if utf else _ASCII_LEVELS)
        known = [reward for reward in rewards if math.isfinite(reward)]
        return f"{bars}  {min(known):.3f} to {max(known):.3f}" if known else bars

    def _line(self, record: dict[str, Any]) -> str:
        parts = [f"step {record['step']}/{self.steps}"]
        if "reward" in record:
            parts.append(f"reward {record['reward']:.3f}")
        if "held_out" in record:
            parts.append(f"held out {record['held_out']:.0%}")
        parts += _about_samples(record)
        receipt = record.get("receipt")
        if receipt:
            parts.append(f"receipt {'clean' if receipt['ok'] else 'FAILED'} (gap {receipt['gap']:.4f} nats)")
        if record["step"]:
            parts += [f"{record.get('seconds', {}).get('step', math.nan):.1f} s", f"{self._left()} left"]
        return "  ".join(parts)

    def _left(self) -> str:
        if self.completed >= self.steps:
            return "0:00"
        if not self._walls:
            return "?"
        # The median, because a first step that builds kernels says nothing about the others.
        usual = median(self._walls[-10:])
        spent = self._clock() - self._step_start if self._step_start is not None else 0.0
        return _clock(max(0.0, usual * (self.steps - self.completed) - min(spent, usual)))

    def _elapsed(self) -> float:
        return (self._clock() if self._ended is None else self._ended) - self._begun

    def _width(self) -> int:
        return min(self.console.width, 100)

    def _say(self, text: str, style: str = "") -> None:
        # A log has no width: a line that is broken at 80 columns can't be searched.
        self.console.print(Text(text, style=style), soft_wrap=self._live is None, markup=False, highlight=False)


def was_refused(record: dict[str, Any]) -> bool:
    """Say whether the trainer refused the step: there was something to learn, and no weight changed."""
    return not record.get("applied", True) and bool(record.get("groups_with_signal"))


def warnings(record: dict[str, Any]) -> list[str]:
    """Return what is wrong with a step, in words."""
    found = []
    if was_refused(record):
        found.append(
            f"step {record['step']}: loss or gradient was not finite; the step was refused, the weights are untouched."
        )
    receipt = record.get("receipt")
    if receipt and not receipt["ok"]:
        found.append(
            f"step {record['step']}: the weight sync to version {receipt['version']} failed its receipt:"
            f" {receipt['culprit']}."
        )
    return found


def sparkline(values: Sequence[float], width: int = _SPARK_WIDTH, levels: str = _LEVELS) -> str:
    """Return the values as a row of small bars from their lowest to their highest; a blank stands where one is not finite.

    More values than `width` are averaged, so many to a bar.
    """
    count = min(width, len(values))
    bars = []
    for place in range(count):
        part = values[place * len(values) // count : (place + 1) * len(values) // count]
        known = [value for value in part if math.isfinite(value)]
        bars.append(sum(known) / len(known) if known else math.nan)
    known = [value for value in bars if math.isfinite(value)]
    if not known:
        return " " * count
    low, span = min(known), (max(known) - min(known)) or 1.0
    return "".join(
        levels[round((value - low) / span * (len(levels) - 1))] if math.isfinite(value) else " " for value in bars
    )


def _about_samples(record: dict[str, Any]) -> list[str]:
    shown = {"length": "length {:.1f} tokens", "entropy": "entropy {:.3f} nats", "mismatch": "mismatch {:.4f} nats"}
    return [form.format(record[name]) for name, form in shown.items() if record.get(name) is not None]


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
