"""One engine for the whole folder, and trainers that start from the same files as often as a test needs."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from course_lib.models import load_policy
from course_lib.rl import Addition, LoopConfig, Problem, RLLoop, VLLMRollout, WeightSync
from course_lib.rl.batch import Batch
from course_lib.rl.rollout import Rollout
from course_lib.training import Group, PolicyTrainer, TrainerConfig

SMALL = {"prompts_per_step": 4, "samples_per_prompt": 4, "max_new_tokens": 8}
Records = list[dict[str, Any]]


def letters(problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
    """A reward that a random model gets too: the share of characters in the first half of the alphabet."""
    return [sum(character.lower() in "abcdefghijklm" for character in text) / max(1, len(text)) for text in completions]


class Quiet:
    """A view that shows nothing; tests override what they need."""

    def started(self, steps: int, completed: int) -> None: ...
    def phase(self, name: str) -> None: ...
    def step(self, record: dict[str, Any]) -> None: ...
    def finished(self) -> None: ...


@pytest.fixture(scope="session")
def tiny() -> Path:
    return load_policy("tiny")


@pytest.fixture(scope="session")
def engine(tiny: Path) -> Iterator[VLLMRollout]:
    rollout = VLLMRollout(tiny, kv_cache_bytes=64 << 20)
    yield rollout
    rollout.shutdown()


@pytest.fixture(scope="session")
def make_trainer(tiny: Path) -> Callable[..., PolicyTrainer]:
    """A trainer with the folder's weights; the learning rate is high enough for one step to show in every tensor."""

    def make(**options: Any) -> PolicyTrainer:
        return PolicyTrainer(tiny, TrainerConfig(**{"learning_rate": 1e-3} | options))

    return make


@pytest.fixture(scope="session")
def equalize(engine: VLLMRollout) -> Callable[[PolicyTrainer], PolicyTrainer]:
    """Give the shared engine a trainer's weights, as if both had just been made from the same files."""

    def push(trainer: PolicyTrainer) -> PolicyTrainer:
        WeightSync(trainer, engine, noise_floor=1.0).push().raise_if_failed()
        return trainer

    return push


@pytest.fixture(scope="session")
def train() -> Callable[[PolicyTrainer], None]:
    """Take one real optimizer step."""
    group = Group([1, 40, 50, 60], [[70, 80, 90, 2], [75, 85]], [0, 1])

    def step(trainer: PolicyTrainer) -> None:
        assert trainer.step([group], lambda packed, logprobs, entropy: -logprobs.mean()).applied

    return step


@pytest.fixture(scope="session")
def make_loop(engine: VLLMRollout, make_trainer: Any, equalize: Any) -> Callable[..., RLLoop]:
    """A small loop on `tiny`, with a trainer of its own, as after a new start of the process."""

    def make(run: Path, resume: bool = False, trainer: dict[str, Any] | None = None, **options: Any) -> RLLoop:
        names = ("reward", "loss", "advantage", "reference", "task", "algorithm", "critic")
        parts = {"reward": letters, "task": Addition()} | {k: options.pop(k) for k in names if k in options}
        config = LoopConfig(**SMALL | options)
        # Slow enough for four steps to keep some variety in the samples, and so a signal.
        fresh = equalize(make_trainer(**{"learning_rate": 3e-4} | (trainer or {})))
        return RLLoop(fresh, engine, run=run, config=config, resume=resume, **parts)

    return make


@pytest.fixture(scope="session")
def quiet() -> type[Quiet]:
    return Quiet


@pytest.fixture(scope="session")
def reward() -> Callable[..., list[float]]:
    return letters


@pytest.fixture(scope="session")
def curve() -> Callable[[Records], Records]:
    """What two runs of the same seed have in common: all but times, memory and the shared engine's count of syncs."""

    def strip(records: Records) -> Records:
        measured = ("seconds", "tokens_per_second", "peak_memory", "timeline", "kv")
        kept = [{name: value for name, value in record.items() if name not in measured} for record in records]
        for record in kept:
            if "receipt" in record:
                receipt = record["receipt"].items()
                record["receipt"] = {name: value for name, value in receipt if name not in ("seconds", "version")}
        return kept

    return strip


@pytest.fixture(scope="session")
def make_batch() -> Callable[..., Batch]:
    """A batch of made-up samples of the given response lengths, in groups of two that share a prompt."""

    def make(lengths: list[int], advantages: list[float]) -> Batch:
        rows, longest = len(lengths), max(lengths)
        token = itertools.count(10)
        ids, mask = (
            torch.zeros((rows, 3 + longest), dtype=torch.long),
            torch.zeros((rows, 3 + longest), dtype=torch.long),
        )
        logprobs = torch.zeros((rows, longest))
        for row, length in enumerate(lengths):
            ids[row, 1:3] = torch.tensor([5, 6 + row // 2])
            ids[row, 3 : 3 + length] = torch.tensor([next(token) for _ in range(length)])
            mask[row, 1 : 3 + length] = 1
            logprobs[row, :length] = -torch.rand(length, generator=torch.Generator().manual_seed(row)) - 0.1
        rollout = Rollout(
            input_ids=ids,
            attention_mask=mask,
            response_start_idx=torch.full((rows,), 3),
            response_lengths=torch.tensor(lengths),
            logprobs=logprobs,
            finished=torch.zeros(rows, dtype=torch.bool),
            cached_tokens=torch.zeros(rows, dtype=torch.long),
        )
        problems = [Problem(f"question {row // 2}", "x") for row in range(rows)]
        return Batch(problems, [""] * rows, rollout, torch.tensor(advantages), torch.tensor(advantages), 2)

    return make
