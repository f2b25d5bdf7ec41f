"""The loop: generate, reward, train, sync, and again."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from course_lib.rl.advantages import Advantage
from course_lib.rl.advice import advise
from course_lib.rl.algorithms import Algorithm, find_algorithm
from course_lib.rl.batch import Batch
from course_lib.rl.clock import Clock
from course_lib.rl.collect import Collected, Collector
from course_lib.rl.config import LoopConfig
from course_lib.rl.handover import MemoryHandover
from course_lib.rl.interrupt import Interrupt
from course_lib.rl.losses import policy_gradient_loss
from course_lib.rl.memory import peak_memory
from course_lib.rl.metrics import step_metrics
from course_lib.rl.problem import Problem
from course_lib.rl.progress import LoopView, NoView, ProgressBar
from course_lib.rl.receipt import Receipt
from course_lib.rl.restore import restore
from course_lib.rl.rewards import Reward, RewardError, reward_name
from course_lib.rl.rollout import VLLMRollout
from course_lib.rl.run_folder import RunFolder
from course_lib.rl.summary import PHASES
from course_lib.rl.tasks import Task
from course_lib.rl.update import Loss, Updater, UpdateStats
from course_lib.rl.weight_sync import WeightSync
from course_lib.rl.world import World
from course_lib.training import FrozenPolicy, PolicyTrainer, ValueTrainer


class RLLoop:
    """Trains a policy: rollout and trainer take turns, and after every step the engine gets the new weights.

    Several ranks run the same loop, each with an engine and a trainer of its own: every rank generates and trains a share
    of each step, and what the step does is the same as on one rank, up to rounding.

    Args:
        trainer: holds the policy that is trained.
        rollout: the engine that samples from it; made from the same folder as the trainer.
        task: where prompts come from.
        run: the folder that the run is written to, usually `runs/<name>`.
        algorithm: a name of `ALGORITHMS`, or an `Algorithm` of your own.
        reward: what a completion is worth; the task's own grade where None is given.
        advantage: from rewards `[groups, samples]` to advantages of the same shape; the algorithm's where None is given.
        loss: the loss of each token; `policy_gradient_loss` with the algorithm's thresholds where None is given.
        critic: values states, for an algorithm that wants a critic (PPO).
        config: the loop's numbers.
        reference: the policy that the KL term holds on to; needed where the loss's `kl_coefficient` is above 0.
        resume: go on from the newest checkpoint in `run`.

    Raises:
        RunError: `run` already holds a run and `resume` is False, or the other way round, or its checkpoint is damaged.
        SyncError: trainer and engine start with different weights.
        ValueError: the algorithm wants a reference or a critic and there is none, or a rank would get no prompt.
    """

    def __init__(
        self,
        trainer: PolicyTrainer,
        rollout: VLLMRollout,
        task: Task,
        run: str | Path,
        *,
        algorithm: str | Algorithm = "grpo",
        reward: Reward | None = None,
        advantage: Advantage | None = None,
        loss: Loss | None = None,
        critic: ValueTrainer | None = None,
        config: LoopConfig | None = None,
        reference: FrozenPolicy | None = None,
        resume: bool = False,
    ):
        self.trainer, self.rollout, self.task = trainer, rollout, task
        self.algorithm, self.config = find_algorithm(algorithm), config or LoopConfig()
        self.world = World(trainer.engine.global_rank, trainer.world_size)
        self._check(reference, critic)
        critic = critic if self.algorithm.critic else None
        reward = task.grade if reward is None else reward
        advantage, loss = advantage or self.algorithm.advantage, loss or policy_gradient_loss
        self.collector = Collector(rollout, task, reward, advantage, self.algorithm, critic, self.config, self.world)
        self.updater = Updater(trainer, self.algorithm, loss, critic, reference, self.config, self.world)
        self.handover = MemoryHandover(trainer, rollout)
        decisions = asdict(self.config) | {
            "policy": trainer.folder.name,
            "task": task.name,
            "trainer": asdict(trainer.config),
            "algorithm": self.algorithm.decisions(),
            "reward": reward_name(reward),
            "advantage": None if advantage is None else reward_name(advantage),
            "loss": reward_name(loss),
        }
        self.run_folder = self.world.from_first(lambda: RunFolder(run, decisions, resume))
        self.completed = 0
        self._view: LoopView = NoView()
        state = restore(self.run_folder, trainer, critic, self.world) if resume else None
        if self.world.first:
            self.run_folder.truncate(state["step"] if state else -1)
        self.clock = Clock(before=self._seconds_before())
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
            view: watches the run; a progress bar with the time left where None is given. Only the first rank shows it.

        Raises:
            SyncError: a weight sync failed its receipt.
            RewardError: the reward failed, with the sample that it failed on.
            RunError: the run's folder can't be written.
            OutOfMemory: with the setting to lower.
        """
        self._view = (view or ProgressBar()) if self.world.first else NoView()
        self.clock.view = self._view
        if hasattr(self._view, "attach"):  # it reads the run's folder, as viz.Dashboard does
            self._view.attach(self)
        self._view.started(self.config.steps, self.completed)
        try:
            with Interrupt() as interrupt:
                if self.completed == 0 and self.world.from_first(lambda: not self.records()):
                    self._record({"step": 0}, evaluate=True)
                stop = False
                while self.completed < self.config.steps and not stop:
                    self.step()
                    stop = self.world.any(interrupt.requested)
                    last = self.completed == self.config.steps
                    if last or stop or self.completed % self.config.checkpoint_every == 0:
                        self.checkpoint()
        except RewardError:
            self.checkpoint()
            raise
        finally:
            self._view.finished()
            self.clock.view = None
        return self.records()

    def step(self) -> dict[str, Any]:
        """Take one step: generate, reward, train, sync. Return its record, which is also written to the run's folder."""
        number = self.completed + 1
        with self._advised():
            collected = self.collector.collect(number, self.clock)
            batch = collected.batch
            with self.clock.phase("train"):
                self.handover.to_trainer()
                stats = self.train(batch)
            with self.clock.phase("sync"):
                self.handover.to_rollout()
                receipt = self._push()
        self.completed = number
        record = {"step": number} | step_metrics(collected, stats) | {"receipt": receipt.to_dict()}
        self._write_samples(number, collected)
        due = number % self.config.evaluate_every == 0 or number == self.config.steps
        record = self._record(record, evaluate=due and receipt.ok)
        receipt.raise_if_failed()
        return record

    def generate(self, number: int) -> Batch:
        """Return the samples of a step, not yet judged: the same for the same step, seed and weights."""
        return self.collector.generate(number)

    def judge(self, batch: Batch) -> None:
        """Give the samples their rewards and advantages."""
        self.collector.judge(batch)

    def train(self, batch: Batch) -> UpdateStats | None:
        """Train on judged samples and return what the last update did, or None where no group has a signal."""
        if self.updater.critic is not None:
            self.collector.value(batch)
        return self.updater.update(batch)

    def evaluate(self) -> float:
        """Return the share of held-out problems that the policy answers rightly, sampling greedily."""
        return sum(self.task.grade(self.task.held_out, self.answers(self.task.held_out))) / len(self.task.held_out)

    def answers(self, problems: Sequence[Problem]) -> list[str]:
        """Return the policy's greedy answers."""
        return self.collector.answers(problems)

    def checkpoint(self) -> Path:
        """Write a checkpoint that the run can resume from, and return its folder.

        The first rank makes the folder and names it when it is whole; all of them write into it.
        """
        written = self.run_folder.path
        with self.clock.phase("checkpoint"):
            if self.world.first:
                written = self.run_folder.checkpoint(
                    self.completed, lambda folder: self._save(self.world.from_first(lambda: folder))
                )
            else:
                self._save(self.world.from_first(lambda: written))
            return self.world.from_first(lambda: written)

    def export(self) -> Path:
        """Write the policy as a Hugging Face model folder, `policy` in the run's folder, and return it."""
        folder = self.run_folder.path / "policy"
        self.trainer.export(folder)
        return folder

    def records(self) -> list[dict[str, Any]]:
        """Return the records of all steps so far, those of the starts before this one included."""
        return self.run_folder.read(self.run_folder.metrics)

    def __repr__(self) -> str:
        return (
            f"RLLoop({self.run_folder.path}, {self.algorithm.name}, step {self.completed} of {self.config.steps},"
            f" {self.trainer!r}, {self.rollout!r})"
        )

    def _check(self, reference: FrozenPolicy | None, critic: ValueTrainer | None) -> None:
        if self.algorithm.loss.kl_coefficient and reference is None:
            raise ValueError(
                "kl_coefficient is above 0, which needs a reference policy: give RLLoop a FrozenPolicy as reference."
            )
        if self.algorithm.critic and critic is None:
            raise ValueError(f"{self.algorithm.name} needs a critic: give RLLoop a ValueTrainer as critic.")
        if self.config.prompts_per_step < self.world.size:
            raise ValueError(
                f"prompts_per_step is {self.config.prompts_per_step} and there are {self.world.size} ranks: give every rank a"
                " prompt at least."
            )

    def _save(self, folder: Path) -> None:
        self.trainer.save(folder, {"step": self.completed, "noise_floor": self.sync.noise_floor})
        if self.updater.critic is not None:
            self.updater.critic.save(folder / "critic")

    def _push(self) -> Receipt:
        """Sync this rank's engine, and return the first receipt of all ranks' that is not clean, or the first."""
        receipts = self.world.gather(self.sync.push())
        return next((receipt for receipt in receipts if not receipt.ok), receipts[0])

    def _seconds_before(self) -> float:
        timelines = [record["timeline"] for record in self.records() if record.get("timeline")]
        return float(timelines[-1][-1][2]) if timelines else 0.0

    def _write_samples(self, number: int, collected: Collected) -> None:
        if not self.world.first:
            return
        table = collected.batch.table(self.rollout.tokenizer.decode)
        line = {"step": number, "weight_version": number - 1, "samples": table}
        self.run_folder.append(self.run_folder.samples, line)
        for fault in collected.faults:
            self.run_folder.append(self.run_folder.path / "faults.jsonl", {"step": number} | asdict(fault))

    def _record(self, record: dict[str, Any], evaluate: bool) -> dict[str, Any]:
        if evaluate:
            with self.clock.phase("evaluate"):
                record["held_out"] = self.evaluate()
        record |= self.clock.take()
        busy = sum(record["seconds"].get(phase, 0.0) for phase in PHASES)
        record["seconds"]["step"] = busy
        record["tokens_per_second"] = record.get("tokens", 0) / busy if busy else 0.0
        record["peak_memory"] = peak_memory()
        if self.world.first:
            self.run_folder.append(self.run_folder.metrics, record)
        self._view.step(record)
        return record

    @contextmanager
    def _advised(self) -> Iterator[None]:
        """Turn an engine's cry for memory into words that name the setting to lower."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            advice = advise(self.clock.current, error, self.trainer, self.rollout, self.config)
            if advice is None:
                raise
            raise advice from error
