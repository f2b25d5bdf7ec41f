"""Training a reward model from preferences: Bradley and Terry's model of comparisons, on DeepSpeed."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from course_lib.training.chat import conversation_ids
from course_lib.training.config import TrainerConfig
from course_lib.training.engine import DeepSpeedTrainer, StepStats
from course_lib.training.packing import Group, PackedBatch, micro_batches, pack
from course_lib.training.preferences import Preference
from course_lib.training.score_model import ScoreModel


def bradley_terry_loss(
    chosen: Float[Tensor, " pairs"], rejected: Float[Tensor, " pairs"], margin: float | Float[Tensor, " pairs"] = 0.0
) -> Float[Tensor, " pairs"]:
    """Return `-log sigmoid(chosen - rejected - margin)` of each pair of scores, in nats.

    Bradley and Terry (1952) say that the odds of preferring one thing to another are the ratio of their strengths; with
    `exp(score)` for a strength, the probability of the comparison that was made is the sigmoid of the scores' difference,
    and this is its negative logarithm (Christiano et al. 2017, section 2.2.3; Ouyang et al. 2022, section 3.5, equation 1).
    A margin asks for a distance where the judge was sure (Llama 2, Touvron et al. 2023, section 3.2.2).

    Computed without overflow: for a pair that is wrong by 1000 the loss is 1000, and its gradient -1.

    Raises:
        ValueError: there is not one rejected score to each chosen one.
    """
    if chosen.shape != rejected.shape:
        raise ValueError(f"{tuple(chosen.shape)} chosen scores and {tuple(rejected.shape)} rejected ones; give pairs.")
    return -functional.logsigmoid(chosen - rejected - margin)


@dataclass(frozen=True)
class RewardStats(StepStats):
    """What one optimizer step on preferences did.

    Attributes:
        accuracy: share of the step's pairs whose chosen answer scored higher, before the update.
        margin: mean of chosen minus rejected score, before the update.
    """

    accuracy: float
    margin: float


class RewardTrainer(DeepSpeedTrainer):
    """Trains a reward model with DeepSpeed: the policy's body, and a head that gives one number a text.

    A text is the conversation of prompt and answer as the chat template writes it, and its score is read at its last token.
    Of the two texts of a pair the part that is the same is computed once.

    Args:
        folder: a policy's folder, which gets a random head, or a reward model's, which goes on with its own.
        config: the run's decisions.
        seed: of the random head.

    Raises:
        PolicyError: the folder is no causal language model.
    """

    def __init__(self, folder: str | Path, config: TrainerConfig | None = None, seed: int = 0):
        from transformers import AutoTokenizer

        self._seed = seed
        super().__init__(folder, config)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(self.folder)

    def _module(self) -> ScoreModel:
        return ScoreModel.of(self.folder, self._seed)

    def step(self, preferences: Sequence[Preference], margin: float = 0.0) -> RewardStats:
        """Take one optimizer step on the preferences of this rank: the mean Bradley-Terry loss over all ranks' pairs.

        Raises:
            ValueError: a rank has no preferences.
        """
        batches = self._batches(self.groups(preferences))
        pairs = self._sum_over_ranks(torch.tensor(float(len(preferences)), device=self.engine.device))
        differences: list[Tensor] = []

        def share(packed: PackedBatch) -> Tensor:
            chosen, rejected = self.engine(packed).unflatten(0, (-1, 2)).unbind(1)
            differences.append((chosen - rejected).detach())
            return bradley_terry_loss(chosen, rejected, margin).sum() / pairs

        stats = self._step(batches, share)
        own = torch.cat(differences[: len(batches)])  # the rest are copies that keep step with other ranks
        right, total = (self._sum_over_ranks(torch.stack([(own > 0).float().sum(), own.sum()])) / pairs).tolist()
        return RewardStats(**vars(stats), accuracy=right, margin=total)

    def scores(self, texts: Sequence[str | Sequence[int]]) -> list[float]:
        """Return the score of each text under the current weights.

        Args:
            texts: token ids (`conversation_ids`), or texts, as `serving.RewardModel.score` takes them.

        Raises:
            ValueError: a text is empty or too long.
        """
        from course_lib.serving.reward_model import token_ids

        tokens = token_ids(texts, self.tokenizer, self.engine.module.model.config.max_position_embeddings)
        return self._scores([Group(ids, [[]], [index]) for index, ids in enumerate(tokens)])

    def accuracy(self, preferences: Sequence[Preference]) -> float:
        """Return the share of pairs whose chosen answer scores higher than the rejected one.

        Raises:
            ValueError: there are no preferences.
        """
        scores = self._scores(self.groups(preferences))
        return sum(chosen > rejected for chosen, rejected in zip(scores[::2], scores[1::2], strict=True)) / len(
            preferences
        )

    def conversation_ids(self, prompt: str, answer: str) -> list[int]:
        """Return the tokens that are scored for an answer, here and by `serving.RewardModel` on the exported folder."""
        return conversation_ids(self.tokenizer, prompt, answer)

    def groups(self, preferences: Sequence[Preference]) -> list[Group]:
        """Return each pair as a group: the tokens that both texts begin with, then chosen's and rejected's own.

        Raises:
            ValueError: the chat template refuses a pair, or makes the same of both answers; the message gives its index.
        """
        found = []
        for index, pair in enumerate(preferences):
            try:
                chosen, rejected = (self.conversation_ids(pair.prompt, text) for text in (pair.chosen, pair.rejected))
            except ValueError as error:
                raise ValueError(f"preference {index}: {error}") from error
            if chosen == rejected:
                raise ValueError(f"preference {index}: the chat template makes the same tokens of both answers.")
            # Tokens see what came before them and nothing else, so what both texts begin with is computed once for both.
            shared = next(at for at, both in enumerate(zip_longest(chosen, rejected)) if both[0] != both[1])
            found.append(Group(chosen[:shared], [chosen[shared:], rejected[shared:]], [2 * index, 2 * index + 1]))
        return found

    def _batches(self, groups: Sequence[Group]) -> list[list[Group]]:
        return list(micro_batches(groups, self.config.micro_batch_tokens, whole=True))

    @torch.no_grad()
    def _scores(self, groups: Sequence[Group]) -> list[float]:
        """Return the score of each sample, in the order of the samples' numbers."""
        self.engine.eval()
        found: dict[int, float] = {}
        for batch, _ in self._aligned(self._batches(groups)):
            values = self.engine(pack(batch, device=self.engine.device)).tolist()
            found.update(zip([sample for group in batch for sample in group.samples], values, strict=True))
        return [found[sample] for sample in sorted(found)]
