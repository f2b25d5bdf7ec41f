"""The server's life: what it refuses to start, that it answers, that it dies with a reason, that nothing is left of it."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from course_lib import machine
from course_lib.models import PolicyError
from course_lib.serving import LLM, SamplingParams, ServerError, VLLMServer
from course_lib.serving.process_group import ProcessGroup
from course_lib.serving.server import arguments, reason_in

OPTIONS: dict[str, Any] = {
    "enforce_eager": True,
    "dtype": "float32",
    "max_model_len": 256,
    "kv_cache_memory_bytes": 8 << 20,
}


def eventually(holds: Callable[[], bool], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.05)
    return holds()


def family(pid: int) -> list[psutil.Process]:
    return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.slow
def test_the_real_server_from_start_to_murder(folder: Path) -> None:
    import openai

    seen: list[float] = []
    server = VLLMServer(folder, on_progress=seen.append, **OPTIONS)
    with pytest.raises(ServerError, match="not started"):
        server.client()
    everyone: list[psutil.Process] = []

    def use_it_until_it_dies() -> None:
        with server:
            assert seen == sorted(seen) and len(seen) > 2
            assert str(server.port) in repr(server) and "startup complete" in server.log
            everyone.extend(family(server.pid))
            assert len(everyone) >= 2  # the engine core is a process of its own
            with pytest.raises(ServerError, match=f"port {server.port} .*{everyone[0].pid}"):
                VLLMServer(folder, server.port).start()
            client = server.client()
            assert client is server.client()
            assert [model.id for model in client.models.list()] == [server.model] == [folder.name]

            prompt = list(range(20, 60))
            wish: dict[str, Any] = {"model": server.model, "prompt": prompt, "max_tokens": 100, "temperature": 0}
            (mine,) = LLM(folder, dtype="float32", num_blocks=64, device="cpu").generate(
                [prompt], SamplingParams(temperature=0, max_tokens=100, ignore_eos=True)
            )
            extra = {"ignore_eos": True, "return_token_ids": True}
            answer = client.completions.create(**wish, extra_body=extra).choices[0]
            assert answer.token_ids == mine.outputs[0].token_ids
            chunks = [chunk.choices[0] for chunk in client.completions.create(**wish, extra_body=extra, stream=True)]
            assert "".join(chunk.text for chunk in chunks) == answer.text
            pieces = [chunk.token_ids for chunk in chunks if chunk.token_ids]
            assert [token for piece in pieces for token in piece] == answer.token_ids
            assert len(pieces) > 1  # a busy machine sends several tokens at once, but not all
            with pytest.raises(openai.NotFoundError):  # a client's own mistake stays one
                client.completions.create(model="another", prompt="a")
            server.check()

            os.kill(everyone[0].pid, signal.SIGKILL)
            client.completions.create(**wish)

    with pytest.raises(ServerError, match=r"was killed by SIGKILL \(out of memory\?\): it did not say why") as caught:
        use_it_until_it_dies()
    assert caught.value.__suppress_context__
    assert not alive(everyone)
    for ask in (server.client, server.check):
        with pytest.raises(ServerError, match="server was stopped"):
            ask()


@pytest.mark.slow
def test_a_server_that_dies_before_it_is_healthy(folder: Path) -> None:
    started = time.monotonic()
    with pytest.raises(ServerError, match=r"ended with status 2 before it was healthy: .*unrecognized.*--nonsense"):
        VLLMServer(folder, on_progress=lambda seconds: None, nonsense=True).start()
    assert time.monotonic() - started < 200


def test_a_busy_port_is_refused_before_anything_starts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("course_lib.serving.server.ProcessGroup", None)
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        with pytest.raises(ServerError, match=rf"port {port} can't be used.*process {os.getpid()}\. .*port=None"):
            VLLMServer(folder, port).start()


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_that_is_none(folder: Path, port: int) -> None:
    with pytest.raises(ServerError, match=f"port is {port}; expected 1 to 65535"):
        VLLMServer(folder, port)


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=tmp_path.name):
        VLLMServer(tmp_path)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """The command is this Python program instead; everything around it is real."""

    def replace(program: str) -> None:
        monkeypatch.setattr(
            "course_lib.serving.server.ProcessGroup",
            lambda command, environment: ProcessGroup([sys.executable, "-u", "-c", program, *command[3:]], environment),
        )

    return replace


def test_patience_has_an_end(folder: Path, stand_in: Callable[[str], None]) -> None:
    stand_in("import time; print('loading'); time.sleep(60)")
    server = VLLMServer(folder, timeout=1.5, on_progress=lambda seconds: None)
    with pytest.raises(ServerError, match=r"not healthy after 2 s.*loading.*timeout="):
        server.start()
    assert server._group is None


def test_ctrl_c_while_it_starts(folder: Path, stand_in: Callable[[str], None]) -> None:
    stand_in("import time; time.sleep(60)")
    groups: list[psutil.Process] = []

    def interrupt(seconds: float) -> None:
        groups.extend(family(server.pid))
        raise KeyboardInterrupt

    server = VLLMServer(folder, on_progress=interrupt)
    with pytest.raises(KeyboardInterrupt), server:
        pass
    assert groups and not alive(groups)


def test_an_error_of_the_callers_own_is_left_alone(folder: Path, stand_in: Callable[[str], None]) -> None:
    stand_in(
        "import http.server, sys\n"
        "class Healthy(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self): self.send_response(200); self.end_headers()\n"
        "http.server.HTTPServer(('127.0.0.1', int(sys.argv[sys.argv.index('--port') + 1])), Healthy).serve_forever()"
    )
    server = VLLMServer("tiny", on_progress=lambda seconds: None)
    with pytest.raises(ZeroDivisionError), server:  # noqa: PT012  the body is what fails
        server.check()
        processes = family(server.pid)
        1 / 0  # noqa: B018
    assert not alive(processes)
    assert server.model == "tiny"
    with server:  # and it starts again
        os.kill(server.pid, signal.SIGTERM)
        assert server._group.wait(20)
        with pytest.raises(ServerError, match="was killed by SIGTERM"):
            server.client()
        with pytest.raises(ServerError, match="was killed by SIGTERM"):  # it remembers
            server.check()


def test_options_on_a_command_line() -> None:
    options = {"max_model_len": 512, "enforce_eager": True, "enable_prefix_caching": False, "seed": None}
    assert arguments(options) == ["--max-model-len", "512", "--enforce-eager", "--no-enable-prefix-caching"]
    assert arguments({"hf_overrides": {"a": [1]}, "middleware": ["x", "y"]}) == [
        *("--hf-overrides", '{"a": [1]}'),
        *("--middleware", "x", "y"),
    ]


LOGS = [
    ("", "it did not say why"),
    ("INFO all is well\nlast words\n\n", "last words"),
    ("usage: x\napi_server.py: error: unrecognized arguments: --nonsense", "error: unrecognized arguments: --nonsense"),
    (
        """(EngineCore pid=7) ERROR 11-22 [core.py:1] ValueError: No available memory for the cache blocks.
        RuntimeError: Engine core initialization failed. See root cause above.""",
        "ValueError: No available memory for the cache blocks",
    ),
    (
        """pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
        Value error, max_model_len (5000) is too long. [type=value_error, input_value=1]
        For further information visit somewhere""",
        "max_model_len (5000) is too long",
    ),
    (
        """WARNING 11-22 [core_client.py:1] [shutdown] MPClient: engine core exited unexpectedly; starting cleanup
        vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. See stack trace (above).""",
        "engine core exited unexpectedly",
    ),
    ("torch.OutOfMemoryError: CUDA out of memory. Tried\nINFO bye", "OutOfMemoryError: CUDA out of memory. Tried"),
]


@pytest.mark.parametrize(("log", "reason"), LOGS, ids=range(len(LOGS)))
def test_the_reason_in_a_log(log: str, reason: str) -> None:
    assert reason_in(log) == reason
    if reason == "last words":
        assert reason_in(log, last_words=False) == "it did not say why"


SPAWN = "import subprocess, time; subprocess.Popen(['sleep', '60']); print('spawned', flush=True); time.sleep(60)"


def test_a_group_ends_together() -> None:
    group = ProcessGroup([sys.executable, "-c", SPAWN], os.environ)
    assert eventually(lambda: "spawned" in group.log())
    processes = family(group.pid)
    assert len(processes) == 2 and len(group.members()) == 2 and group.ending() == "runs"
    processes[0].kill()  # its child is an orphan now
    assert group.wait(10) and [one.pid for one in group.members()] == [processes[1].pid]
    group.end()
    group.end()
    assert not alive(processes) and "SIGKILL" in repr(group)


def test_a_group_that_does_not_listen_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("course_lib.serving.process_group._GRACE", 0.5)
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    group = ProcessGroup([sys.executable, "-c", deaf], os.environ)
    assert eventually(lambda: "deaf" in group.log())
    group.end()
    assert group.exit_code() == -signal.SIGKILL


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "sys.exit(0)", "raise KeyboardInterrupt"])
def test_a_group_does_not_outlive_its_caller(end: str) -> None:
    program = textwrap.dedent(f"""
        import os, sys, time
        from course_lib.serving.process_group import ProcessGroup
        group = ProcessGroup([sys.executable, "-c", {SPAWN!r}], os.environ)
        while "spawned" not in group.log():
            time.sleep(0.05)
        print(*(one.pid for one in group.members()), flush=True)
        {end}
    """)
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    pids = [int(pid) for pid in ran.stdout.split()]
    assert len(pids) == 2, ran.stderr
    assert eventually(lambda: not alive([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]))


def test_free_ports_are_free() -> None:
    assert 1024 <= machine.free_port() <= 65535
