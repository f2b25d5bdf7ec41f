"""A Jupyter kernel that a learner's code can't hang: each run has a time limit, and the kernel a memory limit."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from typing import Any, Literal, Self

import psutil
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager

Status = Literal["ok", "error", "too-slow", "out-of-memory", "died"]
_LOOK_EVERY = 0.1  # seconds between two looks at the memory and at whether the kernel lives
_START = 120.0  # seconds that a kernel may take to start on a busy machine


@dataclass(frozen=True)
class Run:
    """How a piece of code went: its status, what it did wrong as the end of a sentence, and seconds."""

    status: Status
    said: str = ""
    seconds: float = 0.0


class _Manager(KernelManager):
    """The kernel of the interpreter that grades, whatever kernels are registered on the machine."""

    @property
    def kernel_spec(self) -> KernelSpec:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="Python 3", language="python")


class LimitedKernel:
    """A fresh kernel, as a context manager. Outputs are not read: what code prints earns nothing.

    Args:
        folder: the working folder.
        memory: bytes that the kernel and its children may hold together, as resident memory.
        env: environment variables beside this process's own.

    Attributes:
        alive: whether it can run more code.

    Raises:
        RuntimeError: it did not start.
    """

    def __init__(self, folder: Path, memory: int, env: Mapping[str, str]):
        self._manager = _Manager()
        self._memory = memory
        void = subprocess.DEVNULL
        self._manager.start_kernel(cwd=str(folder), env={**os.environ, **env}, stdout=void, stderr=void)
        self._client: BlockingKernelClient = self._manager.client()
        self._client.start_channels(iopub=False, stdin=False, hb=False)
        self._process = psutil.Process(self._manager.provisioner.pid)  # type: ignore[union-attr]
        self.alive = True

    def __enter__(self) -> Self:
        first = self.run("", _START)
        if first.status != "ok":
            self.__exit__()
            raise RuntimeError(f"the kernel did not start: {first.said}")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._client.stop_channels()
        self._manager.cleanup_resources()

    def __repr__(self) -> str:
        return f"LimitedKernel(alive={self.alive}, memory={self._memory / 2**30:.1f} GiB)"

    def run(self, code: str, seconds: float) -> Run:
        """Run code. After `too-slow`, `out-of-memory` and `died` the kernel is gone.

        Args:
            code: what a cell holds.
            seconds: how long it may take.
        """
        # Unless it is told not to, a kernel that has met an error throws away what comes right after it.
        message = self._client.execute(code, store_history=False, allow_stdin=False, stop_on_error=False)
        began = time.monotonic()
        while True:
            reply = self._reply(message)
            took = time.monotonic() - began
            leaves = reply is not None and any(ask["source"] == "ask_exit" for ask in reply.get("payload", ()))
            if reply is not None and not leaves:
                return Run("ok", "", took) if reply["status"] == "ok" else Run("error", _error(reply), took)
            if leaves or not self._manager.is_alive():
                self._stop()
                return Run("died", "ended the kernel", took)
            if self._held() > self._memory:
                self._stop()
                limit = f"took more than {self._memory / 2**30:.3g} GiB of memory"
                return Run("out-of-memory", limit, took)
            if took > seconds:
                self._stop()  # not an interrupt: code may swallow it, and one that comes late hits the next cell
                return Run("too-slow", f"was not finished after {seconds:g} s: is there a loop that never ends?", took)

    def _reply(self, message: str) -> dict[str, Any] | None:
        try:
            reply = self._client.get_shell_msg(timeout=_LOOK_EVERY)
        except Empty:
            return None
        return reply["content"] if reply["parent_header"].get("msg_id") == message else None

    def _family(self) -> list[psutil.Process]:
        try:
            return [self._process, *self._process.children(recursive=True)]
        except psutil.Error:  # it has just ended
            return []

    def _held(self) -> int:
        total = 0
        for process in self._family():
            with suppress(psutil.Error):
                total += process.memory_info().rss
        return total

    def _stop(self) -> None:
        if self.alive:
            self.alive = False
            family = self._family()
            self._manager.shutdown_kernel(now=True)
            for process in family:
                with suppress(psutil.Error):
                    process.kill()


def _error(reply: Mapping[str, Any]) -> str:
    said = " ".join(f"{reply.get('ename', 'error')}: {reply.get('evalue', '')}".split())
    return f"raised {said.removesuffix(':')[:300]}"
