"""A model folder in a given shape with random weights: speed and memory depend on the shape alone, and no hub is needed."""

import shutil
from pathlib import Path

from course_lib.kv_cache.cost import ModelShape
from course_lib.machine import cache_dir
from course_lib.models import load_policy


def random_model(shape: ModelShape, root: Path | None = None) -> Path:
    """Return a Qwen3-style folder of that shape, with random bf16 weights and the tokenizer of `smollm2`; made once.

    Args:
        shape: the sizes; its MLP is gated, as in Qwen3.
        root: where the folder goes; the course's cache where None.

    Raises:
        ValueError: the shape has an MLP that Qwen3 has not.
    """
    if not shape.gated_mlp:
        raise ValueError(
            f"{shape.name} has an MLP of two matrices; a random model is Qwen3-style: give a shape with gated_mlp."
        )
    folder = (root or cache_dir() / "random") / shape.name
    if (folder / "config.json").is_file():
        return folder
    import torch
    from transformers import AutoModelForCausalLM, Qwen3Config

    config = Qwen3Config(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=40_960,
        tie_word_embeddings=shape.tied_embeddings,
    )
    fresh = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(fresh)
    for source in load_policy("smollm2").iterdir():
        if "token" in source.name or source.suffix == ".jinja":
            shutil.copy(source, fresh)
    fresh.rename(folder)  # whole or not there
    return folder
