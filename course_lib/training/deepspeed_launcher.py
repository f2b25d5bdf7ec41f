"""DeepSpeed's own launcher: the same script on one machine and, with a hostfile, on many."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from course_lib import machine
from course_lib.training.hostfile import read_hostfile
from course_lib.training.launch import checked_target, environment
from course_lib.training.launch_errors import LaunchError, last_lines
from course_lib.training.ranks import POLL_SECONDS, Rank, RankOutput
from course_lib.training.watch import watch

_STARTED = re.compile(r"process (\d+) spawned with command")  # a line a rank, in the order of the ranks
_CODE = re.compile(r"exits with return code = (-?\d+)")


def deepspeed_command(
    target: str | os.PathLike[str],
    *,
    ranks: int | None = None,
    hostfile: str | os.PathLike[str] | None = None,
    node_rank: int | None = None,
    master_addr: str | None = None,
    master_port: int | None = None,
    arguments: Sequence[str] = (),
) -> list[str]:
    """Return the command line that starts a job with DeepSpeed's launcher.

    Three ways to start one job:

        ranks=2                      on this machine; so does a hostfile of one line
        hostfile=..., node_rank=n    on the n-th machine of the file; run it on each of them. Needs no ssh.
        hostfile=...                 on all of them from here, through pdsh and ssh without a password

    Args:
        target: a module or a script, at the same path on every machine.
        ranks: how many, on this machine.
        hostfile: a file of lines `worker-0 slots=4`; see `read_hostfile`.
        node_rank: which line of the hostfile this machine is, counted from 0.
        master_addr: address of the first machine as the others reach it; None takes its name in the hostfile.
        master_port: a free port there, the same in every machine's command; None takes DeepSpeed's 29500.
        arguments: command line of each rank.

    Raises:
        ValueError: no such target; neither ranks nor hostfile, or both; a bad hostfile; no such line in it.
    """
    target = checked_target(target)
    where = ["--num_gpus", str(ranks)]  # it says so of cores too
    if (ranks is None) == (hostfile is None):
        raise ValueError("give either ranks, for this machine, or hostfile, for the machines that it names.")
    if hostfile is None and node_rank is not None:
        raise ValueError("node_rank is a line of a hostfile; give the hostfile too.")
    if hostfile is not None:
        hosts = list(read_hostfile(hostfile))
        where = ["--hostfile", os.fspath(hostfile)]
        if len(hosts) == 1 and node_rank is None:
            node_rank, master_addr = 0, master_addr or "127.0.0.1"
        if node_rank is not None:
            if not 0 <= node_rank < len(hosts):
                raise ValueError(f"node_rank is {node_rank}, and {hostfile} has the lines 0 to {len(hosts) - 1}.")
            where += ["--no_ssh", "--node_rank", str(node_rank)]
            master_addr = master_addr or hosts[0]
    if master_addr is not None:
        where += ["--master_addr", master_addr]
    if master_port is not None:
        where += ["--master_port", str(master_port)]
    # A rank reads LOCAL_RANK, as with every other launcher, and not an argument that only this one adds.
    kind = [] if target.endswith(".py") else ["--module"]
    return ["deepspeed", *where, "--no_local_rank", *kind, target, *arguments]


def remote_command(command: Sequence[str]) -> list[str]:
    """Return what `deepspeed_command(..., hostfile=...)` of several hosts runs: one line for pdsh, by DeepSpeed's own code.

    Nothing is started and no machine is asked, so the command has to name its `--master_addr`.

    Raises:
        ValueError: the command names no hostfile or no master_addr.
    """
    machine.prepare()
    from deepspeed.launcher import runner
    from deepspeed.launcher.multinode_runner import PDSHRunner

    if not {"--hostfile", "--master_addr"} <= {*command}:
        raise ValueError("only a command with --hostfile and --master_addr says what it runs elsewhere; give both.")
    asked = runner.parse_args([*command[1:]])
    hosts = {host: list(range(slots)) for host, slots in read_hostfile(asked.hostfile).items()}
    line, _, _ = PDSHRunner(asked, runner.encode_world_info(hosts)).get_cmd({}, hosts)
    return [part for part in line if part]


def run_deepspeed(
    target: str | os.PathLike[str],
    *,
    ranks: int | None = None,
    hostfile: str | os.PathLike[str] | None = None,
    node_rank: int | None = None,
    master_addr: str | None = None,
    master_port: int | None = None,
    arguments: Sequence[str] = (),
    timeout: float = 600,
    on_line: Callable[[str], None] | None = None,
) -> list[RankOutput]:
    """Run this machine's part of a job with DeepSpeed's launcher, and return what each of its ranks wrote.

    The launcher looks after its ranks once a second and ends all of them when one fails, but does not say which one failed
    nor why, does not notice a rank that waits for one which has finished, and leaves 66 MiB of shared memory a rank behind.
    This function says which and why, sets a limit to the waiting, and clears up.

    Args:
        target: a module or a script.
        ranks: how many, where this machine is the only one.
        hostfile: the machines, otherwise; with more than one line, node_rank has to say which one this is.
        node_rank: as in `deepspeed_command`.
        master_addr: as in `deepspeed_command`.
        master_port: as in `deepspeed_command`, but that None takes any free port where this machine is the only one.
        arguments: command line of each rank.
        timeout: seconds until the job counts as hanging.
        on_line: gets each line that this machine's first rank writes, as it comes; None is quiet.

    Raises:
        ValueError: as `deepspeed_command`, or this machine has fewer cores or GPUs than ranks.
        LaunchError: a rank failed or was killed, the launcher could not start, or time ran out.
    """
    slots = [ranks or 0] if hostfile is None else list(read_hostfile(hostfile).values())
    if len(slots) > 1 and node_rank is None:
        raise ValueError(
            f"{hostfile} names {len(slots)} machines: say which one this is (node_rank), and run it on each with the same"
            " master_addr and master_port; or run deepspeed_command(...) in a shell, where pdsh and ssh reach them all."
        )
    if len(slots) == 1:
        master_port = master_port or machine.free_port()
    command = deepspeed_command(
        target,
        ranks=ranks,
        hostfile=hostfile,
        node_rank=node_rank,
        master_addr=master_addr,
        master_port=master_port,
        arguments=arguments,
    )
    local, before = slots[node_rank or 0], sum(slots[: node_rank or 0])
    shared = environment(local)
    with tempfile.TemporaryDirectory(prefix="deepspeed-") as folder, _shared_memory_cleared(master_port):
        logs, said = Path(folder) / "ranks", Path(folder) / "launcher.log"
        with said.open("wb") as out:
            launcher = subprocess.Popen(
                # The command of the shell, by its module: a kernel's PATH need not have it.
                [sys.executable, "-m", "deepspeed.launcher.runner", "--enable_each_rank_log", str(logs), *command[1:]],
                env=shared,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            pids = _started(launcher, said, local, timeout)
            running = [
                _LaunchedRank(
                    before + place,
                    launcher,
                    _log(logs, before + place),
                    said.with_name("no.stacks"),
                    pid=pid,
                    said=said,
                )
                for place, pid in enumerate(pids)
            ]
            return watch(running, timeout, on_line)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(launcher.pid, signal.SIGKILL)
            launcher.wait()


@dataclass(eq=False)
class _LaunchedRank(Rank):
    """A rank that DeepSpeed's launcher started: no child of this process, so that the kernel's files tell of it."""

    pid: int = 0
    said: Path = Path()

    def _look(self) -> int | None:
        state, code = _kernel_state(self.pid)
        if state == "Z":  # it has ended, and the launcher has not asked yet
            return code
        if state:
            return None
        # The launcher was faster. It tells the exit code of the first rank that failed, and of no other.
        text = self.said.read_text(errors="replace")
        if f"Process {self.pid} exits successfully" in text:
            return 0
        told = _CODE.search(text)
        if told:
            return int(told[1])
        return None if self.process.poll() is None else 1


def _kernel_state(pid: int) -> tuple[str, int]:
    """Return a process's state letter, empty where there is no such process, and its exit code once it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # proc(5); a name may hold brackets
    except (FileNotFoundError, ProcessLookupError):
        return "", 0
    return fields[0], os.waitstatus_to_exitcode(int(fields[49])) if fields[0] == "Z" else 0


def _started(launcher: subprocess.Popen[bytes], said: Path, ranks: int, timeout: float) -> list[int]:
    """Return the process ids of the ranks, in their order, once the launcher has started them all."""
    deadline = time.monotonic() + timeout
    while True:
        over = launcher.poll() is not None or time.monotonic() > deadline
        text = said.read_text(errors="replace")
        pids = [int(pid) for pid in _STARTED.findall(text)]
        if len(pids) == ranks:
            return pids
        if over:
            told = "\n".join(last_lines(text))
            when = f"in {timeout:g} s" if launcher.poll() is None else "before it ended"
            message = f"DeepSpeed's launcher started {len(pids)} of {ranks} rank(s) {when}. Its last lines:\n{told}"
            raise LaunchError(message, None, [])
        time.sleep(POLL_SECONDS)


def _log(folder: Path, rank: int) -> Path:
    return next(folder.glob(f"*_rank{rank}.log"))


@contextmanager
def _shared_memory_cleared(port: int | None) -> Iterator[None]:
    """Remove the buffers of DeepSpeed's shared-memory all-reduce afterwards: it never does (csrc/cpu/comm/shm.cpp)."""
    try:
        yield
    finally:
        for buffer in Path("/dev/shm").glob(f"deepspeed_*_{os.getuid()}_*_{port}_*"):
            buffer.unlink(missing_ok=True)
