"""The capstone's recipe: numbers that were found to work on each tier, and the loop made of them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from course_lib import machine
from course_lib.models import load_policy
from course_lib.rl.algorithms import Algorithm, find_algorithm
from course_lib.rl.config import LoopConfig
from course_lib.rl.loop import RLLoop
from course_lib.rl.rewards import Reward
from course_lib.rl.rollout import VLLMRollout
from course_lib.rl.room import find_room
from course_lib.rl.tasks import Addition, Task
from course_lib.training import PolicyTrainer, TrainerConfig, ValueTrainer


@dataclass(frozen=True)
class Recipe:
    """A run's numbers.

    Attributes:
        loop: of the loop.
        trainer: of the trainer.
        algorithm: what the samples' rewards do to the policy.
        rollout: options of `VLLMRollout`.
    """

    loop: LoopConfig
    trainer: TrainerConfig
    algorithm: Algorithm
    rollout: dict[str, Any] = field(default_factory=dict)


def recipe(
    steps: int | None = None,
    seed: int = 0,
    algorithm: str | Algorithm = "dr_grpo",
    *,
    tier: machine.Tier | None = None,
    ranks: int = 1,
) -> Recipe:
    """Return the numbers of the capstone on this tier.

    The CPU tier takes 128 samples a step and many steps, the GPU tier 512 samples and few: there a step costs nearly the
    same for any number of samples that fits.

    Args:
        steps: of the run; the tier's own number where None is given.
        seed: of problems and samples.
        algorithm: a name of `ALGORITHMS`, or an algorithm of your own.
        tier: the machine's own where None is given.
        ranks: processes that share a step's work; one has nothing to partition, and several partition with ZeRO-2.
    """
    chosen = find_algorithm(algorithm)
    # One rank has nothing to partition: without ZeRO's copies a step on two cores took two thirds of the time and 0.5 GiB less.
    stage = 0 if ranks == 1 else 2
    if (tier or machine.tier()) == "gpu":
        loop = LoopConfig(steps=steps or 25, prompts_per_step=64, samples_per_prompt=8, seed=seed, evaluate_every=5)
        trainer = TrainerConfig(learning_rate=2e-5, zero_stage=stage, micro_batch_tokens=16384)
        return Recipe(loop, trainer, chosen, rollout={"enforce_eager": False})
    # Sampling until enough groups have a signal makes few prompts do, and takes more time a step. Its penalty for overlong
    # responses needs room above the usual length.
    patient = bool(chosen.dynamic_sampling)
    loop = LoopConfig(
        steps=steps or (50 if patient else 60),
        prompts_per_step=8 if patient else 16,
        samples_per_prompt=8,
        max_new_tokens=24 if patient else 16,
        seed=seed,
        evaluate_every=5,
        checkpoint_every=30,
    )
    trainer = TrainerConfig(
        learning_rate=3e-5 if patient else 2e-5,
        decay_steps=loop.steps,
        zero_stage=stage,
        micro_batch_tokens=1024,
    )
    return Recipe(loop, trainer, chosen)


def make_loop(
    policy: str,
    run: Path,
    numbers: Recipe,
    *,
    task: Task | None = None,
    reward: Reward | None = None,
    resume: bool = False,
) -> RLLoop:
    """Start both engines on a policy, and the critic where the algorithm wants one; return the loop over them.

    Raises:
        OutOfMemory: the GPU has no room for both; the message says how much they need, and the settings that would fit.
    """
    folder = load_policy(policy)
    find_room(folder, numbers.trainer, numbers.rollout, critic=numbers.algorithm.critic)
    trainer = PolicyTrainer(folder, numbers.trainer)
    critic = ValueTrainer(folder, numbers.trainer) if numbers.algorithm.critic else None
    rollout = VLLMRollout(folder, **numbers.rollout)
    return RLLoop(
        trainer,
        rollout,
        task or Addition(),
        run,
        algorithm=numbers.algorithm,
        reward=reward,
        critic=critic,
        config=numbers.loop,
        resume=resume,
    )
