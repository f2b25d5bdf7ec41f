"""The model that the course runs: a dense decoder, for Llama-, Qwen2- and Qwen3-style folders."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  its name everywhere

from course_lib.kv_cache.cache import KVCache
from course_lib.kv_cache.config import TransformerConfig
from course_lib.kv_cache.rope import inverse_frequencies, rotate, rotation


class Transformer(nn.Module):
    """Token ids in, logits out. Layers and weights bear transformers' names.

    Tokens come flat, without a batch axis: they may be one sequence's prompt, one new token each of many sequences, or any
    mix. Everything but attention treats every token alike, and attention is the cache's.

        model = Transformer.load(folder)
        logits = model(tokens, positions, NoCache())
    """

    frequencies: Tensor

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab, config.hidden)
        self.layers = nn.ModuleList(Layer(config, index) for index in range(config.layers))
        self.norm = RMSNorm(config.hidden, config.norm_eps)
        if not config.tied_embeddings:
            self.lm_head = nn.Linear(config.hidden, config.vocab, bias=False)
        self.register_buffer("frequencies", torch.empty(config.head_dim // 2), persistent=False)
        self.requires_grad_(False)

    @classmethod
    def load(
        cls, folder: str | Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> "Transformer":
        """Load a Hugging Face model folder.

        Args:
            folder: config.json and safetensors, such as `course_lib.models.load_policy` returns.
            dtype: of the weights, and of all that is computed.
            device: where.

        Raises:
            ValueError: the folder's model is none that this class computes, or its weights do not fit its config.
        """
        config = TransformerConfig.load(folder)
        with torch.device("meta"):  # no memory yet: each weight's place is filled once, from the file
            model = cls(config)
        model = model.to(dtype).to_empty(device=device)
        model.frequencies = inverse_frequencies(config.head_dim, config.rope).to(device)
        model.load_weights(_weights(Path(folder)))
        return model

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Copy weights into the model, in place, by transformers' names.

        Raises:
            ValueError: a weight is missing, unknown or of the wrong shape.
        """
        wanted = dict(self.named_parameters())
        missing = set(wanted)
        for full_name, weight in weights:
            name = full_name.removeprefix("model.")
            if name == "lm_head.weight" and self.config.tied_embeddings:
                continue  # a copy of the embedding
            if name not in wanted or wanted[name].shape != weight.shape:
                expected = f"shape {tuple(wanted[name].shape)}" if name in wanted else "no weight of this name"
                raise ValueError(
                    f"{full_name} of shape {tuple(weight.shape)}: the config asks for {expected}; "
                    "the weights are of another model than config.json"
                )
            wanted[name].copy_(weight)
            missing.discard(name)
        if missing:
            raise ValueError(f"{len(missing)} weights are missing, such as {min(missing)}: the folder is not whole")

    def forward(
        self, tokens: Int[Tensor, " tokens"], positions: Int[Tensor, " tokens"], cache: KVCache
    ) -> Float[Tensor, "tokens vocab"]:
        """Return for each token the logits of the token after it.

        Args:
            tokens: token ids that the cache has not seen.
            positions: each token's place in its own sequence, from 0.
            cache: keeps the tokens' keys and values, and knows which older ones they belong with.
        """
        return self.logits(self.hidden_states(tokens, positions, cache))

    def hidden_states(
        self, tokens: Int[Tensor, " tokens"], positions: Int[Tensor, " tokens"], cache: KVCache
    ) -> Float[Tensor, "tokens hidden"]:
        """Return what the layers make of each token: for those who need the logits of a few tokens only."""
        x = self.embed_tokens(tokens)
        cos, sin = rotation(positions, self.frequencies, x.dtype)
        for layer in self.layers:
            x = layer(x, cos, sin, cache)
        return self.norm(x)

    def logits(self, hidden: Float[Tensor, "tokens hidden"]) -> Float[Tensor, "tokens vocab"]:
        """Return the logits of the tokens that come after these."""
        head = self.embed_tokens if self.config.tied_embeddings else self.lm_head
        return F.linear(hidden, head.weight)

    @property
    def device(self) -> torch.device:
        """Where the weights are, and the tokens must be."""
        return self.embed_tokens.weight.device

    def __repr__(self) -> str:
        config, weight = self.config, self.embed_tokens.weight
        millions = sum(parameter.numel() for parameter in self.parameters()) / 1e6
        return (
            f"Transformer({millions:.1f}M parameters, {config.layers} layers, {config.heads} query and {config.kv_heads} KV "
            f"heads of {config.head_dim}, {str(weight.dtype).removeprefix('torch.')} on {weight.device})"
        )


class Layer(nn.Module):
    """Attention, then the MLP; each reads the normed tokens and adds to them."""

    def __init__(self, config: TransformerConfig, index: int):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden, config.norm_eps)
        self.self_attn = Attention(config, index)
        self.post_attention_layernorm = RMSNorm(config.hidden, config.norm_eps)
        self.mlp = MLP(config)

    def forward(
        self, x: Float[Tensor, "tokens hidden"], cos: Tensor, sin: Tensor, cache: KVCache
    ) -> Float[Tensor, "tokens hidden"]:
        """Return the tokens after this layer."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Attention(nn.Module):
    """Makes each token's query, key and value; what the queries find is the cache's work."""

    def __init__(self, config: TransformerConfig, index: int):
        super().__init__()
        self.index, self.head_dim = index, config.head_dim
        queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden, queries, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.hidden, keys, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.hidden, keys, bias=config.qkv_bias)
        self.o_proj = nn.Linear(queries, config.hidden, bias=False)
        self.q_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()

    def forward(
        self, x: Float[Tensor, "tokens hidden"], cos: Tensor, sin: Tensor, cache: KVCache
    ) -> Float[Tensor, "tokens hidden"]:
        """Return what each token learns from the tokens before it."""
        q, k, v = (project(x).unflatten(-1, (-1, self.head_dim)) for project in (self.q_proj, self.k_proj, self.v_proj))
        q, k = rotate(self.q_norm(q), cos, sin), rotate(self.k_norm(k), cos, sin)
        found = cache.attend(self.index, q, k, v)
        return self.o_proj(found.flatten(1))


class MLP(nn.Module):
    """SwiGLU (Shazeer 2020): each token for itself."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden, config.intermediate, bias=False)
        self.up_proj = nn.Linear(config.hidden, config.intermediate, bias=False)
        self.down_proj = nn.Linear(config.intermediate, config.hidden, bias=False)

    def forward(self, x: Float[Tensor, "tokens hidden"]) -> Float[Tensor, "tokens hidden"]:
        """Return what each token makes of itself."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class RMSNorm(nn.Module):
    """Scales a vector to a mean square of 1, then each number by a learned weight (Zhang and Sennrich 2019)."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*rows size"]) -> Float[Tensor, "*rows size"]:
        """Return the scaled vectors. The mean is taken in fp32: squares overflow fp16 and blur in bf16."""
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + self.eps)
        return self.weight * (wide * scale).to(x.dtype)


def _weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield a folder's weights one by one, from one safetensors file or several with an index."""
    from safetensors import safe_open

    index = folder / "model.safetensors.index.json"
    parts = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else {"model.safetensors"}
    for part in sorted(parts):
        if not (folder / part).is_file():
            raise ValueError(f"{folder / part} is missing: the folder is not whole")
        with safe_open(folder / part, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  the handle is no mapping
                yield name, file.get_tensor(name)
