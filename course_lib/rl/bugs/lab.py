"""The lab: one trainer, one engine, one fixed batch, and the pieces of a loop that a bug can be put into."""

import random
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch
from jaxtyping import Float
from torch import Tensor

from course_lib.rl.batch import Batch
from course_lib.rl.bugs.audit import TokenWeights, audit_step
from course_lib.rl.bugs.loss_pass import LossPass, StepLoss
from course_lib.rl.rollout import VLLMRollout
from course_lib.rl.rollout_batch import SamplingConfig
from course_lib.rl.sample_batch import sample_batch
from course_lib.rl.tasks import Addition, Task
from course_lib.rl.weight_sync import WeightSync
from course_lib.training import PolicyTrainer, StepStats, TrainerConfig, micro_batches


class BugLab:
    """What all experiments with bugs share: they run on one trainer and one engine, one after another.

    Every experiment leaves the lab as right as it found it; only the weights move on. Its pieces are attributes, and a bug's
    switch replaces one of them for a while: `sync`, `sampling`, `loss_pass`, or what the engine does.

    Args:
        folder: a Hugging Face model folder, as `models.load_policy` returns it.
        trainer: one that exists already; else the lab makes one of `folder`.
        rollout: the same for the engine. Trainer and engine have to hold the same weights.
        task: where prompts come from; addition where None is given.
        prompts: of the batch.
        samples_per_prompt: of the batch; an even number, since half of the samples get the advantage 1 and half -1.
        max_new_tokens: the longest response.
        temperature: of sampling and of every logprob; other than 1, because 1 hides what the temperature does.
        learning_rate: of the updates after which weights are synced. One update has to show in the logprobs as many updates
            of a real run do.
        seed: of problems and samples.

    Raises:
        ValueError: the temperature is 1, or `samples_per_prompt` is odd.
        SyncError: trainer and engine hold different weights.
        RolloutError: vLLM did not start.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        trainer: PolicyTrainer | None = None,
        rollout: VLLMRollout | None = None,
        task: Task | None = None,
        prompts: int = 8,
        samples_per_prompt: int = 4,
        max_new_tokens: int = 24,
        temperature: float = 0.7,
        learning_rate: float = 1e-4,
        seed: int = 0,
    ):
        if temperature == 1.0:
            raise ValueError("temperature is 1, at which logprobs of the wrong temperature are right; take 0.7.")
        if samples_per_prompt % 2:
            raise ValueError(f"samples_per_prompt is {samples_per_prompt}; it must be even.")
        self.trainer = trainer or PolicyTrainer(folder, TrainerConfig(zero_stage=0, micro_batch_tokens=1024))
        self.rollout = rollout or VLLMRollout(folder)
        self.learning_rate = learning_rate
        self.problems = (task or Addition()).draw(prompts, random.Random(seed))
        self.sampling = SamplingConfig(
            max_new_tokens=max_new_tokens, temperature=temperature, n_samples_per_prompt=samples_per_prompt, seed=seed
        )
        self.loss_pass = LossPass()
        self.sync = WeightSync(self.trainer, self.rollout, temperature)
        self.batch = self.sample()

    @property
    def temperature(self) -> float:
        """Of sampling and of every logprob."""
        return self.sync.temperature

    @property
    def eos_id(self) -> int:
        """The token that ends a response."""
        return int(self.rollout.tokenizer.eos_token_id)

    def sample(self) -> Batch:
        """Return samples of the engine's present weights: always the same prompts and the same seed."""
        batch = sample_batch(self.rollout, self.problems, self.sampling)
        batch.advantages = torch.tensor([1.0, -1.0]).repeat(len(batch.problems) // 2)
        return batch

    def log_ratios(self) -> Float[Tensor, " tokens"]:
        """Return trainer's minus sampler's logprob of each token of new samples, in nats."""
        batch = self.sample()
        mask = batch.rollout.response_mask
        trained = batch.padded(self.trainer.logprobs(batch.groups(), self.temperature))
        return (trained - batch.rollout.logprobs)[mask]

    def train(self) -> StepStats:
        """Take one real update on the batch."""
        with patch.object(self.trainer, "config", replace(self.trainer.config, learning_rate=self.learning_rate)):
            return self.trainer.step(self.batch.groups(), self._loss(), self.temperature)

    def audit(self, micro_batch_tokens: int | None = None, reference_pass: bool = False) -> TokenWeights:
        """Return what each of the batch's tokens weighs in the loss of a step.

        Args:
            micro_batch_tokens: of the step; the trainer's own where None is given.
            reference_pass: compute a reference's logprobs before the update, as a loop with a KL term does.
        """
        config = self.trainer.config
        size = replace(config, micro_batch_tokens=micro_batch_tokens or config.micro_batch_tokens)
        with patch.object(self.trainer, "config", size):
            return audit_step(self.trainer, self.batch, self._loss(reference_pass), self.temperature)

    def close(self) -> None:
        """Shut the engine down."""
        self.rollout.shutdown()

    def _loss(self, reference_pass: bool = False) -> StepLoss:
        passes = len(list(micro_batches(self.batch.groups(), self.trainer.config.micro_batch_tokens)))
        reference = self.trainer.policy if reference_pass else None
        return StepLoss(self.loss_pass, self.batch, self.eos_id, passes, reference, self.temperature)

    def __repr__(self) -> str:
        return (
            f"BugLab({self.trainer!r}, {self.rollout!r}, {self.batch.tokens} tokens at temperature {self.temperature})"
        )
