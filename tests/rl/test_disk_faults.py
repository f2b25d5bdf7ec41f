"""What goes wrong with the disk ends in one clear message, and in a folder that the run resumes from."""

import errno
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from course_lib.rl import (
    RLLoop,
    RunError,
)

pytestmark = pytest.mark.slow
MakeLoop = Callable[..., RLLoop]
Curve = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def undisturbed(make_loop: MakeLoop, quiet: Any, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The records of three steps without a fault."""
    return make_loop(tmp_path_factory.mktemp("undisturbed") / "run", steps=3).run(quiet())


def resume(make_loop: MakeLoop, run: Path, **options: Any) -> RLLoop:
    """Go on as after a new start of the process: new trainer, new loop, nothing but the folder."""
    return make_loop(run, resume=True, steps=3, **options)


def test_disk_full_in_mid_checkpoint(
    make_loop: MakeLoop, quiet: Any, undisturbed: Any, curve: Curve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = make_loop(tmp_path / "run", steps=3, checkpoint_every=1)
    save = loop.trainer.save

    def half(folder: Path, state: dict[str, Any]) -> None:
        save(folder, state)
        if state["step"] == 2:
            max(folder.rglob("*.pt"), key=lambda path: path.stat().st_size).unlink()
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(loop.trainer, "save", half)
    with pytest.raises(RunError, match=r"step 2 could not be written.*No space left.*resume.*step_000001"):
        loop.run(quiet())
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step_000001"]
    resumed = resume(make_loop, tmp_path / "run", checkpoint_every=1)
    assert resumed.completed == 1
    assert curve(resumed.run(quiet())) == curve(undisturbed)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real disk of 40 MB: one checkpoint of 24 MB fits, a second one does not."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.getuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a tmpfs needs root and mount")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("this machine allows no mount, not even to root (a container without CAP_SYS_ADMIN)")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_really_full_disk(make_loop: MakeLoop, quiet: Any, small_disk: Path) -> None:
    loop = make_loop(small_disk / "run", steps=3, checkpoint_every=1)
    with pytest.raises(RunError, match=r"step 2 could not be written.*Free space"):
        loop.run(quiet())
    assert [path.name for path in loop.run_folder.checkpoints()] == ["step_000001"]
    assert resume(make_loop, small_disk / "run", checkpoint_every=1).completed == 1


def test_metrics_that_can_not_be_written(make_loop: MakeLoop, quiet: Any, tmp_path: Path) -> None:
    loop = make_loop(tmp_path / "run", steps=3)
    loop.run_folder.samples.unlink()
    loop.run_folder.samples.mkdir()  # root may write anywhere, but not lines into a folder
    with pytest.raises(RunError, match=r"samples\.jsonl can't be written .*then resume"):
        loop.run(quiet())


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:1000])


def one_bit_flipped(file: Path) -> None:
    """In the middle of the weights: torch.load and DeepSpeed read it without a word."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 16
    file.write_bytes(content)


def gone(file: Path) -> None:
    file.unlink()


@pytest.mark.parametrize(
    ("damage", "said"), [(truncated, "not what was"), (one_bit_flipped, "not what was"), (gone, "lacks 1")]
)
def test_damaged_checkpoint(
    damage: Callable[[Path], None],
    said: str,
    make_loop: MakeLoop,
    quiet: Any,
    undisturbed: Any,
    curve: Curve,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is found before it is loaded, and the one before it is taken."""
    run = tmp_path / "run"
    make_loop(run, steps=2, checkpoint_every=1).run(quiet())
    damage(next((run / "checkpoints" / "step_000002").rglob("*optim_states.pt")))
    with (run / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 3, "rewa')  # what a killed process leaves is no record
    resumed = resume(make_loop, run, checkpoint_every=1)
    told = capsys.readouterr().err
    assert said in told and "The run goes on from step_000001" in told and "step_000002.damaged: delete it" in told
    assert resumed.completed == 1
    without = [{k: v for k, v in record.items() if k != "held_out"} for record in undisturbed]
    found = [{k: v for k, v in record.items() if k != "held_out"} for record in resumed.run(quiet())]
    assert curve(found) == curve(without)


def test_no_whole_checkpoint_is_left(
    make_loop: MakeLoop, quiet: Any, undisturbed: Any, curve: Curve, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    make_loop(run, steps=1).run(quiet())
    shutil.rmtree(run / "checkpoints" / "step_000001" / "deepspeed")
    before = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(
        RunError, match=r"(?s)holds no DeepSpeed checkpoint.*no other checkpoint.*resume once more to start again"
    ):
        resume(make_loop, run)
    assert (run / "metrics.jsonl").read_bytes() == before
    assert curve(resume(make_loop, run).run(quiet())) == curve(undisturbed)  # do as the message says


def test_a_file_that_does_not_fit_in_mid_checkpoint(
    make_loop: MakeLoop, quiet: Any, undisturbed: Any, curve: Curve, tmp_path: Path
) -> None:
    """The real DeepSpeed can't write the second file of the second checkpoint to its end."""

    class Filling(quiet):  # type: ignore[misc]
        number = 0

        def step(self, record: dict[str, Any]) -> None:
            self.number = record["step"]

        def phase(self, name: str) -> None:
            if (self.number, name) == (2, "checkpoint"):
                resource.setrlimit(resource.RLIMIT_FSIZE, (8 << 20, before[1]))

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    loop = make_loop(tmp_path / "run", steps=3, checkpoint_every=1)
    try:
        with pytest.raises(RunError, match=r"step 2 could not be written.*resume the run from .*step_000001"):
            loop.run(Filling())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step_000001"]
    resumed = resume(make_loop, tmp_path / "run", checkpoint_every=1)
    assert resumed.completed == 1
    assert curve(resumed.run(quiet())) == curve(undisturbed)


def test_a_run_folder_that_vanishes(make_loop: MakeLoop, quiet: Any, tmp_path: Path) -> None:
    class Thief(quiet):  # type: ignore[misc]
        def phase(self, name: str) -> None:
            if name == "checkpoint":
                (tmp_path / "run").rename(tmp_path / "elsewhere")

    loop = make_loop(tmp_path / "run", steps=3, checkpoint_every=1)
    with pytest.raises(RunError, match=r"step 1 could not be written.*run's folder is gone: bring it back"):
        loop.run(Thief())
    assert not (tmp_path / "run").exists()
    (tmp_path / "elsewhere").rename(tmp_path / "run")
    assert loop.checkpoint().name == "step_000001"  # this process still had it
    assert resume(make_loop, tmp_path / "run", checkpoint_every=1).completed == 1
