"""Watching a run: what a view is told, and the plainest view, a progress bar."""

import sys
from typing import Any, Protocol

from tqdm import tqdm


class LoopView(Protocol):
    """Watches a run. All calls come from the loop's own thread."""

    def started(self, steps: int, completed: int) -> None:
        """The run begins: `steps` in all, `completed` of them before."""

    def phase(self, name: str) -> None:
        """The loop enters a phase: generate, reward, train, sync, evaluate or checkpoint."""

    def step(self, record: dict[str, Any]) -> None:
        """A step's record is complete; step 0 is the measurement before the first."""

    def finished(self) -> None:
        """The run has ended, by itself, by Ctrl-C or by an error."""


class NoView:
    """Shows nothing: what ranks other than the first look through."""

    def started(self, steps: int, completed: int) -> None:
        """Show nothing."""

    def phase(self, name: str) -> None:
        """Show nothing."""

    def step(self, record: dict[str, Any]) -> None:
        """Show nothing."""

    def finished(self) -> None:
        """Show nothing."""


class ProgressBar:
    """A line with the share done, the time left, and the newest reward and held-out accuracy."""

    def __init__(self) -> None:
        self._bar: Any = tqdm(disable=True)  # until a run starts; a single `loop.step()` shows nothing
        self._shown: dict[str, str] = {}

    def started(self, steps: int, completed: int) -> None:
        """Draw the bar."""
        self._bar = tqdm(total=steps, initial=completed, unit="step", file=sys.stdout, dynamic_ncols=True)

    def phase(self, name: str) -> None:
        """Name the phase in front of the bar."""
        self._bar.set_description(f"{name:<10}")

    def step(self, record: dict[str, Any]) -> None:
        """Move the bar, and show what is new."""
        for name in ("reward", "held_out"):
            if name in record:
                self._shown[name] = f"{record[name]:.2f}"
        self._bar.set_postfix(self._shown)
        self._bar.update(1 if record["step"] else 0)
        if not record.get("applied", True) and record.get("groups_with_signal"):
            tqdm.write(
                f"step {record['step']}: loss or gradient was not finite; the step was refused, the weights are untouched."
            )

    def finished(self) -> None:
        """Close the bar."""
        self._bar.close()
