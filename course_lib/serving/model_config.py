"""What a model folder says beside its weights: dtype, longest sequence, end tokens, recommended sampling."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from course_lib.serving.sampling_params import SamplingParams

_DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16")}
_SAMPLING = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "max_new_tokens": "max_tokens",
}


@dataclass(frozen=True)
class ModelConfig:
    """A folder's config.json and generation_config.json.

    Attributes:
        config: the first.
        generation: the second; empty where there is none.
    """

    config: Mapping[str, Any]
    generation: Mapping[str, Any]

    @classmethod
    def load(cls, folder: Path) -> "ModelConfig":
        """Read a model folder."""
        generation = folder / "generation_config.json"
        return cls(
            json.loads((folder / "config.json").read_text(encoding="utf-8")),
            json.loads(generation.read_text(encoding="utf-8")) if generation.is_file() else {},
        )

    def dtype(self, wanted: str | torch.dtype) -> torch.dtype:
        """Return the torch dtype of this name; `auto` is what the weights were saved in.

        Raises:
            ValueError: it is none to compute in.
        """
        name = str(wanted).removeprefix("torch.")
        if name == "auto":
            name = str(self.config.get("dtype") or self.config.get("torch_dtype") or "float32")
        if name not in _DTYPES:
            raise ValueError(f"dtype is {wanted!r}; expected 'auto', {', '.join(map(repr, _DTYPES))}")
        return _DTYPES[name]

    def max_model_len(self, wanted: int | None, slots: int) -> int:
        """Return the longest sequence: what is wanted, or what both the model and the KV cache allow.

        Args:
            wanted: None is as long as possible.
            slots: tokens that the KV cache holds.

        Raises:
            ValueError: the model was not made for so long a sequence.
        """
        longest = int(self.config["max_position_embeddings"])
        if wanted is None:
            return min(longest, slots + 1)  # the last token of all needs no slot: nobody attends to it
        if not 2 <= wanted <= longest:
            raise ValueError(f"max_model_len is {wanted}; expected 2 to {longest}, for which the model was made")
        return wanted

    def eos_token_ids(self, tokenizer: Any) -> list[int]:
        """Return the tokens that end an output, the tokenizer's own one first."""
        ids = [tokenizer.eos_token_id]
        for source in (self.generation, self.config):
            listed = source.get("eos_token_id")
            ids += listed if isinstance(listed, list) else [listed]
        return list(dict.fromkeys(token for token in ids if token is not None))

    def default_sampling_params(self) -> SamplingParams:
        """Return the sampling that generation_config.json recommends, as vLLM takes it."""
        given = {ours: self.generation.get(theirs) for theirs, ours in _SAMPLING.items()}
        return SamplingParams(**{name: value for name, value in given.items() if value is not None})
