"""The fragmentation playground of lesson 02: turn a knob, serve the same requests again, compare where the memory went."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ipywidgets

from course_lib.fragmentation import (
    BestFit,
    Buddy,
    FirstFit,
    Simulation,
    poisson_requests,
    reserve_exact,
    reserve_max,
    reserve_pow2,
    sharegpt,
    simulate,
    uniform,
)
from course_lib.fragmentation.contiguous import Allocator
from course_lib.fragmentation.memory import Reserve
from course_lib.fragmentation.workload import Lengths
from course_lib.viz.memory_maps import MemoryMap
from course_lib.viz.memory_strip import Run, filmstrip
from course_lib.viz.picture import mimebundle
from course_lib.viz.theme import CourseFigure

LIMIT = 1024
"""The longest sequence in tokens: half of the paper's, so that single requests can be seen in the map."""
LENGTHS: dict[str, Lengths] = {
    "chats (ShareGPT)": sharegpt(LIMIT),
    "short (8 to 64)": uniform(8, 64),
    "long (256 to 512)": uniform(256, 512),
    "anything (4 to 512)": uniform(4, 512),
}
ALLOCATORS: dict[str, Callable[[int], Allocator]] = {"first fit": FirstFit, "best fit": BestFit, "buddy": Buddy}
RESERVE: dict[str, Reserve] = {
    f"maximum ({LIMIT})": reserve_max,
    "power of two": reserve_pow2,
    "exact (oracle)": reserve_exact,
}
SIZES = (2048, 4096, 8192, 16384)
"""Slots of the memory; powers of two, so that the buddy allocator can use all of it."""
_REQUESTS, _SEED, _SNAPSHOTS, _REMEMBERED = 100, 0, 300, 5


@dataclass(frozen=True)
class Setting:
    """The playground's knobs.

    Attributes:
        rate: requests that arrive a second.
        lengths: a key of `LENGTHS`.
        allocator: a key of `ALLOCATORS`.
        reserve: a key of `RESERVE`.
        size: slots of the memory.
    """

    rate: float
    lengths: str
    allocator: str
    reserve: str
    size: int

    def run(self) -> Simulation:
        """Serve the requests."""
        requests = poisson_requests(self.rate, _REQUESTS, LENGTHS[self.lengths], _SEED)
        allocator = ALLOCATORS[self.allocator](self.size)
        return simulate(requests, allocator, RESERVE[self.reserve], LIMIT, max_snapshots=_SNAPSHOTS)

    def __str__(self) -> str:
        return f"{self.allocator}, {self.reserve}, {self.lengths}, {self.rate:g}/s, {self.size:,} slots"


def fragmentation_playground() -> "Playground":
    """Return sliders and menus over a memory map: every change serves the same 100 requests again, in well under a second.

    It needs a running kernel; a saved notebook shows its last run.
    """
    return Playground()


class Playground(ipywidgets.VBox):
    """The playground that `fragmentation_playground` returns.

    Attributes:
        controls: the knobs, by the name of what they set in `Setting`.
        setting: what they say.
        simulation: what came of it.
    """

    def __init__(self) -> None:
        self.controls: dict[str, Any] = {
            "rate": ipywidgets.FloatSlider(
                value=6, min=1, max=20, step=1, description="Requests/s", readout_format=".0f"
            ),
            "size": ipywidgets.SelectionSlider(value=4096, options=SIZES, description="Memory (slots)"),
            "lengths": ipywidgets.Dropdown(options=list(LENGTHS), description="Lengths"),
            "allocator": ipywidgets.Dropdown(options=list(ALLOCATORS), description="Allocator"),
            "reserve": ipywidgets.Dropdown(options=list(RESERVE), description="Reserve"),
        }
        for knob in self.controls.values():
            knob.continuous_update = False
            knob.style.description_width = "100px"
            knob.layout.width = "330px"
            knob.observe(self._turned, names="value")
        self._runs: list[Run] = []
        self.setting, self.simulation = self._run()
        self.map = MemoryMap(self.simulation.snapshots)
        self._draw()
        row = ipywidgets.Box(list(self.controls.values()), layout={"flex_flow": "row wrap"})
        super().__init__([row, self.map])

    def figure(self) -> CourseFigure:
        """Return some events of the last run, while it was busy, and the runs' bars."""
        shots = self.map.snapshots
        busy = shots[len(shots) // 5 : -len(shots) // 5]
        return filmstrip(busy, self.map.payload["title"], self._runs, limit=3)

    def words(self) -> str:
        """Return the runs in words, the newest first."""
        lines = ["Fragmentation playground: where the memory went, on average over time"]
        for run in self._runs:
            told = ", ".join(f"{part} {share:.1%}" for part, share in run.shares().items())
            lines.append(f"  {run.label}: {told}, mean batch {run.mean_batch:.1f}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self.words()

    def _run(self) -> tuple[Setting, Simulation]:
        setting = Setting(**{name: knob.value for name, knob in self.controls.items()})
        return setting, setting.run()

    def _turned(self, _change: object) -> None:
        self.setting, self.simulation = self._run()
        self._draw()

    def _draw(self) -> None:
        run = Run(str(self.setting), self.simulation.waste, self.simulation.mean_batch)
        self._runs = [run, *self._runs][:_REMEMBERED]
        title = f"{run.label[0].upper()}{run.label[1:]}: {run.waste.used:.0%} of the memory used"
        self.map.redraw(self.simulation.snapshots, title, self._runs)

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        return mimebundle(super()._repr_mimebundle_(**kwargs), self.words(), self.figure())
