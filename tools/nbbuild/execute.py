"""Run a notebook in a fresh kernel of this very interpreter."""

import os
import re
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from nbformat import NotebookNode

from nbbuild.convert import describe, fix_metadata
from nbbuild.course import BuildError, Course

TRACEBACK_LINES = 15
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class ThisKernel(AsyncKernelManager):
    """The kernel of the interpreter that runs the builder, whatever kernels are registered on the machine."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """The command that starts the kernel."""
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="Python 3", language="python")


def needs_run(cell: NotebookNode) -> bool:
    """Whether a run executes this cell: it holds code and is not tagged `skip-execution`."""
    tagged = "skip-execution" in cell.metadata.get("tags", [])
    return bool(cell.cell_type == "code" and cell.source.strip() and not tagged)


def execute(
    notebook: NotebookNode,
    course: Course,
    timeout: float,
    env: Mapping[str, str] | None = None,
    folder: str = "notebooks",
) -> None:
    """Run a notebook's cells in order and store their outputs in it, printing one line a cell.

    The working folder is the notebook's, as in JupyterLab, so a relative path means the same to a reader and the build.

    Args:
        notebook: the notebook to run, changed in place.
        course: the checkout, put on the kernel's import path.
        timeout: seconds that one cell may take.
        env: environment variables for the kernel beside this process's own, such as `COURSE_POLICY=tiny`.
        folder: the notebook's folder in the checkout.

    Raises:
        BuildError: a cell failed, ran out of time or killed the kernel; the message shows its source and traceback.
    """
    progress = _Progress(notebook)
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_manager_class=ThisKernel,
        record_timing=False,  # no timestamps in what is committed
        on_cell_execute=progress.start,
        on_cell_executed=progress.stop,
    )
    path = os.pathsep.join(filter(None, [str(course.root), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, **(env or {})}
    # What the kernel says beside the cells' outputs is of use only when it dies.
    with tempfile.TemporaryFile() as log:
        try:
            client.execute(cwd=str(course.root / folder), env=environment, stdout=log, stderr=log)
        except CellExecutionError as error:
            raise BuildError(progress.report("failed", ANSI.sub("", error.traceback))) from error
        except CellTimeoutError as error:
            raise BuildError(progress.report(f"took more than {timeout:g} s; allow more with --timeout")) from error
        except (
            RuntimeError
        ) as error:  # nbclient's DeadKernelError, and jupyter_client's for a kernel that never started
            log.seek(0)
            raise BuildError(
                progress.report(f"lost its kernel ({error})", log.read().decode(errors="replace"))
            ) from error
    fix_metadata(notebook)


class _Progress:
    """Prints which cell is running, of how many, and how long it took."""

    def __init__(self, notebook: NotebookNode) -> None:
        self.notebook = notebook
        self.order = [index for index, cell in enumerate(notebook.cells) if needs_run(cell)]
        self.current = 0
        self.began = 0.0

    def start(self, cell: NotebookNode, cell_index: int) -> None:
        self.current, self.began = cell_index, time.monotonic()
        count = f"{self.order.index(cell_index) + 1}/{len(self.order)}"
        print(f"  [{count:>5}] {cell.source.strip().splitlines()[0][:80]:<80}", end=" ", flush=True)

    def stop(self, **_: Any) -> None:
        print(f"{time.monotonic() - self.began:7.1f} s", flush=True)

    def report(self, what: str, details: str = "") -> str:
        print(flush=True)
        source = "\n".join(f"    {line}" for line in self.notebook.cells[self.current].source.splitlines())
        ending = "".join(f"\n  | {line}" for line in details.rstrip().splitlines()[-TRACEBACK_LINES:])
        return f"{describe(self.notebook, self.current)} {what}:\n{source}{ending}"
