"""One rank of test_rank_failures.py that trains for real, and that goes wrong in the middle of its third step, as it is told."""

import os
import signal
import sys
import time
from pathlib import Path

from torch import Tensor

from course_lib.models import load_policy
from course_lib.training import Group, PackedBatch, PolicyTrainer, TrainerConfig

MODE, RANK = sys.argv[1], int(os.environ["RANK"])
FAULTS = {
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "raises": lambda: {}["a learner's mistake"],
    "leaves": lambda: os._exit(0),
}


def main() -> None:
    trainer = PolicyTrainer(load_policy("tiny"), TrainerConfig(zero_stage=3))
    group = Group([5, 6, 7], [[8, 9, 10]], [RANK])

    def loss(batch: PackedBatch, logprobs: Tensor, entropy: Tensor) -> Tensor:
        if MODE in FAULTS and RANK == 1 and trainer.steps == 2:
            Path(sys.argv[2]).write_text(str(time.time()))
            FAULTS[MODE]()
        return -logprobs.sum() / 6

    for _ in range(4):
        print(f"loss {trainer.step([group], loss).loss}")


if __name__ == "__main__":
    main()
