"""The first half of a step: prompts are drawn, samples generated, rewards given, advantages computed."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from course_lib.rl.advantages import Advantage
from course_lib.rl.algorithms import Algorithm
from course_lib.rl.batch import Batch
from course_lib.rl.clock import Clock
from course_lib.rl.config import LoopConfig
from course_lib.rl.gae import generalized_advantages, whiten
from course_lib.rl.problem import Problem
from course_lib.rl.rewards import Judged, Reward, RewardFault, compute_rewards
from course_lib.rl.rollout import SamplingConfig
from course_lib.rl.rows import join_rows
from course_lib.rl.sample_batch import as_request, as_texts
from course_lib.rl.tasks import Task
from course_lib.rl.world import World
from course_lib.training import ValueTrainer


@dataclass(frozen=True)
class Collected:
    """What was collected for a step.

    Attributes:
        batch: what the step trains on.
        rewards: of all that was sampled for it.
        faults: of all that was sampled for it: samples whose reward failed.
    """

    batch: Batch
    rewards: Float[Tensor, " sampled"]
    faults: list[RewardFault]


class Collector:
    """Collects judged samples for a step. Every rank generates a share of them, and all ranks end up with the whole.

    Args:
        rollout: this rank's engine.
        task: where prompts come from.
        reward: what a completion is worth; only the first rank calls it.
        advantage: from rewards `[groups, samples]` to advantages of the same shape; None where the critic makes them.
        algorithm: decides on dynamic sampling, overlong penalty and critic.
        critic: values states for an algorithm that wants it.
        config: the loop's numbers.
        world: this rank among the others.
    """

    def __init__(
        self,
        rollout: Any,
        task: Task,
        reward: Reward,
        advantage: Advantage | None,
        algorithm: Algorithm,
        critic: ValueTrainer | None,
        config: LoopConfig,
        world: World,
    ):
        self.rollout, self.task, self.reward, self.advantage = rollout, task, reward, advantage
        self.algorithm, self.critic, self.config, self.world = algorithm, critic, config, world

    def collect(self, number: int, clock: Clock) -> Collected:
        """Return the judged batch that a step trains on, and what was sampled for it.

        With dynamic sampling (DAPO, arXiv 2503.14476, section 3.2) groups without a signal are replaced: more prompts are
        drawn, until there are `prompts_per_step` groups with one or the algorithm's further rounds are used up.
        """
        kept: list[Batch] = []
        rewards: list[Tensor] = []
        faults: list[RewardFault] = []
        rounds = self.algorithm.dynamic_sampling
        for again in range(1 + rounds):
            with clock.phase("generate"):
                batch = self.generate(number, again, clock.engine_step)
            with clock.phase("reward"):
                self.judge(batch)
            rewards.append(batch.rewards)
            faults += batch.faults
            if rounds and batch.signal():
                kept.append(batch.take(batch.signal()))
            groups = sum(len(part.problems) for part in kept) // self.config.samples_per_prompt
            if not rounds or groups >= self.config.prompts_per_step:
                break
        if kept:
            batch = Batch.join(kept)
            batch = batch.take(range(min(groups, self.config.prompts_per_step)))
        return Collected(batch, torch.cat(rewards), faults)

    def generate(self, number: int, again: int = 0, on_step: Callable[[int, int, float], None] | None = None) -> Batch:
        """Return a step's samples, not yet judged: the same for the same step, round, seed and weights, on any number of ranks."""
        rng = random.Random(f"{self.config.seed}/{number}" + (f"/{again}" if again else ""))
        drawn = self.task.draw(self.config.prompts_per_step, rng)
        n = self.config.samples_per_prompt
        start, own = self.world.share(drawn)
        sampling = SamplingConfig(
            max_new_tokens=self.config.max_new_tokens,
            temperature=self.config.temperature,
            n_samples_per_prompt=n,
            seed=rng.getrandbits(32),
            first_sample=start * n,
        )
        mine = self.rollout.generate(as_request(self.rollout.tokenizer, own), sampling, on_step=on_step)
        rollout = join_rows(self.world.gather(mine))
        problems = [problem for problem in drawn for _ in range(n)]
        nothing = torch.zeros(len(problems))
        return Batch(problems, as_texts(self.rollout.tokenizer, rollout), rollout, nothing, nothing, n)

    def judge(self, batch: Batch) -> None:
        """Give the samples their rewards and advantages. The first rank asks the reward, all get what it said."""
        judged: Judged = self.world.from_first(
            lambda: compute_rewards(self.reward, batch.problems, batch.completions, self.config.on_reward_error)
        )
        batch.faults = judged.faults
        batch.reward_parts = {name: torch.tensor(values) for name, values in judged.parts.items()}
        rewards = torch.tensor(judged.rewards)
        if self.algorithm.overlong_buffer:
            lengths = batch.rollout.response_lengths
            shaped = self.algorithm.shape_rewards(rewards, lengths, self.config.max_new_tokens)
            batch.reward_parts["overlong"] = shaped - rewards
            rewards = shaped
        groups, faulty = rewards.view(-1, batch.samples_per_prompt), rewards.isnan()
        batch.rewards = torch.where(groups.isnan(), groups.nanmean(dim=1, keepdim=True).nan_to_num(), groups).flatten()
        if self.advantage is not None:
            advantages = self.advantage(batch.rewards.view_as(groups)).flatten()
            batch.advantages = torch.where(faulty, 0.0, advantages)

    def value(self, batch: Batch) -> None:
        """Give each token its advantage over what the critic expected (PPO), scaled to mean 0 and deviation 1."""
        assert self.critic is not None
        mine = self.world.deal(batch.groups())
        found = {
            sample: values for part in self.world.gather(self.critic.values(mine)) for sample, values in part.items()
        }
        batch.values = batch.padded(found)
        mask = batch.rollout.response_mask
        advantages, batch.returns = generalized_advantages(
            batch.rewards, batch.values, mask, self.algorithm.gamma, self.algorithm.lam
        )
        batch.advantages = whiten(advantages, mask)

    def answers(self, problems: Sequence[Problem]) -> list[str]:
        """Return the policy's greedy answers; each rank generates a share of them."""
        sampling = SamplingConfig(max_new_tokens=self.config.max_new_tokens, temperature=0.0)
        own = self.world.share(problems)[1]
        tokenizer = self.rollout.tokenizer
        mine = as_texts(tokenizer, self.rollout.generate(as_request(tokenizer, own), sampling)) if own else []
        return [text for part in self.world.gather(mine) for text in part]
