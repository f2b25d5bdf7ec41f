"""What a model folder's config.json says, read and checked."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FAMILIES = ("llama", "qwen2", "qwen3")


@dataclass(frozen=True)
class TransformerConfig:
    """The numbers that make a dense decoder.

    Attributes:
        vocab: token ids.
        hidden: numbers that a token carries from layer to layer.
        layers: how many there are.
        heads: query heads.
        kv_heads: heads of keys and values, each shared by heads / kv_heads query heads.
        head_dim: numbers in a head; heads * head_dim need not be `hidden`.
        intermediate: numbers inside the MLP.
        norm_eps: RMSNorm's epsilon.
        rope: what positions are rotated by: `rope_theta`, and `rope_type` with its numbers.
        qkv_bias: whether queries, keys and values get a bias (Qwen2).
        qk_norm: whether queries and keys are normed head by head (Qwen3).
        tied_embeddings: whether the LM head is the embedding.
    """

    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    norm_eps: float
    rope: Mapping[str, Any]
    qkv_bias: bool = False
    qk_norm: bool = False
    tied_embeddings: bool = False

    @classmethod
    def load(cls, folder: str | Path) -> "TransformerConfig":
        """Read a model folder's config.json.

        Raises:
            ValueError: there is none, or it is of a model that `Transformer` does not compute; the message says what.
        """
        path = Path(folder) / "config.json"
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} can't be read ({error}): give a Hugging Face model folder") from error
        _refuse_foreign(config, path)
        family, heads = config["model_type"], config["num_attention_heads"]
        # transformers 5 writes all of RoPE into `rope_parameters`; before, theta stood alone and scaling beside it.
        rope = {"rope_theta": config.get("rope_theta", 10000.0)}
        rope |= config.get("rope_parameters") or config.get("rope_scaling") or {}
        return cls(
            vocab=config["vocab_size"],
            hidden=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            intermediate=config["intermediate_size"],
            norm_eps=config["rms_norm_eps"],
            rope=rope,
            qkv_bias=family == "qwen2",
            qk_norm=family == "qwen3",
            tied_embeddings=config.get("tie_word_embeddings", False),
        )


def _refuse_foreign(config: dict[str, Any], path: Path) -> None:
    """Wrong logits make no noise: refuse every setting that would need other arithmetic than `Transformer`'s."""
    family = config.get("model_type")
    wrong = {
        f"model_type {family!r}": family not in _FAMILIES,
        f"hidden_act {config.get('hidden_act')!r}": config.get("hidden_act", "silu") != "silu",
        "a sliding window": bool(config.get("use_sliding_window")),
        "attention_bias": bool(config.get("attention_bias")),
        "mlp_bias": bool(config.get("mlp_bias")),
        "quantized weights": bool(config.get("quantization_config")),
    }
    if any(wrong.values()):
        said = ", ".join(what for what, found in wrong.items() if found)
        raise ValueError(
            f"{path} is of a model with {said}: Transformer computes {', '.join(_FAMILIES)} with SiLU, full attention "
            "and plain weights; use one of these, or vLLM for this one"
        )
