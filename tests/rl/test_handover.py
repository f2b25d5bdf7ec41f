"""The memory handover, as far as a machine without a GPU can run it: whose state moves when, and that training does not notice."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from course_lib import machine
from course_lib.rl import EngineRollout, RolloutError, SamplingConfig, VLLMRollout, WeightSync
from course_lib.rl.handover import MemoryHandover
from course_lib.rl.rollout import request
from course_lib.training import PolicyTrainer

pytestmark = pytest.mark.slow


class Sleeper(EngineRollout):
    """Does what vLLM's sleep mode does, without the memory: nothing can be generated until weights were synced."""

    can_sleep = True

    def sleep(self) -> None:
        self.hollow = True


@pytest.fixture(scope="module")
def sleeper(tiny: Path) -> Sleeper:
    return Sleeper(tiny, kv_cache_bytes=16 << 20)


def test_where_nothing_can_sleep_nothing_moves(engine: VLLMRollout, make_trainer: Callable[[], PolicyTrainer]) -> None:
    handover = MemoryHandover(make_trainer(), engine)
    handover.to_trainer()
    handover.to_rollout()
    assert engine.generate(request([[5, 6]]), SamplingConfig(max_new_tokens=2)).responses()
    assert "does nothing" in repr(handover)


def test_sleep_mode_is_without_effect_on_a_cpu(tiny: Path) -> None:
    rollout = VLLMRollout(tiny, kv_cache_bytes=16 << 20, sleep_mode=True)
    assert rollout.can_sleep == (machine.tier() == "gpu")
    rollout.shutdown()


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_training_goes_on_where_it_was(
    stage: int,
    sleeper: Sleeper,
    make_trainer: Any,
    train: Callable[[PolicyTrainer], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """DeepSpeed's own offload and reload run here too, from a CPU to the CPU; a checkpoint in between is whole."""
    monkeypatch.setattr(machine, "tier", lambda: "gpu")
    left, plain = make_trainer(zero_stage=stage), make_trainer(zero_stage=stage)
    handover = MemoryHandover(left, sleeper)
    monkeypatch.undo()
    sync = WeightSync(left, sleeper, noise_floor=1.0)
    for _ in range(2):
        handover.to_trainer()
        train(left)
        train(plain)
        with pytest.raises(RolloutError, match="sync_weights"):
            sleeper.generate(request([[5, 6]]), SamplingConfig(max_new_tokens=2))
        handover.to_rollout()
        assert "on the host" in repr(handover)
        assert sync.push().ok
    left.save(tmp_path / "checkpoint")
    resumed = make_trainer(zero_stage=stage)
    resumed.load(tmp_path / "checkpoint")
    handover.to_trainer()
    for trainer in (left, plain, resumed):
        train(trainer)
    wanted = dict(plain.named_weights())
    for trainer in (left, resumed):
        assert all(wanted[name].equal(weight) for name, weight in trainer.named_weights())
