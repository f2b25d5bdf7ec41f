"""One rank of test_ranks.py, of one or two: trains on its share of the groups and writes what it saw."""

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import torch

from course_lib.training import Group, PackedBatch, PolicyTrainer, TrainerConfig

RANK, RANKS = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def loss(batch: PackedBatch, logprobs: torch.Tensor, entropy: torch.Tensor) -> torch.Tensor:
    return -(logprobs * (1 - 0.3 * (batch.samples % 3))).sum() / 40


def nan_on_the_last_rank(batch: PackedBatch, logprobs: torch.Tensor, entropy: torch.Tensor) -> torch.Tensor:
    return loss(batch, logprobs, entropy) * (math.nan if RANK == RANKS - 1 else 1.0)


def error_of(trainer: PolicyTrainer, groups: list[Group]) -> str:
    try:
        trainer.step(groups, loss)
    except ValueError as error:
        return str(error)
    return ""


def train(folder: Path, out: Path, stage: int, shares: list[list[Group]], options: dict[str, Any]) -> dict[str, Any]:
    trainer = PolicyTrainer(folder, TrainerConfig(zero_stage=stage, **options))
    mine = shares[RANK]
    steps = [trainer.step(mine, loss), trainer.step(mine, loss)]
    spoiled = trainer.step(mine, nan_on_the_last_rank)
    steps.append(trainer.step(mine, loss))
    logprobs = trainer.logprobs(mine)
    checkpoint = out / f"checkpoint-{stage}-{RANKS}"
    trainer.save(checkpoint)
    trainer.export(out / f"export-{stage}-{RANKS}")
    after = [trainer.step(mine, loss).loss for _ in range(3)]
    moments = [state["exp_avg"].numel() for state in trainer.engine.optimizer.optimizer.state.values()]
    resumed = PolicyTrainer(folder, trainer.config)
    resumed.load(checkpoint)
    weights = {name: weight.cpu() for name, weight in trainer.named_weights()}
    return {
        "losses": [step.loss for step in steps],
        "norms": [step.grad_norm for step in steps],
        "passes": [step.micro_batches for step in steps],
        "applied": [step.applied for step in steps],
        "spoiled_applied": spoiled.applied,
        "samples": sorted(logprobs),
        "after": after,
        "after_load": [resumed.step(mine, loss).loss for _ in range(3)],
        "moments": sum(moments),
        "parameters": sum(weight.numel() for weight in weights.values()),
        "no_groups": error_of(trainer, mine if RANK < RANKS - 1 else []),
    }


def main() -> None:
    out = Path(sys.argv[1])
    task = json.loads((out / "task.json").read_text())
    groups = [Group(**group) for group in task["groups"]]
    shares = [groups[:3], groups[3:]] if RANKS == 2 else [groups]
    stages = (1, 2, 3) if RANKS == 2 else (2,)
    found = {stage: train(Path(task["folder"]), out, stage, shares, task["options"]) for stage in stages}
    (out / f"rank-{RANK}-of-{RANKS}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
