"""The dashboard of a run: live in the notebook while the loop runs, and one HTML file afterwards. Both are one picture."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import traitlets
from IPython.display import display

from course_lib.viz.dashboard_data import FULL, LIVE, Limits, dashboard_data
from course_lib.viz.dashboard_figure import dashboard_figure, dashboard_words
from course_lib.viz.dashboard_run import RunFiles
from course_lib.viz.picture import Picture, bundle, pack, stylesheet
from course_lib.viz.theme import CourseFigure

if TYPE_CHECKING:
    from course_lib.rl import RLLoop

_LARGEST = 1_400_000
"""Bytes of packed data: a file of it can be sent by mail, and a notebook with it stays light."""

_REST = 20
"""How many times as long as a drawing took nothing is drawn: a long run's takes longer."""


def dashboard_html(run: str | Path, out: str | Path | None = None, compare: str | Path | None = None) -> Path:
    """Write a run's dashboard as one web page, which needs neither a kernel nor a network.

    Args:
        run: the run's folder, usually `runs/<name>`; the run need not be finished.
        out: the file to write; `dashboard.html` in the run's folder where None is given.
        compare: the folder of a second run, drawn over the first.

    Returns:
        The file.

    Raises:
        ValueError: a folder holds no run, or a run without a single record; or `out` can't be written.
    """
    folders = [Path(folder) for folder in (run, *([] if compare is None else [compare]))]
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder: give the folder of a run, such as runs/capstone")
    dashboard = Dashboard(*folders)
    for files in dashboard.runs:
        if not files.records:
            raise ValueError(f"{files.folder} has no record yet: its metrics.jsonl is missing or empty")
    target = folders[0] / "dashboard.html" if out is None else Path(out)
    try:
        return dashboard.to_html(target)
    except OSError as error:
        raise ValueError(f"{target} can't be written ({error.strerror}): give another file with --out") from error


class Dashboard(Picture):
    """A run as a picture: `loop.run(viz.Dashboard())` draws it as it goes, `viz.Dashboard("runs/capstone")` what is there.

    It shows the curves, the receipts, what ran when with the KV cache's use under it, and the samples token by token.

    Args:
        loop_or_run: the loop that will be watched, or a run's folder; a loop that runs with this view attaches itself.
        compare: the folder of another run, drawn over this one.
        title: what to see in it.
        refresh: seconds between two updates, at the least; drawing never takes more than a twentieth of the time.

    Attributes:
        runs: what was read of the run, and of the one that it is compared with.
        now: what the loop is at, in words; empty when it is not running.

    Raises:
        ValueError: a folder holds no run, or `refresh` is below 0.
    """

    _esm = bundle("dashboard.mjs")
    _css = stylesheet("dashboard.css")
    now = traitlets.Unicode().tag(sync=True)

    def __init__(
        self,
        loop_or_run: "RLLoop | str | Path | None" = None,
        compare: str | Path | None = None,
        *,
        title: str = "",
        refresh: float = 0.5,
    ):
        if refresh < 0:
            raise ValueError(f"refresh is {refresh}; expected seconds, 0 or more")
        self._own: RunFiles | None = None
        self._others = [] if compare is None else [RunFiles(compare)]
        self._title, self._refresh, self._next = title, refresh, float("-inf")
        self._steps, self._completed = 0, 0
        self._handle: Any = None
        super().__init__(frame=-1)  # the newest step, until the reader picks one
        if loop_or_run is not None:
            self.attach(loop_or_run)
        self.redraw()

    @property
    def runs(self) -> list[RunFiles]:
        """The run, and the one that it is compared with."""
        return [*([] if self._own is None else [self._own]), *self._others]

    def attach(self, loop_or_run: "RLLoop | str | Path") -> None:
        """Read the run of a loop, or in a folder. Without it, a live run is drawn from its records alone, without samples."""
        folder = loop_or_run if isinstance(loop_or_run, (str, Path)) else loop_or_run.run_folder.path
        self._own = RunFiles(folder)

    def redraw(self, limits: Limits | None = None) -> None:
        """Draw all that is known.

        Args:
            limits: how much of it; as much as fits into a file where None is given.
        """
        start = time.monotonic()
        for limit in FULL if limits is None else (limits,):
            packed = pack(dashboard_data(self.runs, limit), level=6 if limits is None else 1)
            if len(packed) <= _LARGEST:
                break
        title = self._title or (" against ".join(run.name for run in self.runs) or "A run that has not begun")
        self.payload = {"title": title, "packed": packed}
        now = time.monotonic()
        self._next = now + max(self._refresh, _REST * (now - start))

    def started(self, steps: int, completed: int) -> None:
        """Show the picture in the cell that runs."""
        if self._own is None:
            self._own = RunFiles(None)
        self._own.refresh()
        self._steps, self._completed = steps, completed
        self.redraw(LIVE)
        self._handle = display(self, display_id=True)

    def phase(self, name: str) -> None:
        """Name the phase that the loop is in."""
        self.now = f"step {min(self._completed + 1, self._steps)} of {self._steps}: {name}"

    def step(self, record: dict[str, Any]) -> None:
        """Take in a step's record, and draw it if the last drawing is old enough."""
        if self._own is None:
            self._own = RunFiles(None)
        self._own.add(record)
        self._completed = record["step"]
        if time.monotonic() >= self._next:
            self.redraw(LIVE)

    def finished(self) -> None:
        """Draw the run with all of its samples, and put the finished picture into the cell's output."""
        self.now = ""
        self.redraw()
        if self._handle is not None:  # there is none outside of a notebook
            # The cell's output holds the picture as it was when it was first shown: what doesn't move is drawn anew.
            self._handle.update(self)

    def figure(self) -> CourseFigure:
        """Return the charts, the receipts and the newest steps' phases, without motion."""
        return dashboard_figure(self.runs, self.payload["title"])

    def words(self) -> str:
        """Return each run in a few figures."""
        return dashboard_words(self.runs, self.payload["title"])
