"""A reward from a reward model: people's preferences, as a number for any completion."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from course_lib.rl.problem import Problem
from course_lib.serving.reward_model import RewardModel
from course_lib.training.chat import conversation_ids


@dataclass(frozen=True)
class ModelReward:
    """Scores completions with a reward model that vLLM serves, as `training.RewardTrainer` trained it to.

        with RewardModel("runs/judge") as judge:
            RLLoop(..., reward=ModelReward(judge))

    The score is of the whole conversation, written by the chat template, with the token that ends the answer even where a
    completion was cut off before it: the model was trained on complete answers only. Only differences of scores mean anything
    (Bradley and Terry), which suits group-relative advantages; in a `Mixture`, bring them to the other parts' scale first.

    A policy that is trained on it for long finds texts that the model likes and people don't (Gao et al., arXiv 2210.10760): watch
    the task's own accuracy beside it.

    Attributes:
        model: the reward model.
        mean: what is taken off each score.
        std: what the difference is divided by.

    Raises:
        ValueError: `mean` or `std` is no finite number, or `std` is not above 0.
    """

    model: RewardModel
    mean: float = 0.0
    std: float = 1.0
    tokenizer: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        from transformers import AutoTokenizer

        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise ValueError(f"mean is {self.mean} and std {self.std}; expected finite numbers, and std above 0")
        object.__setattr__(self, "tokenizer", AutoTokenizer.from_pretrained(self.model.folder))

    def __call__(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
        """Return each completion's score.

        Raises:
            ValueError: a conversation is longer than the model's `max_model_len`.
            EngineError: the model was shut down.
        """
        pairs = zip(problems, completions, strict=True)
        scores = self.model.score([conversation_ids(self.tokenizer, problem.question, text) for problem, text in pairs])
        return [(score - self.mean) / self.std for score in scores]

    def standardized(self, problems: Sequence[Problem], completions: Sequence[str]) -> "ModelReward":
        """Return the same reward with a mean of 0 and a standard deviation of 1 on these completions, such as a first batch.

        Raises:
            ValueError: there are fewer than two, or all have the same score.
        """
        scores = replace(self, mean=0.0, std=1.0)(problems, completions)
        if len(scores) < 2 or max(scores) == min(scores):
            raise ValueError(
                f"{len(scores)} completions with {len(set(scores))} different scores have no spread; give more."
            )
        mean = math.fsum(scores) / len(scores)
        variance = math.fsum((score - mean) ** 2 for score in scores) / (len(scores) - 1)
        return replace(self, mean=mean, std=math.sqrt(variance))
