"""What a step does depends on the samples and not on how memory made the trainer cut them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from course_lib.training import Group, PolicyTrainer, StepStats, TrainerConfig

Snapshot = Callable[[PolicyTrainer], dict[str, Tensor]]
PASSES = {4096: 1, 70: 2, 32: 4, 1: 9}  # tokens in a micro-batch -> micro-batches; 9 is one a response


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_gradients_add_up_to_the_same_step(
    stage: int, tiny_folder: Path, groups: list[Group], advantage_loss: Callable[..., Tensor], snapshot: Snapshot
) -> None:
    def update(tokens: int) -> tuple[StepStats, Tensor]:
        config = TrainerConfig(learning_rate=1e-2, zero_stage=stage, micro_batch_tokens=tokens, max_grad_norm=0.0)
        trainer = PolicyTrainer(tiny_folder, config)
        before = snapshot(trainer)
        stats = trainer.step(groups, advantage_loss)
        after = snapshot(trainer)
        assert stats.micro_batches == PASSES[tokens]
        return stats, torch.cat([(after[name].float() - before[name].float()).flatten() for name in before])

    whole, *cuts = (update(tokens) for tokens in PASSES)
    for stats, moved in cuts:
        assert stats.loss == pytest.approx(whole[0].loss, abs=2e-2)
        assert stats.grad_norm == pytest.approx(whole[0].grad_norm, rel=5e-3)
        # Adam's first step is the gradient's sign, which bf16 noise turns where the gradient is next to nothing. A
        # micro-batch that is left out or counted twice moves far more.
        assert torch.cosine_similarity(moved, whole[1], dim=0) > 0.98
