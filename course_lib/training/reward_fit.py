"""From preferences to a reward model's folder: a few epochs of `RewardTrainer`, measured on pairs that it never saw."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from course_lib.training.config import TrainerConfig
from course_lib.training.preferences import Preference, read_preferences, synthetic_preferences
from course_lib.training.reward_trainer import RewardTrainer

SYNTHETIC = "synthetic:"


@dataclass(frozen=True)
class RewardFit:
    """How well a reward model came to agree with the judge.

    Attributes:
        trained_on: pairs that it learned from.
        held_out: pairs that it was measured on.
        losses: mean Bradley-Terry loss of each epoch, in nats; 0.69 is guessing.
        accuracies: share of the held-out pairs whose chosen answer scored higher: before, and after each epoch.
    """

    trained_on: int
    held_out: int
    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)

    def __repr__(self) -> str:
        return (
            f"RewardFit({self.trained_on} pairs, {len(self.losses)} epochs, agrees with {self.accuracies[-1]:.0%} of"
            f" {self.held_out} held-out pairs, before: {self.accuracies[0]:.0%})"
        )


def find_preferences(name: str, seed: int = 0) -> list[Preference]:
    """Return the preferences of a file, or `synthetic:COUNT` made up ones.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file or the count is no good.
    """
    if not name.startswith(SYNTHETIC):
        return read_preferences(name)
    count = name.removeprefix(SYNTHETIC)
    if not count.isdecimal():
        raise ValueError(f"{name!r} names no number of preferences; write {SYNTHETIC}200, for example.")
    return synthetic_preferences(int(count), seed)


def train_reward_model(
    folder: str | Path,
    preferences: Sequence[Preference],
    out: str | Path,
    *,
    epochs: int = 3,
    pairs_per_step: int = 16,
    held_out: float = 0.2,
    seed: int = 0,
    config: TrainerConfig | None = None,
    on_epoch: Callable[[int, RewardFit], object] | None = None,
) -> RewardFit:
    """Train a reward model on preferences, and write it as a folder that `serving.RewardModel` loads.

    Args:
        folder: the policy whose body it starts from.
        preferences: what was chosen.
        out: where the reward model is written.
        epochs: how often each pair is seen.
        pairs_per_step: pairs of an optimizer step.
        held_out: share of the pairs that is only measured on; at least one pair.
        seed: of the head, and of the order of pairs.
        config: the trainer's numbers.
        on_epoch: told the number of each finished epoch, and the fit so far.

    Raises:
        PolicyError: the folder is no policy.
        ValueError: there are fewer than 5 preferences, or a number is out of its range.
    """
    if epochs < 1 or pairs_per_step < 1 or not 0 < held_out < 1:
        raise ValueError(
            f"epochs={epochs}, pairs_per_step={pairs_per_step}, held_out={held_out}: expected 1 or more, 1 or more, and a share"
            " between 0 and 1."
        )
    if len(preferences) < 5:
        raise ValueError(f"there are {len(preferences)} preferences; give 5 at least, of which one is held out.")
    order = random.Random(f"reward model {seed}")
    shuffled = order.sample(list(preferences), len(preferences))
    kept_back = max(1, round(held_out * len(shuffled)))
    measured, learned = shuffled[:kept_back], shuffled[kept_back:]
    trainer = RewardTrainer(folder, config or TrainerConfig(learning_rate=5e-5, micro_batch_tokens=2048), seed)
    fit = RewardFit(len(learned), len(measured), accuracies=[trainer.accuracy(measured)])
    for epoch in range(1, epochs + 1):
        order.shuffle(learned)
        steps = [learned[start : start + pairs_per_step] for start in range(0, len(learned), pairs_per_step)]
        fit.losses.append(sum(trainer.step(pairs).loss * len(pairs) for pairs in steps) / len(learned))
        fit.accuracies.append(trainer.accuracy(measured))
        if on_epoch is not None:
            on_epoch(epoch, fit)
    trainer.export(out)
    trainer.engine.destroy()
    return fit
