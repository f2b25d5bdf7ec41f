"""One rank of test_value_trainer.py: trains a critic on its share of the groups, and writes what it saw."""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from course_lib.training import Group, TrainerConfig, ValueTrainer

OPTIONS: dict[str, Any] = {"learning_rate": 3e-4, "micro_batch_tokens": 40}
GROUPS = [
    Group([5, 6, 7], [[11, 12, 13, 2], [14, 15]], [0, 1]),
    Group([8], [[16, 17, 18], []], [2, 3]),
    Group([9, 10], [[19], [20, 21, 22, 23, 2]], [4, 5]),
]
RETURNS = torch.linspace(1, -1, 6)[:, None] * torch.linspace(0.5, 1, 5)
STEPS = 4


def learn(folder: Path, stage: int, groups: list[Group]) -> dict[str, Any]:
    trainer = ValueTrainer(folder, TrainerConfig(**OPTIONS, zero_stage=stage))
    steps = [asdict(trainer.step(groups, RETURNS, torch.zeros_like(RETURNS), clip=0.5)) for _ in range(STEPS)]
    return {"steps": steps, "values": {sample: row.tolist() for sample, row in trainer.values(groups).items()}}


def main() -> None:
    folder, out = map(Path, sys.argv[1:])
    rank = int(os.environ["RANK"])
    mine = [GROUPS[:2], GROUPS[2:]][rank]
    found = {str(stage): learn(folder, stage, mine) for stage in (2, 3)}
    (out / f"rank-{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
