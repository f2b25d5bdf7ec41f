"""A run's numbers for TensorBoard."""

from pathlib import Path
from typing import Any

from course_lib.viz.series import scalars


class TensorBoardLog:
    """A `LoopView` that writes every number of each record as a scalar: `reward`, `receipt/gap`, `seconds/train`.

    Look at them with `tensorboard --logdir FOLDER`. A run that resumes goes on in the same folder, and what was written
    after the checkpoint that it resumes from is purged.

    Args:
        folder: where the event files go, such as `runs/<name>/tensorboard`.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._writer: Any = None

    def started(self, steps: int, completed: int) -> None:  # noqa: ARG002
        """Open a new event file."""
        from torch.utils.tensorboard import SummaryWriter  # with protobuf, half a second that a run need not wait for

        self._writer = SummaryWriter(str(self.folder), purge_step=completed + 1 if completed else None)

    def phase(self, name: str) -> None:
        """Phases are in the record, as `seconds/<phase>`."""

    def step(self, record: dict[str, Any]) -> None:
        """Write a step's numbers; they are on the disk when this returns."""
        if self._writer is None:
            raise RuntimeError("TensorBoardLog got a step before the run began: call started(steps, completed) first")
        for name, number in scalars(record).items():
            if name != "step":
                self._writer.add_scalar(name, number, record["step"])
        self._writer.flush()

    def finished(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def __repr__(self) -> str:
        return f"TensorBoardLog({self.folder})"
