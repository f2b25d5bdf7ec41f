"""What a step of a decoder costs: FLOPs and bytes, from the model's shape alone. A multiplication and an addition are 2 FLOPs.

Counted are the matrix products. Norms, rotations, softmax and activations, a few percent at most, are left out.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a dense decoder that its costs follow from.

    Attributes:
        name: what tables call it.
        layers: decoder layers.
        hidden: numbers that a token carries from layer to layer.
        heads: query heads.
        kv_heads: heads of keys and values.
        head_dim: numbers in a head.
        intermediate: numbers inside the MLP.
        vocab: token ids.
        tied_embeddings: whether the LM head is the embedding.
        gated_mlp: whether the MLP has three matrices (SwiGLU) and not two.
        qk_norm: whether each head's queries and keys are normalized, as in Qwen3.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied_embeddings: bool = True
    gated_mlp: bool = True
    qk_norm: bool = False

    @classmethod
    def from_config(cls, config: str | Path | Mapping[str, Any], name: str = "") -> "ModelShape":
        """Read the shape from a model folder, or from the mapping in its config.json.

        Raises:
            ValueError: a size is missing.
        """
        if isinstance(config, str | Path):
            name = name or Path(config).name
            config = json.loads((Path(config) / "config.json").read_text(encoding="utf-8"))
        assert isinstance(config, Mapping)
        try:
            heads, hidden = config["num_attention_heads"], config["hidden_size"]
            opt = config.get("model_type") == "opt"
            return cls(
                name=name or config.get("model_type", "model"),
                layers=config["num_hidden_layers"],
                hidden=hidden,
                heads=heads,
                kv_heads=config.get("num_key_value_heads") or heads,
                head_dim=config.get("head_dim") or hidden // heads,
                intermediate=config["ffn_dim" if opt else "intermediate_size"],
                vocab=config["vocab_size"],
                tied_embeddings=config.get("tie_word_embeddings", opt),
                gated_mlp=not opt,
                qk_norm=config.get("model_type") == "qwen3",
            )
        except KeyError as error:
            raise ValueError(f"the config has no {error}: give the config.json of a dense decoder") from error

    @property
    def layer_weights(self) -> int:
        """Numbers in the matrices of all layers: every token is multiplied by each of them once."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        mlp = (3 if self.gated_mlp else 2) * self.hidden * self.intermediate
        return self.layers * (attention + mlp)

    @property
    def head_weights(self) -> int:
        """Numbers in the LM head."""
        return self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        """Numbers in all matrices; norms and biases, which are left out, are about 0.1 % more."""
        return self.layer_weights + self.head_weights * (1 if self.tied_embeddings else 2)


_SHAPES = (
    ModelShape("SmolLM2-135M", 30, 576, 9, 3, 64, 1536, 49152),
    ModelShape("Qwen3-0.6B", 28, 1024, 16, 8, 128, 3072, 151936, qk_norm=True),
    ModelShape("Qwen3-4B", 36, 2560, 32, 8, 128, 9728, 151936, qk_norm=True),
    ModelShape("Llama-3.1-8B", 32, 4096, 32, 8, 128, 14336, 128256, tied_embeddings=False),
    ModelShape("OPT-13B", 40, 5120, 40, 40, 128, 20480, 50272, gated_mlp=False),
    ModelShape("Llama-3.1-70B", 80, 8192, 64, 8, 128, 28672, 128256, tied_embeddings=False),
)
MODELS: dict[str, ModelShape] = {shape.name: shape for shape in _SHAPES}
"""Shapes of real models, from the config.json that each was published with."""


def kv_bytes_per_token(shape: ModelShape, bytes_per_number: int = 2) -> int:
    """Return the bytes that one token leaves in the cache: a key and a value, of every KV head, in every layer."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * bytes_per_number


def weight_bytes(shape: ModelShape, bytes_per_number: int = 2) -> int:
    """Return the bytes that the model's weights take up."""
    return shape.parameters * bytes_per_number


@dataclass(frozen=True)
class Cost:
    """FLOPs, and bytes that must come from memory at least once.

    Attributes:
        projection_flops: products of tokens with weights: Q, K, V and output projections, MLP, LM head.
        attention_flops: products of tokens with tokens: scores, and sums of values.
        weight_bytes: the weights, once a step however many tokens share it.
        kv_bytes: keys and values, read and written.
    """

    projection_flops: int = 0
    attention_flops: int = 0
    weight_bytes: int = 0
    kv_bytes: int = 0

    @property
    def flops(self) -> int:
        """All FLOPs."""
        return self.projection_flops + self.attention_flops

    @property
    def bytes(self) -> int:
        """All bytes."""
        return self.weight_bytes + self.kv_bytes

    @property
    def intensity(self) -> float:
        """Arithmetic intensity, FLOPs a byte."""
        return self.flops / self.bytes

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(mine + theirs for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True)))


def step_cost(shape: ModelShape, new_tokens: int, context: int, batch: int = 1, bytes_per_number: int = 2) -> Cost:
    """Return the cost of one step of the model.

    Args:
        shape: the model's.
        new_tokens: tokens that each sequence computes. All of a prompt is a prefill; one token is a decode.
        context: tokens that each sequence has after the step, its new ones counted. Context equal to `new_tokens` is a
            step without a cache, or a prefill.
        batch: sequences in the step.
        bytes_per_number: of weights, keys and values.

    Attention counts all pairs of a new token with the context, hidden ones too, as the plain formula computes them; a kernel
    that skips the future saves up to half of a prefill's. The LM head counts once a sequence. Activations are left out of
    the bytes, and keys and values are read once, as a fused kernel does.

    Raises:
        ValueError: no tokens, no sequences, or a context without room for the new tokens.
    """
    if not 1 <= new_tokens <= context or batch < 1:
        raise ValueError(
            f"new_tokens={new_tokens}, context={context}, batch={batch}: expected 1 <= new_tokens <= context and "
            "batch >= 1; the context counts the new tokens"
        )
    # Scores: 2 * head_dim FLOPs a pair and head; sums of values: as many again.
    per_pair = 4 * shape.layers * shape.heads * shape.head_dim
    return Cost(
        projection_flops=2 * batch * (new_tokens * shape.layer_weights + shape.head_weights),
        attention_flops=batch * per_pair * new_tokens * context,
        weight_bytes=bytes_per_number * (shape.layer_weights + shape.head_weights),
        kv_bytes=batch * (context + new_tokens) * kv_bytes_per_token(shape, bytes_per_number),
    )


def sequence_cost(shape: ModelShape, prompt: int, new_tokens: int, cached: bool, bytes_per_number: int = 2) -> Cost:
    """Return the cost of generating `new_tokens` tokens after a prompt of `prompt` tokens, all steps together.

    Args:
        shape: the model's.
        prompt: tokens of the prompt.
        new_tokens: tokens to generate: that many steps.
        cached: whether a step computes the newest token only, or the whole sequence again.
        bytes_per_number: of weights, keys and values.
    """
    total = Cost()
    for step in range(new_tokens):
        context = prompt + step
        new = 1 if cached and step else context  # the first step computes the prompt either way
        total += step_cost(shape, new, context, bytes_per_number=bytes_per_number)
    return total


@dataclass(frozen=True)
class Hardware:
    """The two speeds of a machine that a roofline is made of (Williams et al. 2009).

    Attributes:
        name: what plots call it.
        flops: FLOP/s of matrix products.
        bandwidth: bytes/s from its memory.
    """

    name: str
    flops: float
    bandwidth: float

    @property
    def ridge(self) -> float:
        """FLOPs a byte from which on arithmetic is the limit and not memory."""
        return self.flops / self.bandwidth

    def attainable(self, intensity: float) -> float:
        """Return the FLOP/s that are possible at an arithmetic intensity: the roofline."""
        return min(self.flops, intensity * self.bandwidth)

    def seconds(self, cost: Cost) -> float:
        """Return the time that the cost takes at least, with arithmetic and memory traffic overlapping perfectly."""
        return max(cost.flops / self.flops, cost.bytes / self.bandwidth)


_SPEEDS = (
    Hardware("H200 SXM", 989e12, 4.8e12),
    Hardware("H100 SXM", 989e12, 3.35e12),
    Hardware("A100 80GB SXM", 312e12, 2.039e12),
    Hardware("L4", 121e12, 300e9),
    # 8 cores x 2 FMA units x 8 fp32 lanes x 2 FLOPs x 3.5 GHz, and two channels of DDR5-5600.
    Hardware("laptop CPU", 8 * 2 * 8 * 2 * 3.5e9, 2 * 8 * 5.6e9),
)
HARDWARE: dict[str, Hardware] = {hardware.name: hardware for hardware in _SPEEDS}
"""Peak figures. GPUs: dense bf16 on tensor cores, and memory bandwidth, from NVIDIA's data sheets. The laptop: worked out above."""
_DRIVERS_NAMES = {"H200": "H200 SXM", "H100 80GB HBM3": "H100 SXM", "L4": "L4"}


def listed_hardware(gpu: str) -> Hardware | None:
    """Return the speeds of a GPU by the name that its driver gives, such as `NVIDIA H200`; None where it is not listed.

    An H100 with another memory (PCIe, NVL) is not the SXM one.
    """
    for part, name in _DRIVERS_NAMES.items():
        if f" {part} " in f" {gpu} ":
            return HARDWARE[name]
    return None
