"""The reward model as its trainer sees it: packed texts in, one score a text out."""

import tempfile
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging

from course_lib.models.folder import read_json
from course_lib.models.scoring import with_score_head
from course_lib.training.packing import PackedBatch
from course_lib.training.policy import hidden_states


class ScoreModel(nn.Module):
    """A Hugging Face sequence classifier with one label, read at each packed text's last token.

    The last token is found by its place and never by comparing with the padding token: that may be the end token too.

    Args:
        folder: a `*ForSequenceClassification` folder with `num_labels` 1, as `models.scoring.with_score_head` writes it.
    """

    def __init__(self, folder: Path, dtype: torch.dtype = torch.bfloat16):
        super().__init__()
        logging.disable_progress_bar()
        self.model: Any = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=dtype, attn_implementation="sdpa"
        )

    @classmethod
    def of(cls, folder: Path, seed: int = 0, scale: float = 0.02) -> Self:
        """Return the model of a policy's folder, with a new head, or of a `*ForSequenceClassification` folder, with its own.

        Args:
            folder: of either kind.
            seed: of a new head.
            scale: a new head's standard deviation; 0 is a head of zeros.

        Raises:
            PolicyError: the folder is neither.
        """
        config = read_json(folder / "config.json") or {}
        if (config.get("architectures") or [""])[0].endswith("ForSequenceClassification"):
            return cls(folder)
        with tempfile.TemporaryDirectory() as made:
            return cls(with_score_head(folder, made, seed, scale))

    def forward(self, batch: PackedBatch) -> Float[Tensor, " responses"]:
        """Return the score of each response's text, in fp32: a bf16 score of 4 would move in steps of 1/32."""
        last = hidden_states(self.model, batch).flatten(0, 1)[batch.ends]
        scores: Tensor = last.float() @ self.model.score.weight.float().T
        return scores[:, 0]
