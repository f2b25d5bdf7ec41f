"""The capstone's recipe: numbers that were found to work on each tier, and the loop made of them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from course_lib import machine
from course_lib.models import load_policy
from course_lib.rl.advantages import group_relative_advantages
from course_lib.rl.config import LoopConfig
from course_lib.rl.loop import RLLoop
from course_lib.rl.rollout import VLLMRollout
from course_lib.rl.tasks import Addition
from course_lib.training import PolicyTrainer, TrainerConfig


@dataclass(frozen=True)
class Recipe:
    """A run's numbers.

    Attributes:
        loop: of the loop.
        trainer: of the trainer.
        rollout: options of `VLLMRollout`.
        normalize_advantages: divide by the group's standard deviation, as GRPO does. Without it, as Dr. GRPO found, groups
            that are nearly always right or wrong don't get more weight than those that are open.
    """

    loop: LoopConfig
    trainer: TrainerConfig
    rollout: dict[str, Any] = field(default_factory=dict)
    normalize_advantages: bool = False

    @property
    def advantage(self) -> Callable[..., Any]:
        """The recipe's advantage function, for `RLLoop`."""
        return partial(group_relative_advantages, normalize=self.normalize_advantages)


def recipe(steps: int | None = None, seed: int = 0, tier: machine.Tier | None = None) -> Recipe:
    """Return the numbers of the capstone on this tier.

    The CPU tier takes 64 samples a step and many steps, the GPU tier 512 samples and few: there a step costs nearly the
    same for any number of samples that fits.

    Args:
        steps: of the run; the tier's own number where None is given.
        seed: of problems and samples.
        tier: the machine's own where None is given.
    """
    if (tier or machine.tier()) == "gpu":
        loop = LoopConfig(steps=steps or 25, prompts_per_step=64, samples_per_prompt=8, seed=seed, evaluate_every=5)
        trainer = TrainerConfig(learning_rate=2e-5, micro_batch_tokens=16384)
        return Recipe(loop, trainer, normalize_advantages=True)
    loop = LoopConfig(
        steps=steps or 60,
        prompts_per_step=8,
        samples_per_prompt=8,
        max_new_tokens=24,
        seed=seed,
        evaluate_every=10,
        checkpoint_every=20,
    )
    # One rank has nothing to partition, and without ZeRO's copies a step took two thirds of the time and 0.5 GiB less.
    trainer = TrainerConfig(learning_rate=3e-5, decay_steps=loop.steps, zero_stage=0, micro_batch_tokens=512)
    return Recipe(loop, trainer)


def make_loop(policy: str, run: Path, numbers: Recipe, resume: bool = False) -> RLLoop:
    """Start both engines on a policy, and return the loop over them."""
    folder = load_policy(policy)
    trainer = PolicyTrainer(folder, numbers.trainer)
    rollout = VLLMRollout(folder, **numbers.rollout)
    return RLLoop(trainer, rollout, Addition(), run, advantage=numbers.advantage, config=numbers.loop, resume=resume)
