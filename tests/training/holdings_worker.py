"""One of two ranks of test_holdings.py: looks at its own tensors, and counts known collectives."""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from course_lib.training import CommunicationLog, Group, PolicyTrainer, TrainerConfig, holdings

RANK = int(os.environ["RANK"])
NUMBERS = 1000


def main() -> None:
    folder, out = map(Path, sys.argv[1:])
    found = {str(stage): look(folder, stage) for stage in range(4)}
    (out / f"{RANK}.json").write_text(json.dumps(found | {"collectives": collectives()}))


def look(folder: Path, stage: int) -> dict[str, bool]:
    """Compare the rank's master copy with the weights at the places where its holdings say that it lies."""
    trainer = PolicyTrainer(folder, TrainerConfig(zero_stage=stage, learning_rate=1e-3))
    groups = [Group([1, 2, 3], [[4, 5 + RANK, 6]], [0])]
    trainer.step(groups, lambda batch, logprobs, entropy: -logprobs.sum())
    flat = torch.cat([weight.flatten() for _, weight in trainer.named_weights()])
    ranges = holdings(trainer).ranges("master")
    there = torch.cat([flat[start:end] for start, end in ranges])
    moved = torch.cat([flat.roll(-1)[start:end] for start, end in ranges])
    mine = master(trainer, stage).bfloat16()
    return {
        "master_is_the_weights_there": torch.equal(mine, there),
        "other_places_differ": not torch.equal(mine, moved),
    }


def master(trainer: PolicyTrainer, stage: int) -> torch.Tensor:
    """Return this rank's fp32 copy as one line."""
    optimizer: Any = trainer.engine.optimizer
    if stage == 0:
        parts = [part for group in optimizer.fp32_groups for part in group]
    else:
        parts = optimizer.fp32_partitioned_groups_flat if stage == 3 else optimizer.single_partition_of_fp32_groups
    return torch.cat([part.detach().flatten() for part in parts])


def collectives() -> dict[str, Any]:
    """Count one of each collective on 1000 fp32 numbers."""
    whole, part = torch.zeros(NUMBERS), torch.zeros(NUMBERS // 2)
    dist = torch.distributed
    with CommunicationLog() as log:
        dist.all_reduce(whole)
        dist.all_reduce(whole)
        dist.all_gather_into_tensor(whole, part)
        dist.all_gather([torch.zeros_like(part) for _ in range(2)], part)
        dist.reduce_scatter_tensor(part, whole)
        dist.broadcast(whole, 0)
        dist.barrier()
        _ = whole + 1
    dist.all_reduce(whole)  # after the block
    return {traffic.kind: asdict(traffic) for traffic in log} | {"all": log.bytes, "said": repr(log)}


if __name__ == "__main__":
    main()
