"""A reward model through vLLM: one raw score a text, as transformers computes it."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Self

import torch

from course_lib import machine
from course_lib.models import PolicyError, load_policy
from course_lib.models.folder import read_json
from course_lib.serving.vllm_engine import EngineError, start_vllm, stop_vllm

Text = str | Sequence[int]
"""A text, or its token ids."""


class RewardModel:
    """A sequence classifier with one label, served by vLLM's pooling runner.

        with RewardModel(with_score_head("smollm2", "runs/reward")) as model:
            model.score(["2 + 3 = 5", "2 + 3 = 6"])

    The score is the head's output for a text's last token, as it is. vLLM's `classify()` would give its sigmoid, which is equal
    for all very good and for all very bad texts. Against `transformers_scores`: in float32 the difference is about 1e-5 of
    the scores' spread; in bfloat16 it is no larger than the one between transformers in bfloat16 and itself in float32, which for
    a random head on SmolLM2 may be a quarter of the spread.

    Args:
        folder: a `*ForSequenceClassification` folder with `num_labels` 1: see `with_score_head`.
        options: `vllm.LLM`'s, such as `dtype="float32"`.

    Raises:
        PolicyError: the folder is no model, or no reward model.
        EngineError: vLLM did not start.
    """

    def __init__(self, folder: str | PathLike[str], **options: Any):
        self.folder = reward_folder(folder)
        self._llm: Any = start_vllm(self.folder, **({"runner": "pooling"} | options))

    @property
    def max_model_len(self) -> int:
        """Tokens of the longest text."""
        return int(self._running().llm_engine.model_config.max_model_len)

    def score(self, texts: Sequence[Text]) -> list[float]:
        """Return each text's raw score.

        Args:
            texts: texts, tokenized with the tokenizer's own special tokens; or token ids, taken as they are.

        Raises:
            ValueError: a text is empty or longer than `max_model_len`; the message names its place. Nothing was scored.
            EngineError: the model was shut down.
        """
        from vllm import PoolingParams

        llm = self._running()
        tokens = token_ids(texts, llm.get_tokenizer(), self.max_model_len)
        if not tokens:
            return []
        prompts = [{"prompt_token_ids": ids} for ids in tokens]
        raw = PoolingParams(use_activation=False)
        outputs = llm.encode(prompts, pooling_params=raw, pooling_task="classify", use_tqdm=False)
        return [float(output.outputs.data.item()) for output in outputs]

    def shutdown(self) -> None:
        """Stop vLLM and release its memory; calling it twice is harmless."""
        llm, self._llm = self._llm, None
        if llm is not None:
            stop_vllm(llm)

    def _running(self) -> Any:
        if self._llm is None:
            raise EngineError("this reward model was shut down: make a new RewardModel")
        return self._llm

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    def __repr__(self) -> str:
        return f"RewardModel({self.folder.name}{', shut down' if self._llm is None else ''})"


def transformers_scores(
    folder: str | PathLike[str], texts: Sequence[Text], dtype: torch.dtype = torch.float32
) -> list[float]:
    """Return the scores as transformers computes them on the CPU, one text at a time: what `RewardModel.score` must equal.

    Args:
        folder: a reward model's.
        texts: as for `RewardModel.score`.
        dtype: of weights and arithmetic.

    Raises:
        PolicyError: the folder is no model, or no reward model.
        ValueError: a text is empty, or longer than the model's longest sequence.
    """
    machine.prepare()
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging

    folder = reward_folder(folder)
    logging.disable_progress_bar()  # loading takes a second
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype).eval()
    tokens = token_ids(texts, AutoTokenizer.from_pretrained(folder), model.config.max_position_embeddings)
    with torch.inference_mode():
        return [float(model(torch.tensor([ids])).logits.item()) for ids in tokens]


def token_ids(texts: Sequence[Text], tokenizer: Any, max_model_len: int) -> list[list[int]]:
    """Return the tokens of each text.

    Raises:
        ValueError: `texts` is a single text, or one of them is empty or too long.
    """
    if isinstance(texts, str):
        raise ValueError("texts is one text; expected a list of texts: give [text]")  # noqa: TRY004  the room's error
    found = [list(tokenizer.encode(text)) if isinstance(text, str) else list(text) for text in texts]
    for index, ids in enumerate(found):
        if not ids:
            raise ValueError(f"text {index} is empty: a score is of a text's last token, so it needs one")
        if len(ids) > max_model_len:
            raise ValueError(
                f"text {index} has {len(ids)} tokens, more than max_model_len={max_model_len}: shorten it, or raise max_model_len"
            )
    return found


def reward_folder(folder: str | PathLike[str]) -> Path:
    """Return the folder of a model with one label.

    Raises:
        PolicyError: it is no model, or one of another kind.
    """
    path = load_policy(folder)
    config = read_json(path / "config.json") or {}
    architecture = (config.get("architectures") or ["of unknown architecture"])[0]
    labels = len(config.get("id2label") or {0: "", 1: ""})  # transformers' default is two
    if not architecture.endswith("ForSequenceClassification") or labels != 1:
        raise PolicyError(
            f"{path.name} is {architecture} with {labels} labels; a reward model is a *ForSequenceClassification with one. "
            "Make one from a policy with with_score_head(), or train one."
        )
    return path
