"""Stage 0's step for all weights at once is DeepSpeed's own, which goes from weight to weight."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from course_lib.training import Group, PackedBatch, PolicyTrainer, TrainerConfig

Loss = Callable[[PackedBatch, Tensor, Tensor], Tensor]
OWN = "DeepSpeed's own"


@pytest.fixture
def make(tiny_folder: Path) -> Callable[..., PolicyTrainer]:
    """A trainer of stage 0, or one whose step is left to DeepSpeed."""

    def trainer(kind: str = "", max_grad_norm: float = 1.0) -> PolicyTrainer:
        config = TrainerConfig(zero_stage=0, learning_rate=1e-3, max_grad_norm=max_grad_norm, micro_batch_tokens=32)
        made = PolicyTrainer(tiny_folder, config)
        if kind == OWN:
            del made.engine.optimizer.step  # what lies over the method of its class
        return made

    return trainer


class Calls(TorchDispatchMode):
    """Counts operations by name: on a GPU each is a launch or more, but for those that only make a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func.__name__] += 1
        return func(*args, **(kwargs or {}))

    @property
    def launches(self) -> int:
        return sum(count for name, count in self.counts.items() if not name.startswith(("empty_like", "detach")))


@pytest.mark.parametrize("max_grad_norm", [0.0, 0.01, 1e6], ids=["off", "clips", "does not clip"])
def test_steps_are_deepspeeds_to_the_bit(
    make: Callable[..., PolicyTrainer], groups: list[Group], advantage_loss: Loss, max_grad_norm: float
) -> None:
    ours, own = make("", max_grad_norm), make(OWN, max_grad_norm)
    for _ in range(3):
        found, wanted = ours.step(groups, advantage_loss), own.step(groups, advantage_loss)
        assert found.loss == wanted.loss
        assert found.grad_norm == pytest.approx(wanted.grad_norm, rel=1e-12)
        assert found.applied and wanted.applied
    assert found.grad_norm > 0.01  # so that the smaller limit clips
    for one, other in zip(ours.engine.optimizer.fp32_groups[0], own.engine.optimizer.fp32_groups[0], strict=True):
        assert torch.equal(one, other)
    assert ours.engine.optimizer.state_dict()["cur_iter"] == own.engine.optimizer.state_dict()["cur_iter"]


def test_a_weight_without_a_gradient_takes_a_step_of_zero(
    make: Callable[..., PolicyTrainer], groups: list[Group], advantage_loss: Loss
) -> None:
    """Its moments decay, as DeepSpeed lets them."""
    masters = []
    for kind in ("", OWN):
        trainer = make(kind)
        trainer.step(groups, advantage_loss)
        take, weight = trainer.engine.optimizer.step, trainer.engine.optimizer.fp16_groups[0][3]

        def without(take: Callable[[], bool] = take, weight: Tensor = weight) -> bool:
            weight.grad = None
            return take()

        trainer.engine.optimizer.step = without
        trainer.step(groups, advantage_loss)
        masters.append(trainer.engine.optimizer.fp32_groups[0][3])
    assert torch.equal(*masters)


def test_a_step_has_no_launch_for_each_weight(
    make: Callable[..., PolicyTrainer], groups: list[Group], advantage_loss: Loss
) -> None:
    launches = {}
    for kind in ("", OWN):
        trainer = make(kind)
        trainer.step(groups, advantage_loss)  # Adam makes its moments
        take, calls = trainer.engine.optimizer.step, Calls()

        def counted(take: Callable[[], bool] = take, calls: Calls = calls) -> bool:
            with calls:
                return take()

        trainer.engine.optimizer.step = counted
        trainer.step(groups, advantage_loss)
        launches[kind] = calls.launches
    weights = len(trainer.engine.optimizer.fp16_groups[0])
    assert launches[""] < weights < 10 * weights < launches[OWN]
