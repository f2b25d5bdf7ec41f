"""When a rank fails, leaves or hangs: all of them end, and the error names the one to blame and why."""

import itertools
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from course_lib.training import LaunchError, launch
from course_lib.training.launch import cores
from course_lib.training.launch_errors import in_words
from course_lib.training.ranks import in_collective, innermost_calls
from course_lib.training.watch import _Deadlock

WORKER = Path(__file__).with_name("launch_worker.py")
needs_two = pytest.mark.skipif(cores() < 2, reason="two ranks want two cores")
HEADER = "Thread 0x1 (most recent call first):\n"
WAITS = HEADER + '  File "/x/site-packages/torch/distributed/distributed_c10d.py", line 2 in all_reduce\n'
WORKS = HEADER + '  File "/x/mine.py", line 3 in step\n'
Script = Callable[[str], Path]


def alive(pid: int) -> bool:
    """Whether a process runs: one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 100  # a hang is a failure; nothing here depends on how long it takes
    while not holds():
        assert time.monotonic() < deadline, "it never came to pass"
        time.sleep(0.05)


FAULTS = {
    "raise KeyError('a mistake')": (r"rank 1 of 2 ended with exit code 1 after", "KeyError: 'a mistake'"),
    "sys.exit('I give up')": (r"rank 1 of 2 ended with exit code 1 after", "I give up"),
    "os.kill(os.getpid(), signal.SIGKILL)": (r"rank 1 of 2 was killed by SIGKILL \(.*memory", "so far"),
    "import ctypes; ctypes.string_at(0)": (r"rank 1 of 2 was killed by SIGSEGV \(a fault", "Segmentation fault"),
}


@needs_two
@pytest.mark.parametrize("fault", FAULTS)
def test_the_rank_that_failed_is_named_and_the_other_is_ended(
    script: Script, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("course_lib.training.watch.GRACE_SECONDS", 0.5)
    job = script(f"""
        if rank == 0:
            open({str(tmp_path / "pid")!r}, "w").write(str(os.getpid()))
            time.sleep(1000)
        while not os.path.exists({str(tmp_path / "pid")!r}): time.sleep(0.01)
        print("so far")
        {fault}
    """)
    message, last = FAULTS[fault]
    with pytest.raises(LaunchError, match=message) as caught:
        launch(job, ranks=2)
    assert caught.value.rank == 1
    assert last in str(caught.value)
    assert caught.value.outputs[1].text.startswith("so far\n")
    assert not alive(int((tmp_path / "pid").read_text()))


@needs_two
def test_a_rank_that_lost_its_peer_is_not_the_one_to_blame(script: Script, tmp_path: Path) -> None:
    """Even where it ends a little before the other, which may take its time to write down what went wrong."""
    job = script(f"""
        begun = {str(tmp_path / "begun")!r}
        if rank == 0:
            while not os.path.exists(begun): time.sleep(0.01)
            sys.exit("RuntimeError: Connection closed by peer")
        open(begun, "w").close()
        time.sleep(0.3)
        sys.exit("the reason")
    """)
    with pytest.raises(LaunchError, match=r"rank 1 of 2 ended with exit code 1[^$]*the reason"):
        launch(job, ranks=2)


@needs_two
def test_time_runs_out_with_a_word_on_where_each_rank_is(script: Script) -> None:
    job = script("""
        def dawdle(): time.sleep(1000)
        if rank: dawdle()
    """)
    with pytest.raises(
        LaunchError, match=r"rank 1 of 2 did not finish in 4 s[^$]*Rank 1 is here:\n.* in dawdle\n"
    ) as caught:
        launch(job, ranks=2, timeout=4)
    assert "runpy" not in str(caught.value)


@needs_two
def test_a_rank_that_waits_for_one_that_left_is_found_out(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for ten minutes otherwise: nothing tells the store that the other will not come."""
    monkeypatch.setattr("course_lib.training.watch.STUCK_SECONDS", 2)
    job = script("""
        if rank == 0:
            import torch.distributed
            torch.distributed.init_process_group("gloo")
    """)
    message = r"rank 1 of 2 finished, and rank 0 waits in a collective[^$]*Rank 0 is here:\n[^$]*init_process_group"
    with pytest.raises(LaunchError, match=message) as caught:
        launch(job, ranks=2, timeout=100)
    assert caught.value.rank == 1


@needs_two
def test_a_rank_may_work_on_alone(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("course_lib.training.watch.STUCK_SECONDS", 0.5)
    outputs = launch(script("if rank == 0: time.sleep(3)"), ranks=2)
    assert outputs[0].seconds > 3 > outputs[1].seconds


def test_asking_where_a_rank_stands_never_ends_it(script: Script) -> None:
    """Not even while its interpreter shuts down, when faulthandler has taken its handler away."""
    job = script("""
        import faulthandler
        faulthandler.unregister(signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGUSR1)
        print("still here")
    """)
    assert launch(job, ranks=1)[0].text == "still here\n"


@needs_two
@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_no_rank_outlives_an_interrupt(script: Script, tmp_path: Path, error: type[BaseException]) -> None:
    """Neither does what a rank has started."""
    job = script(f"""
        import subprocess
        child = subprocess.Popen(["sleep", "1000"])
        open({str(tmp_path)!r} + f"/{{rank}}.pids", "w").write(f"{{os.getpid()}} {{child.pid}}")
        while rank == 0 and not os.path.exists({str(tmp_path / "1.pids")!r}): time.sleep(0.01)
        print("ready")
        time.sleep(1000)
    """)

    def on_line(line: str) -> None:
        raise error

    with pytest.raises(error):
        launch(job, ranks=2, on_line=on_line, timeout=30)
    pids = [int(pid) for rank in (0, 1) for pid in (tmp_path / f"{rank}.pids").read_text().split()]
    until(lambda: not any(map(alive, pids)))


def test_ctrl_c_ends_the_job(script: Script) -> None:
    """A terminal sends it to the whole process group, so the ranks are in groups of their own: one place handles it."""
    job = script("""
        print(os.getpgid(0) == os.getpid())
        time.sleep(1000)
    """)
    lines: list[str] = []
    main = threading.get_ident()

    def press(line: str) -> None:
        lines.append(line)
        signal.pthread_kill(main, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            launch(job, ranks=1, on_line=press, timeout=30)
    finally:
        signal.signal(signal.SIGINT, before)
    assert lines == ["True"]


def test_ranks_die_with_their_launcher(script: Script, tmp_path: Path) -> None:
    job = script(f"""
        open({str(tmp_path / "pid")!r}, "w").write(str(os.getpid()))
        time.sleep(1000)
    """)
    code = f"from course_lib.training import launch; launch({str(job)!r}, ranks=1)"
    launcher = subprocess.Popen([sys.executable, "-c", code])
    try:
        until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")
        pid = int((tmp_path / "pid").read_text())
        assert alive(pid)
    finally:
        launcher.kill()
        launcher.wait()
    until(lambda: not alive(pid))


class _Stacks:
    """A rank by what it shows each time that it is asked; none of it where it has finished."""

    def __init__(self, *stacks: str):
        self._stacks = itertools.cycle(stacks)
        self.finished = not stacks

    def poll(self) -> int | None:
        return 0 if self.finished else None

    def stack(self) -> str:
        return next(self._stacks)


@pytest.mark.parametrize(
    ("stacks", "found"),
    [([[], [WAITS]], True), ([[], [WAITS, WORKS]], False), ([[], [WAITS], [WORKS]], False), ([[WAITS]] * 2, False)],
)
def test_only_a_wait_without_end_is_a_deadlock(
    stacks: list[list[str]], found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("course_lib.training.watch.STUCK_SECONDS", 0.2)
    ranks: Any = [_Stacks(*shown) for shown in stacks]
    deadlock, seen = _Deadlock(), []
    for _ in range(20):
        seen.append(deadlock.look(ranks))
        time.sleep(0.05)
    assert (True in seen) == found
    assert not any(seen[:3])


@needs_two
@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("killed", r"rank 1 of 2 was killed by SIGKILL.*\n\nIts last lines:[^$]*loss "),
        ("raises", r"rank 1 of 2 ended with exit code 1[^$]*KeyError: \"a learner's mistake\""),
        ("leaves", r"rank 0 of 2 ended .*when rank 1 had finished: every rank has to make the same collective calls"),
    ],
)
def test_training_ends_when_a_rank_does(script: Script, tmp_path: Path, mode: str, message: str) -> None:
    with pytest.raises(LaunchError, match=message):
        launch(WORKER, ranks=2, arguments=[mode, str(tmp_path / "fault")], timeout=200)
    assert time.time() - float((tmp_path / "fault").read_text()) < 30  # the issue's own limit


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGTERM, signal.SIGHUP])
def test_signals_in_words(number: signal.Signals) -> None:
    assert in_words(-number).startswith(f"was killed by {number.name}")
    assert in_words(number).startswith("ended with exit code")


def test_stacks_are_read() -> None:
    header = "Thread 0x1 (most recent call first):\n"
    wait = '  File "/x/site-packages/torch/distributed/distributed_c10d.py", line 2 in all_reduce\n'
    later = '  File "/x/site-packages/deepspeed/runtime/zero/partition_parameters.py", line 9 in wait\n'
    own = '  File "/x/mine.py", line 3 in step\n'
    idle = '  File "/x/lib/python3.11/threading.py", line 1 in wait\n'
    runner = '  File "<frozen runpy>", line 1 in x\n'
    assert in_collective(header + idle + "\n" + header + wait + own)
    assert in_collective(header + later + own)
    assert not in_collective(header + idle + own + wait)
    assert not in_collective("")
    found = innermost_calls(header + wait + idle * 9 + own + runner + "\n" + header + own)
    assert found == (wait + idle * 3 + own).splitlines()
