"""Several views of one run."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from course_lib.rl.progress import LoopView


class Views:
    """A `LoopView` that tells several what it is told: `loop.run(Views(Dashboard(), TensorBoardLog("runs/a/board")))`.

    Args:
        views: who is told, in this order.
    """

    def __init__(self, *views: "LoopView"):
        self.views = views

    def attach(self, loop: Any) -> None:
        """Tell those which loop they watch that want to know."""
        for view in self.views:
            if hasattr(view, "attach"):
                view.attach(loop)

    def started(self, steps: int, completed: int) -> None:
        """The run begins."""
        for view in self.views:
            view.started(steps, completed)

    def phase(self, name: str) -> None:
        """The loop enters a phase."""
        for view in self.views:
            view.phase(name)

    def step(self, record: dict[str, Any]) -> None:
        """A step's record is complete."""
        for view in self.views:
            view.step(record)

    def finished(self) -> None:
        """The run has ended."""
        for view in self.views:
            view.finished()

    def __repr__(self) -> str:
        return f"Views({', '.join(map(repr, self.views))})"
