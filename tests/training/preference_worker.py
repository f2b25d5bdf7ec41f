"""One rank of test_preference_ranks.py: trains on its share of preferences and of conversations, and writes what it saw."""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from course_lib.training import (
    PolicyTrainer,
    RewardTrainer,
    TrainerConfig,
    addition_conversations,
    fine_tune,
    synthetic_preferences,
)

PAIRS = synthetic_preferences(9)
OPTIONS: dict[str, Any] = {"learning_rate": 3e-4, "micro_batch_tokens": 150}
STEPS = 4


def reward(folder: Path, stage: int, rank: int, ranks: int) -> dict[str, Any]:
    """Rank 0 of two has six of the nine pairs."""
    mine = ([PAIRS[:6], PAIRS[6:]] if ranks == 2 else [PAIRS])[rank]
    trainer = RewardTrainer(folder, TrainerConfig(**OPTIONS, zero_stage=stage))
    steps = [asdict(trainer.step(mine)) for _ in range(STEPS)]
    try:
        trainer.step(mine if rank == 0 else [])
    except ValueError as error:
        refused = str(error)
    return {"steps": steps, "accuracy": trainer.accuracy(mine), "refused": refused if ranks == 2 else ""}


def supervised(folder: Path, stage: int) -> list[dict[str, Any]]:
    """Batches of five turns: three for rank 0 of two, and two for rank 1."""
    trainer = PolicyTrainer(folder, TrainerConfig(**OPTIONS, zero_stage=stage))
    return [asdict(step) for step in fine_tune(trainer, addition_conversations(12), steps=STEPS, batch=5)]


def main() -> None:
    policy, scored, out = map(Path, sys.argv[1:])
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    found = {
        "reward": {stage: reward(scored, stage, rank, ranks) for stage in (0, 1, 2, 3)},
        "supervised": {stage: supervised(policy, stage) for stage in (2, 3)},
    }
    (out / f"rank-{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
