"""The trainer against a loop in plain PyTorch: bf16 weights, fp32 master copy, AdamW, clipping."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from course_lib import machine
from course_lib.training import Group, Policy, PolicyTrainer, StepStats, TrainerConfig, pack

STEPS = 5
OPTIONS: dict[str, Any] = {
    "learning_rate": 5e-4,
    "weight_decay": 0.1,
    "betas": (0.8, 0.95),
    "warmup_steps": 2,
    "max_grad_norm": 1.0,
}
KINDS: dict[str, dict[str, Any]] = {
    "stage 0": {"zero_stage": 0},
    "stage 1": {"zero_stage": 1},
    "stage 2": {"zero_stage": 2},
    "stage 3": {"zero_stage": 3},
    "stage 1, offload": {"zero_stage": 1, "offload_optimizer": True},
    "stage 2, offload": {"zero_stage": 2, "offload_optimizer": True},
    "stage 3, offload": {"zero_stage": 3, "offload_optimizer": True},
    "stage 3, offload weights": {"zero_stage": 3, "offload_param": True},
    "stage 3, offload both": {"zero_stage": 3, "offload_optimizer": True, "offload_param": True},
    "stage 2, checkpointing": {"zero_stage": 2, "gradient_checkpointing": True},
    "stage 3, checkpointing": {"zero_stage": 3, "gradient_checkpointing": True},
    "stage 3, all": {"zero_stage": 3, "gradient_checkpointing": True, "offload_optimizer": True, "offload_param": True},
}
# Kinds do the same sums in other orders; a weight that then rounds to the other bf16 neighbour is 0.4 % off.
LOSS_TOLERANCE = 2e-3
NORM_TOLERANCE = 5e-3

Loss = Callable[..., Tensor]


def plain_loop(folder: Path, groups: Sequence[Group], loss: Loss, **options: Any) -> list[StepStats]:
    """Train as `PolicyTrainer` says that it does, with nothing of DeepSpeed, in one micro-batch."""
    policy = Policy(folder).to(machine.device())
    weights = list(policy.parameters())
    master = [weight.detach().float() for weight in weights]
    optimizer = torch.optim.AdamW(master, betas=options["betas"], weight_decay=options["weight_decay"])
    found = []
    for step in range(STEPS):
        batch = pack(groups).to(machine.device())
        value = loss(batch, *policy(batch))
        policy.zero_grad()
        value.backward()
        for copy, weight in zip(master, weights, strict=True):
            copy.grad = weight.grad.float()
        norm = torch.nn.utils.clip_grad_norm_(master, options["max_grad_norm"] or math.inf)
        warmup = options["warmup_steps"]
        rate = options["learning_rate"] * min(1.0, (step + 1) / warmup if warmup else 1.0)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        for copy, weight in zip(master, weights, strict=True):
            weight.data.copy_(copy)
        found.append(StepStats(float(value.detach()), float(norm), True, 1, rate))
    return found


def train(folder: Path, groups: Sequence[Group], loss: Loss, **options: Any) -> list[StepStats]:
    trainer = PolicyTrainer(folder, TrainerConfig(**options))
    return [trainer.step(groups, loss) for _ in range(STEPS)]


def agree(found: list[StepStats], expected: list[StepStats], slack: float = 1) -> None:
    for name, tolerance in (("loss", LOSS_TOLERANCE), ("grad_norm", NORM_TOLERANCE), ("learning_rate", 1e-12)):
        values = [getattr(stats, name) for stats in found]
        wanted = [getattr(stats, name) for stats in expected]
        assert values == pytest.approx(wanted, rel=slack * tolerance, abs=slack * tolerance), name
    assert all(stats.applied for stats in found)


@pytest.fixture(scope="module")
def reference(tiny_folder: Path, groups: list[Group], advantage_loss: Loss) -> list[StepStats]:
    return plain_loop(tiny_folder, groups, advantage_loss, **OPTIONS)


def test_the_reference_learns_and_clips(reference: list[StepStats]) -> None:
    """Else agreement with it would say little."""
    losses = [stats.loss for stats in reference]
    assert losses[0] - losses[-1] > 100 * LOSS_TOLERANCE
    assert all(stats.grad_norm > 2 * OPTIONS["max_grad_norm"] for stats in reference)


def test_clipping_makes_a_difference(
    tiny_folder: Path, groups: list[Group], advantage_loss: Loss, reference: list[StepStats]
) -> None:
    """Adam divides a constant factor out; what is left to see is that the steps' norms differ."""
    free = plain_loop(tiny_folder, groups, advantage_loss, **OPTIONS | {"max_grad_norm": 0.0})
    assert abs(free[-1].loss - reference[-1].loss) > 10 * LOSS_TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_norms_are_those_of_plain_pytorch(
    kind: str, tiny_folder: Path, groups: list[Group], advantage_loss: Loss, reference: list[StepStats]
) -> None:
    agree(train(tiny_folder, groups, advantage_loss, **OPTIONS, **KINDS[kind]), reference)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_checkpointing_runs_each_layer_again(
    checkpointing: bool, tiny_folder: Path, groups: list[Group], advantage_loss: Loss
) -> None:
    trainer = PolicyTrainer(tiny_folder, TrainerConfig(gradient_checkpointing=checkpointing))
    calls = []
    for layer in trainer.policy.model.model.layers:
        # Before the layer's last part: running it again stops as soon as the backward pass has what it needs.
        layer.mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    trainer.step(groups, advantage_loss)
    assert len(calls) == (4 if checkpointing else 2)


@pytest.mark.parametrize("stage", [2, 3])
def test_an_output_matrix_of_its_own_is_trained_too(
    stage: int, untied_folder: Path, groups: list[Group], advantage_loss: Loss
) -> None:
    expected = plain_loop(untied_folder, groups, advantage_loss, **OPTIONS)
    agree(train(untied_folder, groups, advantage_loss, **OPTIONS, zero_stage=stage), expected)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_no_clipping_at_0(stage: int, tiny_folder: Path, groups: list[Group], advantage_loss: Loss) -> None:
    options = OPTIONS | {"max_grad_norm": 0.0}
    expected = plain_loop(tiny_folder, groups, advantage_loss, **options)
    agree(train(tiny_folder, groups, advantage_loss, **options, zero_stage=stage), expected)
