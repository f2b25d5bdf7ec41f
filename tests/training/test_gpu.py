"""On a GPU: the trainer takes plain PyTorch's steps, sees the CPU's logprobs, and comes back from a checkpoint."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from course_lib.training import Group, PolicyTrainer, TrainerConfig

from .test_reference import KINDS, OPTIONS, agree, plain_loop, train

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]


@pytest.mark.parametrize("kind", ["stage 0", "stage 2", "stage 3", "stage 2, offload", "stage 2, checkpointing"])
def test_steps_are_plain_pytorchs(kind: str, tiny_folder: Path, groups: list[Group], advantage_loss: Any) -> None:
    expected = plain_loop(tiny_folder, groups, advantage_loss, **OPTIONS)
    # Wider than on a CPU: there both loops do their products in the same order, and an H200's kernels do not.
    agree(train(tiny_folder, groups, advantage_loss, **OPTIONS, **KINDS[kind]), expected, slack=4)


def test_logprobs_are_those_of_transformers_on_a_cpu(tiny_folder: Path, groups: list[Group]) -> None:
    found = PolicyTrainer(tiny_folder, TrainerConfig(micro_batch_tokens=32)).logprobs(groups)
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    gaps = []
    for group in groups:
        for sample, response in zip(group.samples, group.responses, strict=True):
            ids = torch.tensor([group.prompt_ids + response])
            with torch.no_grad():
                logprobs = model(ids).logits[0, len(group.prompt_ids) - 1 : -1].log_softmax(-1)
            gaps.append(logprobs[range(len(response)), response] - found[sample].cpu())
    gap = torch.cat(gaps).abs()
    assert 0 < gap.mean() < 0.05 and gap.max() < 0.3  # bf16 against fp32


@pytest.mark.parametrize("stage", [0, 2])
def test_a_checkpoint_goes_on_where_it_was(
    stage: int,
    tiny_folder: Path,
    tmp_path: Path,
    groups: list[Group],
    advantage_loss: Any,
    snapshot: Callable[[PolicyTrainer], dict[str, torch.Tensor]],
) -> None:
    config = TrainerConfig(learning_rate=1e-3, zero_stage=stage, micro_batch_tokens=32)
    trainer = PolicyTrainer(tiny_folder, config)
    trainer.step(groups, advantage_loss)
    trainer.save(tmp_path)
    saved, wanted = snapshot(trainer), [trainer.step(groups, advantage_loss).loss for _ in range(3)]
    resumed = PolicyTrainer(tiny_folder, config)
    resumed.load(tmp_path)
    assert all(torch.equal(saved[name], weight) for name, weight in snapshot(resumed).items())
    # A backward pass on a GPU adds some sums in the order in which they are ready.
    found = [resumed.step(groups, advantage_loss).loss for _ in range(3)]
    assert found == pytest.approx(wanted, rel=2e-3, abs=2e-3)
    assert abs(wanted[-1] - wanted[0]) > 0.02
