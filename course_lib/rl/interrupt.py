"""Ctrl-C that lets the current step finish."""

import signal
import sys
import threading
from types import TracebackType
from typing import Any, Self


class Interrupt:
    """While it is entered, the first Ctrl-C sets `requested`, and the second raises KeyboardInterrupt as usual."""

    def __init__(self) -> None:
        self.requested = False
        self._before: Any = None

    def __enter__(self) -> Self:
        # Python allows signal handlers in the main thread only; elsewhere Ctrl-C does not arrive anyway.
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _handle(self, *_: object) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        print("\nstopping after this step, with a checkpoint (Ctrl-C again stops at once)", file=sys.stderr, flush=True)
