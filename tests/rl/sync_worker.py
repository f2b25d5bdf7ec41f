"""One of two ranks, each with an engine of its own over the one trainer: syncs that go wrong on one rank alone.

Run by `course_lib.training.launch`: `sync_worker.py MODEL OUT`.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from course_lib.rl import SamplingConfig, SyncError, VLLMRollout, WeightSync
from course_lib.rl.rollout import request
from course_lib.training import Group, PolicyTrainer, TrainerConfig

RANK = int(os.environ["RANK"])
PROMPTS = [[1, 40, 50, 60, 70], [1, 45, 55]]


class StopsEarly(WeightSync):
    """On rank 1 it takes two weights, and leaves the other rank alone in every gather after them."""

    def reload(self, weights: Iterator[tuple[str, Tensor]]) -> None:
        if RANK == 0:
            super().reload(weights)
        else:
            next(weights), next(weights)


class Raises(WeightSync):
    def reload(self, weights: Iterator[tuple[str, Tensor]]) -> None:
        if RANK == 1:
            next(weights)
            raise KeyError("mine")
        super().reload(weights)


def main() -> None:
    """Write what this rank saw as JSON."""
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    trainer = PolicyTrainer(folder, TrainerConfig(zero_stage=3, learning_rate=1e-2))
    rollout = VLLMRollout(folder, kv_cache_bytes=16 << 20)
    seen: dict[str, Any] = {}

    def push(kind: type[WeightSync], floor: float | None = 1.0) -> Any:
        group = Group([1, 40, 50, 60], [[70, 80, 90, 2], [75, 85]], [0, 1])
        sync = kind(trainer, rollout, noise_floor=floor)
        trainer.step([group], lambda packed, logprobs, entropy: -logprobs.mean() / 2)
        try:
            return sync.push().to_dict()
        except (KeyError, SyncError) as error:
            return f"{type(error).__name__}: {error}"

    seen["clean"] = push(WeightSync, None)
    sampling = SamplingConfig(max_new_tokens=6, n_samples_per_prompt=2, seed=3)
    seen["whole"] = rollout.generate(request(PROMPTS), sampling).responses()
    sampling.first_sample = 2 * RANK
    seen["own"] = rollout.generate(request(PROMPTS[RANK : RANK + 1]), sampling).responses()
    seen["stopped"] = push(StopsEarly)
    seen["raised"] = push(Raises)
    seen["doubted"] = push(WeightSync, 1.0 if RANK == 0 else 1e-9)  # only rank 1 looks for another temperature
    seen["mended"] = push(WeightSync)
    rollout.shutdown()
    (out / f"{RANK}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main()
