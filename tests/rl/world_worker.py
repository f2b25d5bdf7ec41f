"""One of two ranks under ZeRO-3, each with an engine of its own: the loop, exchanges, and syncs that go wrong on one rank alone.

Run by `course_lib.training.launch`: `world_worker.py MODEL OUT`. All in one start, which takes longer than the rest.
"""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from course_lib.rl import (
    Addition,
    LoopConfig,
    Problem,
    RLLoop,
    SamplingConfig,
    SyncError,
    VLLMRollout,
    WeightSync,
    World,
)
from course_lib.rl.rollout import request
from course_lib.training import Group, PolicyTrainer, TrainerConfig

RANK = int(os.environ["RANK"])
PROMPTS = [[1, 40, 50, 60, 70], [1, 45, 55]]


def letters(problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
    return [sum(character.lower() in "abcdefghijklm" for character in text) / max(1, len(text)) for text in completions]


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


def exchange() -> dict[str, Any]:
    """Return what this rank gets of the other by each way to exchange."""
    world = World(torch.distributed.get_rank(), 2)
    table = torch.tensor([float(world.rank), 2.0])
    world.sum(iter([table]))
    try:
        failed = str(world.from_first(lambda: 1 // world.rank))
    except ZeroDivisionError as error:
        failed = str(error)
    return {
        "first": world.first,
        "gathered": world.gather([world.rank]),
        "from_first": world.from_first(lambda: f"by {world.rank}"),
        "failed": failed,
        "any": [world.any(world.rank == 1), world.any(False)],
        "sum": table.tolist(),
    }


def run_the_loop(folder: Path, run: Path) -> VLLMRollout:
    """Return the loop's engine; the trainer comes before it, for DeepSpeed opens the ranks' process group."""
    trainer = PolicyTrainer(folder, TrainerConfig(learning_rate=3e-4, zero_stage=3))
    rollout = VLLMRollout(folder, kv_cache_bytes=32 << 20)
    config = LoopConfig(steps=3, prompts_per_step=4, samples_per_prompt=4, max_new_tokens=8, checkpoint_every=2)
    loop = RLLoop(trainer, rollout, Addition(), run, reward=letters, config=config)
    loop.run()
    loop.export()
    return rollout


def syncs(folder: Path, rollout: VLLMRollout) -> dict[str, Any]:
    """Return the receipts of syncs and what is generated after the first; a new trainer, with the policy's first weights."""
    trainer = PolicyTrainer(folder, TrainerConfig(zero_stage=3, learning_rate=1e-2))
    WeightSync(trainer, rollout, noise_floor=1.0).push().raise_if_failed()  # the loop's weights are there
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
    return seen


def main() -> None:
    """Write what this rank saw as JSON, and the run beside it."""
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    rollout = run_the_loop(folder, out / "run")
    seen = {"exchanged": exchange()} | syncs(folder, rollout)
    rollout.shutdown()
    (out / f"{RANK}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main()
