"""Several ranks on this machine, from a notebook or a script: what `torchrun` does, and an error where it would hang."""

import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from subprocess import DEVNULL, STDOUT, Popen

from course_lib import machine
from course_lib.training import rank_main
from course_lib.training.launch_errors import LaunchError
from course_lib.training.ranks import Rank, RankOutput
from course_lib.training.watch import watch

__all__ = ["LaunchError", "RankOutput", "launch"]

# What one launcher leaves for its ranks and another would read, this notebook's own rank 0 of 1 among it. Where LOCAL_SIZE
# is set, DeepSpeed reduces through shared memory, and a rank whose peer is gone spins there for ever.
_LAUNCHERS = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_SIZE"}
_LAUNCHERS |= {"CROSS_RANK", "CROSS_SIZE", "GROUP_RANK", "ROLE_RANK", "NODE_RANK", "TORCHELASTIC_RUN_ID"}


def launch(
    target: str | os.PathLike[str],
    *,
    ranks: int,
    arguments: Sequence[str] = (),
    timeout: float = 600,
    devices: Sequence[int] | None = None,
    on_line: Callable[[str], None] | None = None,
) -> list[RankOutput]:
    """Run a module or a script as so many ranks of one job on this machine, and return what each wrote.

    Each rank is a process of its own with RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT set,
    as torch.distributed and DeepSpeed read them, and its share of the cores. On the gpu tier rank r has the r-th visible
    GPU. No rank outlives this call: an error, Ctrl-C, a rank's death or this process's own end all of them.

    Args:
        target: a module (`"course_lib.training.zero_study"`) or a script (a path that ends in `.py`).
        ranks: how many.
        arguments: command line of each rank.
        timeout: seconds until the job counts as hanging.
        devices: the GPUs to use, by the driver's numbers; None uses the visible ones.
        on_line: gets each line that rank 0 writes, as it comes; None is quiet.

    Raises:
        ValueError: there is no such target, or there are fewer cores or GPUs than ranks.
        LaunchError: a rank failed, was killed, or hung; the message says which one and why, within 30 seconds of a death.
    """
    name = checked_target(target)
    shared = environment(ranks, devices) | {
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(machine.free_port()),
    }
    with tempfile.TemporaryDirectory(prefix="launch-") as folder:
        running: list[Rank] = []
        try:
            for rank in range(ranks):
                running.append(_start(Path(folder), rank, name, arguments, shared))
        except BaseException:
            for started in running:
                started.kill()
            raise
        return watch(running, timeout, on_line)


def _start(folder: Path, rank: int, target: str, arguments: Sequence[str], shared: dict[str, str]) -> Rank:
    log, stacks = folder / f"rank-{rank}.log", folder / f"rank-{rank}.stacks"
    command = [sys.executable, "-P", rank_main.__file__, str(os.getpid()), str(stacks), target, *arguments]
    with log.open("wb") as out:
        process = Popen(
            command,
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdin=DEVNULL,
            stdout=out,
            stderr=STDOUT,
            start_new_session=True,  # Ctrl-C comes to the launcher alone, and ends with each rank what it has started
        )
    return Rank(rank, process, log, stacks)


def environment(ranks: int, devices: Sequence[int] | None = None) -> dict[str, str]:
    """Return what each of so many ranks of this machine finds in its environment, but for its place in the job.

    Raises:
        ValueError: there are fewer cores or GPUs than ranks.
    """
    _require_room(ranks, devices)
    machine.prepare()
    kept = {name: value for name, value in os.environ.items() if name not in _LAUNCHERS}
    if devices is not None:
        kept["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, devices))
    return kept | {
        "OMP_NUM_THREADS": str(max(1, cores() // ranks)),
        "PYTHONUNBUFFERED": "1",  # a rank that is killed has said all that it had to say
        "PYTHONFAULTHANDLER": "1",  # and one that faults in compiled code says from where it was called
    }


def cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _require_room(ranks: int, devices: Sequence[int] | None) -> None:
    if ranks < 1:
        raise ValueError(f"ranks is {ranks}; a job has 1 rank or more.")
    if machine.tier() == "cpu":
        if devices is not None:
            raise ValueError(f"devices={list(devices)} names GPUs, and the cpu tier has none; leave devices out.")
        if ranks > cores():
            raise ValueError(
                f"{ranks} ranks on {cores()} CPU core(s): ranks that take turns on a core mostly wait for one another."
                f" Use ranks={cores()} or fewer."
            )
        return
    import torch

    gpus = torch.cuda.device_count() if devices is None else len(devices)
    if ranks > gpus:
        raise ValueError(
            f"{ranks} ranks on {gpus} visible GPU(s): NCCL wants one GPU a rank. Use ranks={gpus} or fewer, or make more"
            " GPUs visible (devices, CUDA_VISIBLE_DEVICES)."
        )


def checked_target(target: str | os.PathLike[str]) -> str:
    """Return the target's name, once it is a script that is there or a module of a package that is.

    Raises:
        ValueError: it is neither.
    """
    text = os.fspath(target)
    if text.endswith(".py"):
        if not Path(text).is_file():
            raise ValueError(f"there is no script {text} (looked in {Path.cwd()}); give its path, or a module's name.")
        return text
    # The ranks look into the working directory first, as `python -m` does; this process may not. What is installed in
    # editable mode is on no path: its own finder knows it.
    package = text.partition(".")[0]
    if PathFinder.find_spec(package, [str(Path.cwd()), *sys.path]) is None and not (package and find_spec(package)):
        raise ValueError(
            f"there is no module {text!r}; give one that `python -m` would run, or a script's path (*.py)."
        )
    return text
