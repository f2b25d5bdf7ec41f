"""vLLM's OpenAI-compatible server, as a child process that never outlives its caller."""

import http.client
import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from os import PathLike
from types import TracebackType
from typing import Any, Self

import psutil

from course_lib import machine
from course_lib.models import load_policy
from course_lib.serving.process_group import ProcessGroup
from course_lib.serving.vllm_engine import default_options

HOST = "127.0.0.1"
_POLL = 0.25  # seconds between two looks at a server that starts
_DYING = 10.0  # seconds in which a server whose engine is dead ends itself

# Of a launcher's rank, or of an engine in this process: the server is neither.
_NOT_FOR_THE_SERVER = {
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "VLLM_ENABLE_V1_MULTIPROCESSING",
}
_COMPLAINT = re.compile(r"(?:^|[\s.])((?:\w*(?:Error|Exception)|Value error|error)[:,] .+)")
_DEATH = re.compile(r"((?:[Ee]ngine core|Worker proc)\b.*? (?:died|exited) unexpectedly)")
_UNHELPFUL = ("Engine core initialization failed", "EngineCore encountered an issue", "cancelled")


class ServerError(RuntimeError):
    """The server can't start, did not become healthy in time, or has died; the message has the reason, and what to do."""


class VLLMServer:
    """vLLM's server, from the beginning of a `with` block to its end.

        with VLLMServer("smollm2") as server:
            answer = server.client().chat.completions.create(
                model=server.model, messages=[{"role": "user", "content": "Hi"}]
            )

    It runs `python -m vllm.entrypoints.openai.api_server`, which starts an engine core as its child. Both end with the block,
    be it by an exception or by Ctrl-C, and both end with this process, be it by a kill. (`start` and `stop` do the same by hand.)

    Args:
        model: a folder, or a name that `load_policy` knows.
        port: to listen on; a free one where None.
        timeout: seconds in which it must become healthy.
        on_progress: called with the seconds so far while it starts; where None, one line of output counts them.
        options: of its engine, as for `start_vllm`: `max_model_len=512` becomes `--max-model-len 512`.

    Attributes:
        model: what clients call the model.
        port: where it listens; None before it starts where it is to find one.

    Raises:
        PolicyError: there is no such model.
        ServerError: the port is none. From `start`: it is in use, or the server died or was not healthy in time; then no process
            is left.
    """

    def __init__(
        self,
        model: str | PathLike[str],
        port: int | None = None,
        *,
        timeout: float = 300,
        on_progress: Callable[[float], object] | None = None,
        **options: Any,
    ):
        if port is not None and not 1 <= port <= 65535:
            raise ServerError(f"port is {port}; expected 1 to 65535, or None for a free one")
        self._folder = load_policy(model)
        self.model = self._folder.name if os.sep in os.fspath(model) else os.fspath(model)
        self.port = port
        self._timeout, self._on_progress = timeout, on_progress
        self._options = options
        self._group: ProcessGroup | None = None
        self._client: Any = None
        self._why_not = "the server was not started: use `with VLLMServer(...) as server:`, or call start()"

    @property
    def base_url(self) -> str:
        """Where an OpenAI client finds it."""
        return f"http://{HOST}:{self.port}/v1"

    @property
    def pid(self) -> int | None:
        """The running server's process, which leads its process group; None where none runs."""
        return self._group.pid if self._group is not None else None

    @property
    def log(self) -> str:
        """What the running server has printed; empty where none runs."""
        return self._group.log() if self._group is not None else ""

    def start(self) -> Self:
        """Start it, and return when it is healthy."""
        if self._group is not None:
            raise ServerError(f"this server runs already, at {self.base_url}")
        machine.prepare()
        self.port = _refuse_busy(self.port) if self.port is not None else machine.free_port()
        options = {"host": HOST, "port": self.port, "served_model_name": self.model} | default_options() | self._options
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(self._folder)]
        environment = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_THE_SERVER}
        environment |= {"VLLM_LOGGING_LEVEL": "INFO", "PYTHONUNBUFFERED": "1"}
        self._group = ProcessGroup([*command, *arguments(options)], environment)
        try:
            self._await_health()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop it and its children; calling it twice is harmless."""
        group, self._group = self._group, None
        client, self._client = self._client, None
        if client is not None:
            client.close()
        if group is not None:
            self._why_not = "the server was stopped: start it again with start(), or make a new VLLMServer"
            group.end()

    def check(self) -> None:
        """Raise where the server can't answer.

        Raises:
            ServerError: it has died, or does not run; the message says why.
        """
        reason = self._death()
        if reason is not None:
            self.stop()
            self._why_not = reason
        if self._group is None:
            raise ServerError(self._why_not)

    def client(self) -> Any:
        """Return an `openai.OpenAI` that talks to this server.

        Raises:
            ServerError: as `check`.
        """
        import openai

        self.check()
        if self._client is None:
            # No proxy stands between us and our own child, and a server that has died is not worth a second try.
            direct = openai.DefaultHttpxClient(trust_env=False)
            self._client = openai.OpenAI(base_url=self.base_url, api_key="none", max_retries=0, http_client=direct)
        return self._client

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            # What a client says of a dead server is that a connection was refused; why it died, the server's log says.
            if kind is not None and kind.__module__.partition(".")[0] in ("openai", "httpx", "httpcore"):
                reason = self._death()
                if reason is not None:
                    raise ServerError(reason) from None
        finally:
            self.stop()

    def __repr__(self) -> str:
        return f"VLLMServer({self.model}, {f'at {self.base_url}' if self._group is not None else 'not running'})"

    def _await_health(self) -> None:
        assert self._group is not None
        show = self._on_progress or _show
        start, shown = time.monotonic(), -1
        while not self._healthy():
            seconds = time.monotonic() - start
            if self._group.wait(_POLL):
                raise ServerError(
                    f"the server {self._group.ending()} before it was healthy: {reason_in(self._group.log())}. {_ADVICE}"
                )
            if seconds > self._timeout:
                raise ServerError(
                    f"the server was not healthy after {self._timeout:.0f} s; the last that it said: "
                    f"{reason_in(self._group.log())}. Give it longer (timeout=...), or a smaller model."
                )
            if int(seconds) > shown:
                shown = int(seconds)
                show(seconds)
        if show is _show:
            print(f"\r{self.model} is served at {self.base_url} after {time.monotonic() - start:.0f} s", flush=True)

    def _healthy(self) -> bool:
        assert self.port is not None
        connection = http.client.HTTPConnection(HOST, self.port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _death(self) -> str | None:
        """Return what became of the server where it is dead, or about to be: one whose engine is dead ends itself soon."""
        group = self._group
        if group is None or (group.exit_code() is None and self._healthy()):
            return None
        group.wait(_DYING)
        ending = group.ending() if group.exit_code() is not None else "lives, but is not healthy"
        reason = reason_in(group.log(), last_words=False)
        return f"the server {ending}: {reason}. Start it again with start(), or make a new VLLMServer."


_ADVICE = (
    "Look at its options; if memory is short, lower kv_cache_memory_bytes, max_model_len or (on a GPU) gpu_memory_utilization, or "
    "stop what else runs."
)


def arguments(options: Mapping[str, Any]) -> list[str]:
    """Return an engine's options as the server's command line has them: `enforce_eager=True` is `--enforce-eager`."""
    found: list[str] = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            found.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, Mapping):
            found += [f"--{flag}", json.dumps(value)]
        elif isinstance(value, Sequence) and not isinstance(value, str):
            found += [f"--{flag}", *map(str, value)]
        elif value is not None:
            found += [f"--{flag}", str(value)]
    return found


def reason_in(log: str, last_words: bool = True) -> str:
    """Return the line of a server's log that says why it died: its last complaint, or where it made none, its last line.

    Args:
        log: all of it.
        last_words: whether the last line will do.
    """
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    complaints = [found.group(1) for line in lines if (found := _COMPLAINT.search(line))]
    telling = [line for line in complaints if not any(empty in line for empty in _UNHELPFUL)]
    deaths = _DEATH.findall(log)
    said = (telling or deaths or complaints or (lines if last_words else []) or ["it did not say why"])[-1]
    return said.partition(" [type=")[0].removeprefix("Value error, ").rstrip(".")


def _refuse_busy(port: int) -> int:
    """Return the port where nobody listens on it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else a server that has just ended counts
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ServerError(
                f"port {port} can't be used ({error.strerror or error}){_listener(port)}. Nothing was started. Give another one, "
                "port=None for a free one, or end what listens there."
            ) from None
    return port


def _listener(port: int) -> str:
    """Return who listens on a port, where the system tells."""
    with suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
                if connection.pid is not None:
                    return f"; {psutil.Process(connection.pid).name()} listens there, process {connection.pid}"
    return ""


def _show(seconds: float) -> None:
    print(f"\rvLLM's server is starting: {int(seconds)} s", end="", flush=True)
