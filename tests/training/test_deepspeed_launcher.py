"""DeepSpeed's own launcher: the same script on one machine and on two, and the reason when a rank dies."""

import base64
import json
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from course_lib import machine
from course_lib.training import LaunchError, deepspeed_command, remote_command, run_deepspeed
from course_lib.training.deepspeed_launcher import _LaunchedRank
from course_lib.training.launch import cores

WORKER = Path(__file__).with_name("launch_worker.py")
needs_two = pytest.mark.skipif(cores() < 2, reason="two ranks want two cores")
Hosts = Callable[[str], Path]


@pytest.fixture(autouse=True)
def _cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIER", "cpu")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")


@pytest.fixture
def hosts(tmp_path: Path) -> Hosts:
    def write(text: str) -> Path:
        path = tmp_path / "hostfile"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def adds(tmp_path: Path) -> Path:
    """A job whose ranks add up their ranks plus one, if rank 1 is not to be killed."""
    path = tmp_path / "adds.py"
    path.write_text(
        "import os, pathlib, signal, sys, time, torch, deepspeed\n"
        "deepspeed.init_distributed(dist_backend='gloo', verbose=False)\n"
        "if 'killed' in sys.argv and os.environ['RANK'] == '1':\n"
        "    print('so far')\n"
        "    pathlib.Path(sys.argv[2]).write_text(str(time.time()))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "total = torch.tensor([float(os.environ['RANK']) + 1])\n"
        "deepspeed.comm.all_reduce(total)\n"
        "print(*(os.environ[name] for name in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE')), int(total))\n"
        # gloo's threads would see a peer that left first, and abort this rank while it ends
        "deepspeed.comm.barrier()\n"
        "deepspeed.comm.destroy_process_group()\n"
    )
    return path


def test_one_command_a_way(hosts: Hosts) -> None:
    two = hosts("worker-0 slots=4\nworker-1 slots=2")
    script = str(WORKER)
    assert deepspeed_command(WORKER, ranks=2, arguments=["--a", "b"]) == [
        *("deepspeed", "--num_gpus", "2", "--no_local_rank", script, "--a", "b"),
    ]
    assert deepspeed_command("course_lib.training.zero_study", ranks=1, master_port=5)[1:] == [
        *("--num_gpus", "1", "--master_port", "5", "--no_local_rank", "--module", "course_lib.training.zero_study"),
    ]
    assert deepspeed_command(WORKER, hostfile=two) == ["deepspeed", "--hostfile", str(two), "--no_local_rank", script]
    assert deepspeed_command(WORKER, hostfile=two, node_rank=1)[3:] == [
        *("--no_ssh", "--node_rank", "1", "--master_addr", "worker-0", "--no_local_rank", script),
    ]
    one = hosts("here slots=2")
    assert "--master_addr 127.0.0.1" in " ".join(deepspeed_command(WORKER, hostfile=one))


def test_deepspeed_reads_the_command_as_it_is_meant(hosts: Hosts) -> None:
    machine.prepare()
    from deepspeed.launcher.runner import parse_args

    two = hosts("worker-0 slots=4\nworker-1 slots=2")
    asked = parse_args(
        deepspeed_command(WORKER, hostfile=two, node_rank=1, master_port=5, arguments=["--ranks", "9"])[1:]
    )
    assert (asked.hostfile, asked.no_ssh, asked.node_rank, asked.master_addr) == (str(two), True, 1, "worker-0")
    assert (asked.master_port, asked.no_local_rank, asked.module) == (5, True, False)
    assert (asked.user_script, asked.user_args) == (str(WORKER), ["--ranks", "9"])
    assert parse_args(deepspeed_command("course_lib", ranks=3)[1:]).num_gpus == 3


def test_what_runs_on_two_machines(hosts: Hosts) -> None:
    two = hosts("worker-0 slots=4\nworker-1 slots=2")
    command = deepspeed_command(WORKER, hostfile=two, master_addr="10.0.0.1", arguments=["--steps", "3"])
    line = remote_command(command)
    assert line[:6] == ["pdsh", "-S", "-f", "1024", "-w", "worker-0,worker-1"]
    assert "--node_rank=%n" in line  # pdsh puts the host's number there
    assert "--master_addr=10.0.0.1" in line
    assert line[-3:] == [str(WORKER), "--steps", "3"]
    (world,) = [part.partition("=")[2] for part in line if part.startswith("--world_info")]
    assert json.loads(base64.urlsafe_b64decode(world)) == {"worker-0": [0, 1, 2, 3], "worker-1": [0, 1]}
    with pytest.raises(ValueError, match="--hostfile and --master_addr"):
        remote_command(deepspeed_command(WORKER, ranks=2))


def test_what_cannot_run_is_refused(hosts: Hosts, tmp_path: Path) -> None:
    two = hosts("worker-0 slots=1\nworker-1 slots=1")
    with pytest.raises(ValueError, match="either ranks, for this machine, or hostfile"):
        deepspeed_command(WORKER)
    with pytest.raises(ValueError, match="either ranks, for this machine, or hostfile"):
        deepspeed_command(WORKER, ranks=2, hostfile=two)
    with pytest.raises(ValueError, match="node_rank is a line of a hostfile"):
        deepspeed_command(WORKER, ranks=2, node_rank=0)
    with pytest.raises(ValueError, match=r"node_rank is 2, and .*hostfile has the lines 0 to 1"):
        deepspeed_command(WORKER, hostfile=two, node_rank=2)
    with pytest.raises(ValueError, match=r"there is no script nowhere\.py"):
        deepspeed_command("nowhere.py", ranks=2)
    with pytest.raises(ValueError, match=r"the hostfile .*nowhere can't be read"):
        run_deepspeed(WORKER, hostfile=tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"names 2 machines: say which one this is \(node_rank\)"):
        run_deepspeed(WORKER, hostfile=two)
    with pytest.raises(ValueError, match=rf"{cores() + 1} ranks on {cores()} CPU core"):
        run_deepspeed(WORKER, ranks=cores() + 1)


@needs_two
@pytest.mark.slow
def test_a_hostfile_of_this_machine_and_of_two(hosts: Hosts, adds: Path) -> None:
    """The second time each rank is a machine of its own, which its own launcher starts."""
    lines: list[str] = []
    outputs = run_deepspeed(adds, hostfile=hosts("localhost slots=2"), on_line=lines.append, timeout=200)
    assert [output.text.splitlines()[-1] for output in outputs] == ["0 0 2 3", "1 1 2 3"]
    assert lines == outputs[0].text.splitlines()
    two, port = hosts("worker-0 slots=1\nworker-1 slots=1"), machine.free_port()

    def node(number: int) -> str:
        (output,) = run_deepspeed(
            adds, hostfile=two, node_rank=number, master_addr="127.0.0.1", master_port=port, timeout=200
        )
        assert output.rank == number
        return output.text.splitlines()[-1]

    with ThreadPoolExecutor(2) as nodes:
        assert list(nodes.map(node, (0, 1))) == ["0 0 2 3", "1 0 2 3"]


@needs_two
@pytest.mark.slow
def test_a_killed_rank_ends_the_job_and_is_named(hosts: Hosts, adds: Path, tmp_path: Path) -> None:
    arguments = ["killed", str(tmp_path / "fault")]
    with pytest.raises(
        LaunchError, match=r"rank 1 of 2 was killed by SIGKILL.*\n\nIts last lines:[^$]*so far"
    ) as caught:
        run_deepspeed(adds, hostfile=hosts("localhost slots=2"), arguments=arguments, timeout=200)
    assert time.time() - float((tmp_path / "fault").read_text()) < 30  # the issue's own limit
    assert caught.value.rank == 1
    assert not list(Path("/dev/shm").glob("deepspeed_*"))  # DeepSpeed leaves 66 MiB a rank there


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("Process 4194305 exits successfully.", 0),
        ("['job.py'] exits with return code = -9", -9),
        ("Process 41943 exits successfully.", None),
        ("", None),
    ],
)
def test_a_rank_that_the_launcher_saw_end_first(said: str, code: int | None, tmp_path: Path) -> None:
    """It looks once a second, so that most often the kernel still knows when this process asks."""
    (tmp_path / "log").write_text(said)
    with subprocess.Popen(["sleep", "100"]) as launcher:
        gone = _LaunchedRank(0, launcher, tmp_path / "log", tmp_path / "none", pid=4194305, said=tmp_path / "log")
        assert gone.poll() == code
        launcher.kill()
        launcher.wait()
        assert gone.poll() == (1 if code is None else code)


def test_a_launcher_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    (tmp_path / "job.py").touch()
    with pytest.raises(
        LaunchError, match=r"launcher started 0 of 1 rank\(s\) in 0\.1 s"
    ):  # it imports DeepSpeed twice before
        run_deepspeed(tmp_path / "job.py", ranks=1, timeout=0.1)
