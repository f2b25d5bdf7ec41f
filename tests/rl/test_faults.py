"""What goes wrong in a run ends in one clear message, and in a folder that the run resumes from."""

import errno
import math
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from course_lib.rl import Problem, RewardError, RLLoop, RunError, SyncError, TokenLoss, WeightSync, policy_gradient_loss
from course_lib.rl.interrupt import Interrupt

pytestmark = pytest.mark.slow
MakeLoop = Callable[..., RLLoop]
Curve = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def undisturbed(make_loop: MakeLoop, quiet: Any, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The records of three steps without a fault."""
    return make_loop(tmp_path_factory.mktemp("undisturbed") / "run", steps=3).run(quiet())


def weights(loop: RLLoop) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in loop.trainer.named_weights()}


def resume(make_loop: MakeLoop, run: Path, **options: Any) -> RLLoop:
    """Go on as after a new start of the process: new trainer, new loop, nothing but the folder."""
    return make_loop(run, resume=True, steps=3, **options)


def test_nan_loss_is_refused_and_the_run_goes_on(make_loop: MakeLoop, tmp_path: Path, capsys: Any) -> None:
    class Spoilt:
        broken = False

        def __call__(self, *values: Any) -> TokenLoss:
            token = policy_gradient_loss(*values)
            return TokenLoss(token.loss * math.nan, token.clipped, token.truncated) if self.broken else token

    loss = Spoilt()
    loop = make_loop(tmp_path / "run", steps=3, loss=loss)
    assert loop.step()["applied"] is True
    before = weights(loop)
    loss.broken = True
    record = loop.step()
    assert record["applied"] is False
    assert math.isnan(record["loss"])
    assert (record["receipt"]["ok"], record["receipt"]["changed"]) == (True, 0)
    assert all(torch.equal(value, before[name]) for name, value in weights(loop).items())
    loss.broken = False
    records = loop.run()
    assert records[-1]["applied"] is True
    assert [record["step"] for record in records] == [1, 2, 3]
    assert "step 2: loss or gradient was not finite; the step was refused" in capsys.readouterr().out


def test_a_reward_that_raises(
    make_loop: MakeLoop, quiet: Any, reward: Any, undisturbed: Any, curve: Curve, tmp_path: Path
) -> None:
    run = tmp_path / "run"

    class Fragile(quiet):  # type: ignore[misc]
        broken = False

        def step(self, record: dict[str, Any]) -> None:
            self.broken = record["step"] == 1

        def __call__(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
            if self.broken:
                raise KeyError("no such entry")
            return reward(problems, completions)  # type: ignore[no-any-return]

    fragile = Fragile()
    loop = make_loop(run, steps=3, reward=fragile)
    with pytest.raises(
        RewardError, match=r"Fragile raised KeyError.*The first sample it fails on: .* of 'What is \d+\+\d+"
    ):
        loop.run(fragile)
    assert loop.completed == 1
    mended = resume(make_loop, run)
    assert mended.completed == 1  # nothing was lost
    assert curve(mended.run(quiet())) == curve(undisturbed)


def test_a_failed_receipt_stops_the_run(make_loop: MakeLoop, quiet: Any, tmp_path: Path) -> None:
    class Forgetful(WeightSync):
        def repack_tied_head(self) -> None: ...

    loop = make_loop(tmp_path / "run", steps=3)
    loop.sync = Forgetful(loop.trainer, loop.rollout)
    with pytest.raises(SyncError, match="stale lm_head"):
        loop.run(quiet())
    last = loop.records()[-1]
    assert (last["step"], last["receipt"]["ok"], last["receipt"]["stale"]) == (1, False, ["lm_head.weight"])
    assert "held_out" not in last
    assert loop.run_folder.checkpoints() == []


class Presser:
    """Presses Ctrl-C as a phase of a step begins."""

    def __init__(self, presses: dict[tuple[int, str], int]):
        self.presses, self.number = presses, 0

    def started(self, steps: int, completed: int) -> None:
        self.number = completed + 1

    def phase(self, name: str) -> None:
        for _ in range(self.presses.get((self.number, name), 0)):
            os.kill(os.getpid(), signal.SIGINT)

    def step(self, record: dict[str, Any]) -> None:
        self.number = record["step"] + 1

    def finished(self) -> None: ...


def test_ctrl_c_ends_after_the_step_with_a_checkpoint(
    make_loop: MakeLoop, quiet: Any, undisturbed: Any, curve: Curve, tmp_path: Path, capsys: Any
) -> None:
    before = signal.getsignal(signal.SIGINT)
    records = make_loop(tmp_path / "run", steps=3).run(Presser({(2, "train"): 1}))
    assert [record["step"] for record in records] == [0, 1, 2]
    assert "stopping after this step" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before
    resumed = resume(make_loop, tmp_path / "run")
    assert resumed.completed == 2
    assert curve(resumed.run(quiet())) == curve(undisturbed)


def test_second_ctrl_c_ends_at_once(
    make_loop: MakeLoop, quiet: Any, undisturbed: Any, curve: Curve, tmp_path: Path
) -> None:
    before = signal.getsignal(signal.SIGINT)
    loop = make_loop(tmp_path / "run", steps=3, checkpoint_every=1)
    with pytest.raises(KeyboardInterrupt):
        loop.run(Presser({(2, "train"): 2}))
    assert signal.getsignal(signal.SIGINT) is before
    assert [record["step"] for record in loop.records()] == [0, 1]
    resumed = resume(make_loop, tmp_path / "run", checkpoint_every=1)
    assert resumed.completed == 1
    assert curve(resumed.run(quiet())) == curve(undisturbed)


def test_interrupt_counts() -> None:
    with Interrupt() as interrupt:
        assert not interrupt.requested
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


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


def test_damaged_checkpoint(make_loop: MakeLoop, quiet: Any, undisturbed: Any, curve: Curve, tmp_path: Path) -> None:
    run = tmp_path / "run"
    make_loop(run, steps=2, checkpoint_every=1).run(quiet())
    newest = run / "checkpoints" / "step_000002"
    for file in newest.rglob("*.pt"):
        file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(RunError, match=r"step_000002 can't be loaded .*Delete that folder"):
        resume(make_loop, run, checkpoint_every=1)
    # Do as the message says. What a killed process left beside it is no checkpoint, and a cut-off line is no record.
    newest.rename(newest.with_name("step_000003.partial"))
    with (run / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 3, "rewa')
    resumed = resume(make_loop, run, checkpoint_every=1)
    assert resumed.completed == 1
    without = [{k: v for k, v in record.items() if k != "held_out"} for record in undisturbed]
    found = [{k: v for k, v in record.items() if k != "held_out"} for record in resumed.run(quiet())]
    assert curve(found) == curve(without)


def test_empty_checkpoint(make_loop: MakeLoop, quiet: Any, tmp_path: Path) -> None:
    make_loop(tmp_path / "run", steps=1).run(quiet())
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step_000001" / "deepspeed")
    with pytest.raises(RunError, match="can't be loaded"):
        resume(make_loop, tmp_path / "run")


def test_a_trained_trainer_can_not_start_at_step_0(make_loop: MakeLoop, tmp_path: Path) -> None:
    loop = make_loop(tmp_path / "run", steps=3)
    loop.step()
    with pytest.raises(RunError, match="no checkpoint yet"):
        RLLoop(loop.trainer, loop.rollout, loop.task, tmp_path / "run", config=loop.config, resume=True)


def test_a_run_without_a_checkpoint_starts_again(
    make_loop: MakeLoop, quiet: Any, undisturbed: Any, curve: Curve, tmp_path: Path
) -> None:
    make_loop(tmp_path / "run", steps=3).step()  # and killed
    assert curve(resume(make_loop, tmp_path / "run").run(quiet())) == curve(undisturbed)
