"""What goes wrong in a run ends in one clear message, and in a folder that the run resumes from."""

import dataclasses
import math
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from course_lib.rl import (
    Problem,
    RewardError,
    RLLoop,
    RolloutError,
    RunError,
    SyncError,
    TokenLoss,
    WeightSync,
    policy_gradient_loss,
)
from course_lib.rl.errors import OutOfMemory
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


def test_nan_loss_is_refused_and_the_run_goes_on(make_loop: MakeLoop, quiet: Any, tmp_path: Path) -> None:
    class Spoilt:
        broken = False

        def __call__(self, *values: Any) -> TokenLoss:
            token = policy_gradient_loss(*values)
            return dataclasses.replace(token, loss=token.loss * math.nan) if self.broken else token

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
    records = loop.run(quiet())
    assert records[-1]["applied"] is True
    assert [record["step"] for record in records] == [1, 2, 3]


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
    mended = resume(make_loop, run, reward=Fragile())
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


def test_an_engine_that_raises(
    make_loop: MakeLoop, quiet: Any, undisturbed: Any, curve: Curve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = make_loop(tmp_path / "run", steps=3, checkpoint_every=1)
    loop.step()
    loop.checkpoint()
    core = loop.rollout.llm.llm_engine

    def fail() -> None:
        raise AssertionError("request 17 has no blocks")

    with monkeypatch.context() as patch:
        patch.setattr(core, "step", fail)
        with pytest.raises(RolloutError, match=r"VLLMRollout failed.*request 17 has no blocks"):
            loop.step()
    resumed = resume(make_loop, tmp_path / "run", checkpoint_every=1)
    assert resumed.completed == 1
    assert curve(resumed.run(quiet())) == curve(undisturbed[1:])


@pytest.mark.parametrize(("phase", "setting"), [("generate", "kv_cache_bytes"), ("train", "micro_batch_tokens")])
def test_memory_that_runs_out(
    phase: str,
    setting: str,
    make_loop: MakeLoop,
    quiet: Any,
    undisturbed: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """torch's own allocator refuses, inside the engine of each phase; the run resumes with what was advised."""
    loop = make_loop(tmp_path / "run", steps=3, checkpoint_every=1)
    loop.step()
    loop.checkpoint()

    def take(*_: object, **__: object) -> torch.Tensor:
        return torch.empty(1 << 50)

    with monkeypatch.context() as patch:
        if phase == "train":
            patch.setattr(loop.trainer.engine.module, "forward", take)
        else:
            patch.setattr(loop.rollout.llm.llm_engine, "step", take)
        said = rf"(?s)in the phase {phase}: it tried to take .* GiB.*\.{setting} is .*: try"
        with pytest.raises(OutOfMemory, match=said) as ran_out:
            loop.step()
    assert ran_out.value.settings[0] == setting
    resumed = resume(make_loop, tmp_path / "run", checkpoint_every=1, trainer={"micro_batch_tokens": 64})
    assert resumed.completed == 1
    assert resumed.run(quiet())[-1]["reward"] == pytest.approx(undisturbed[-1]["reward"], abs=0.1)


def test_a_trained_trainer_can_not_start_at_step_0(make_loop: MakeLoop, reward: Any, tmp_path: Path) -> None:
    loop = make_loop(tmp_path / "run", steps=3)
    loop.step()
    with pytest.raises(RunError, match="no checkpoint yet"):
        RLLoop(loop.trainer, loop.rollout, loop.task, tmp_path / "run", reward=reward, config=loop.config, resume=True)


def test_a_run_without_a_checkpoint_starts_again(
    make_loop: MakeLoop, quiet: Any, undisturbed: Any, curve: Curve, tmp_path: Path
) -> None:
    make_loop(tmp_path / "run", steps=3).step()  # and killed
    assert curve(resume(make_loop, tmp_path / "run").run(quiet())) == curve(undisturbed)
