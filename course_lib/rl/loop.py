"""The loop: generate, reward, train, sync, and again."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from course_lib.rl.advantages import group_relative_advantages
from course_lib.rl.batch import Batch, by_token
from course_lib.rl.config import LoopConfig
from course_lib.rl.interrupt import Interrupt
from course_lib.rl.losses import TokenLoss, policy_gradient_loss
from course_lib.rl.memory import peak_memory
from course_lib.rl.metrics import step_metrics
from course_lib.rl.problem import Problem
from course_lib.rl.progress import LoopView, ProgressBar
from course_lib.rl.rewards import Reward, RewardError, compute_rewards
from course_lib.rl.rollout import Rollout, SamplingConfig, VLLMRollout, request
from course_lib.rl.run_folder import RunError, RunFolder
from course_lib.rl.summary import PHASES
from course_lib.rl.tasks import Task
from course_lib.rl.weight_sync import WeightSync
from course_lib.training import FrozenPolicy, PackedBatch, PolicyTrainer, StepStats

Loss = Callable[..., TokenLoss]
"""A function like `losses.policy_gradient_loss`: per-token tensors in, a `TokenLoss` out."""


class RLLoop:
    """Trains a policy: rollout and trainer take turns, and after every step the engine gets the new weights.

    Args:
        trainer: holds the policy that is trained.
        rollout: the engine that samples from it; made from the same folder as the trainer.
        task: where prompts come from.
        run: the folder that the run is written to, usually `runs/<name>`.
        reward: what a completion is worth; the task's own grade where None is given.
        advantage: from rewards `[groups, samples]` to advantages of the same shape.
        loss: the loss of each token.
        config: the loop's numbers.
        reference: the policy that the KL term holds on to; needed where `config.loss.kl_coefficient` is above 0.
        resume: go on from the newest checkpoint in `run`.

    Raises:
        RunError: `run` already holds a run and `resume` is False, or the other way round, or its checkpoint is damaged.
        SyncError: trainer and engine start with different weights.
        ValueError: the loss wants a reference and there is none.
    """

    def __init__(
        self,
        trainer: PolicyTrainer,
        rollout: VLLMRollout,
        task: Task,
        run: str | Path,
        *,
        reward: Reward | None = None,
        advantage: Callable[[Tensor], Tensor] = group_relative_advantages,
        loss: Loss = policy_gradient_loss,
        config: LoopConfig | None = None,
        reference: FrozenPolicy | None = None,
        resume: bool = False,
    ):
        self.trainer, self.rollout, self.task = trainer, rollout, task
        self.reward = task.grade if reward is None else reward
        self.advantage, self.loss, self.reference = advantage, loss, reference
        self.config = config or LoopConfig()
        if self.config.loss.kl_coefficient and reference is None:
            raise ValueError(
                "kl_coefficient is above 0, which needs a reference policy: give RLLoop a FrozenPolicy as reference."
            )
        decisions = asdict(self.config) | {
            "policy": trainer.folder.name,
            "task": task.name,
            "trainer": asdict(trainer.config),
        }
        self.run_folder = RunFolder(run, decisions, resume)
        self.completed = 0
        self._seconds: dict[str, float] = {}
        self._view: LoopView = ProgressBar()
        state = self._restore() if resume else None
        self.run_folder.truncate(state["step"] if state else -1)
        self.sync = WeightSync(trainer, rollout, self.config.temperature, state["noise_floor"] if state else None)
        if state:
            self.completed = state["step"]
            self.sync.push().raise_if_failed()

    def run(self, view: LoopView | None = None) -> list[dict[str, Any]]:
        """Run the steps that are left, and return the records of all steps.

        The first Ctrl-C ends the run after the current step, with a checkpoint; a second one ends it at once, and the run
        resumes from the checkpoint before. A reward that fails leaves a checkpoint of the steps before, so that the run
        resumes where it was once the reward is mended.

        Args:
            view: watches the run; a progress bar with the time left where None is given.

        Raises:
            SyncError: a weight sync failed its receipt.
            RewardError: the reward failed, with the sample that it failed on.
            RunError: the run's folder can't be written.
        """
        self._view = view or ProgressBar()
        self._view.started(self.config.steps, self.completed)
        try:
            with Interrupt() as interrupt:
                if self.completed == 0 and not self.records():
                    self._record({"step": 0}, evaluate=True)
                while self.completed < self.config.steps and not interrupt.requested:
                    self.step()
                    last = self.completed == self.config.steps
                    if last or interrupt.requested or self.completed % self.config.checkpoint_every == 0:
                        self.checkpoint()
        except RewardError:
            self.checkpoint()
            raise
        finally:
            self._view.finished()
        return self.records()

    def step(self) -> dict[str, Any]:
        """Take one step: generate, reward, train, sync. Return its record, which is also written to the run's folder."""
        number, self._seconds = self.completed + 1, {}
        with self._phase("generate"):
            batch = self.generate(number)
        with self._phase("reward"):
            self.judge(batch)
        with self._phase("train"):
            stats = self.train(batch)
        with self._phase("sync"):
            receipt = self.sync.push()
        self.completed = number
        record = {"step": number} | step_metrics(batch, stats) | {"receipt": receipt.to_dict()}
        self.run_folder.append(self.run_folder.samples, {"step": number, "samples": batch.table()})
        due = number % self.config.evaluate_every == 0 or number == self.config.steps
        record = self._record(record, evaluate=due and receipt.ok)
        receipt.raise_if_failed()
        return record

    def generate(self, number: int) -> Batch:
        """Return the samples of a step, not yet judged: the same for the same step, seed and weights."""
        rng = random.Random(f"{self.config.seed}/{number}")
        drawn = self.task.draw(self.config.prompts_per_step, rng)
        n = self.config.samples_per_prompt
        sampling = SamplingConfig(
            max_new_tokens=self.config.max_new_tokens,
            temperature=self.config.temperature,
            n_samples_per_prompt=n,
            seed=rng.getrandbits(32),
        )
        rollout = self.rollout.generate(self._request(drawn), sampling)
        problems = [problem for problem in drawn for _ in range(n)]
        nothing = torch.zeros(len(problems))
        return Batch(problems, self._texts(rollout), rollout, nothing, nothing, n)

    def judge(self, batch: Batch) -> None:
        """Give the samples their rewards and advantages."""
        batch.rewards = torch.tensor(compute_rewards(self.reward, batch.problems, batch.completions))
        batch.advantages = self.advantage(batch.rewards.view(-1, batch.samples_per_prompt)).flatten()

    def train(self, batch: Batch) -> StepStats | None:
        """Train on judged samples and return what the last update did, or None where no group has a signal."""
        groups = batch.groups()
        if self.reference is not None:
            batch.reference_logprobs = batch.padded(self.reference.logprobs(groups, self.config.temperature))
        # Where all of a group's rewards are equal its gradient is zero: leave it out, unless a KL term or a loss of the
        # learner's own may want it.
        default = self.loss is policy_gradient_loss and not self.config.loss.kl_coefficient
        chosen = batch.with_signal(groups) if default else groups
        if not chosen:
            return None
        if self.config.updates_per_batch > 1:
            batch.old_logprobs = batch.padded(self.trainer.logprobs(chosen, self.config.temperature))
        stats = None
        for _ in range(self.config.updates_per_batch):
            stats = self.trainer.step(chosen, lambda *values: self._share(batch, *values), self.config.temperature)
        return stats

    def evaluate(self) -> float:
        """Return the share of held-out problems that the policy answers rightly, sampling greedily."""
        return sum(self.task.grade(self.task.held_out, self.answers(self.task.held_out))) / len(self.task.held_out)

    def answers(self, problems: Sequence[Problem]) -> list[str]:
        """Return the policy's greedy answers."""
        sampling = SamplingConfig(max_new_tokens=self.config.max_new_tokens, temperature=0.0)
        return self._texts(self.rollout.generate(self._request(problems), sampling))

    def checkpoint(self) -> Path:
        """Write a checkpoint that the run can resume from, and return its folder."""
        self._view.phase("checkpoint")
        state = {"step": self.completed, "noise_floor": self.sync.noise_floor}
        return self.run_folder.checkpoint(self.completed, lambda folder: self.trainer.save(folder, state))

    def export(self) -> Path:
        """Write the policy as a Hugging Face model folder, `policy` in the run's folder, and return it."""
        folder = self.run_folder.path / "policy"
        self.trainer.export(folder)
        return folder

    def records(self) -> list[dict[str, Any]]:
        """Return the records of all steps so far, those of the starts before this one included."""
        return self.run_folder.read(self.run_folder.metrics)

    def __repr__(self) -> str:
        return f"RLLoop({self.run_folder.path}, step {self.completed} of {self.config.steps}, {self.trainer!r}, {self.rollout!r})"

    def _restore(self) -> dict[str, Any] | None:
        """Load the newest checkpoint into the trainer and return its state, or None where the run has none yet."""
        checkpoint = self.run_folder.newest_checkpoint()
        if checkpoint is None:
            if self.trainer.steps:
                raise RunError(
                    f"{self.run_folder.path} has no checkpoint yet, so it would start again at step 0, but this trainer has"
                    f" taken {self.trainer.steps} steps: make trainer and engine anew, or start a run of another name."
                )
            return None
        try:
            return self.trainer.load(checkpoint)
        except Exception as error:
            raise RunError(
                f"the checkpoint {checkpoint} can't be loaded ({type(error).__name__}: {error}). Delete that folder, make"
                " trainer and engine anew and resume: the run goes on from the checkpoint before it."
            ) from error

    def _share(self, batch: Batch, packed: PackedBatch, logprobs: Tensor, entropy: Tensor) -> Tensor:
        """Return a micro-batch's share of the loss: a mean over all tokens of the batch, whatever the micro-batches are."""
        old = logprobs.detach() if batch.old_logprobs is None else by_token(batch.old_logprobs, packed)
        reference = None if batch.reference_logprobs is None else by_token(batch.reference_logprobs, packed)
        token = self.loss(
            logprobs,
            old,
            by_token(batch.rollout.logprobs, packed),
            batch.advantages.to(packed.samples.device)[packed.samples],
            self.config.loss,
            reference,
        )
        batch.trained.record(
            packed, logprobs=logprobs, entropy=entropy, clipped=token.clipped, truncated=token.truncated
        )
        return token.loss.sum() / batch.tokens

    def _record(self, record: dict[str, Any], evaluate: bool) -> dict[str, Any]:
        if evaluate:
            with self._phase("evaluate"):
                record["held_out"] = self.evaluate()
        busy = sum(self._seconds.get(phase, 0.0) for phase in PHASES)
        record["seconds"] = dict(self._seconds) | {"step": busy}
        record["tokens_per_second"] = record.get("tokens", 0) / busy if busy else 0.0
        record["peak_memory"] = peak_memory()
        self.run_folder.append(self.run_folder.metrics, record)
        self._view.step(record)
        return record

    def _request(self, problems: Sequence[Problem]) -> Any:
        encode: Any = self.rollout.tokenizer.apply_chat_template
        messages = ([{"role": "user", "content": problem.question}] for problem in problems)
        return request(
            [encode(message, add_generation_prompt=True, tokenize=True, return_dict=False) for message in messages]
        )

    def _texts(self, rollout: Rollout) -> list[str]:
        return [self.rollout.tokenizer.decode(response, skip_special_tokens=True) for response in rollout.responses()]

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        self._view.phase(name)
        start = time.perf_counter()
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._seconds[name] = time.perf_counter() - start
