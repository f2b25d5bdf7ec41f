"""`tiny`: a random Qwen3-style model of 1.7 M parameters, made in a second, for tests of all but the quality of text.

It has what a real policy has and shortcuts would hide: grouped-query attention, tied embeddings, query/key norms, a
chat template, a pad token that is not the end token. Same bytes on each build, on each machine.
"""

import json
from collections.abc import Iterator
from typing import Any

from course_lib.models.cache import Recipe
from course_lib.models.tokenizer import byte_level, single_digits, tokenizer_files

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
PAD, START, END = range(3)
_VOCAB = 512
_CONTEXT = 1024

# ChatML without a default system prompt: what the caller says is all that the model sees.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": _VOCAB,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,  # vLLM's attention on CPU and on GPU has kernels for it
    "max_position_embeddings": _CONTEXT,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-06,
    "hidden_act": "silu",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "bos_token_id": None,
    "eos_token_id": END,
    "pad_token_id": PAD,
}

# The tokenizer's merges are learned from the words of the course's prompts, so that a prompt is not a token a byte.
_CORPUS = """
What is 2+3? Answer with just the number. The answer is 5. What is the capital of France? The capital is Paris.
Once upon a time there was a small model that learned from its own answers. The reward was one when it was right.
You are a helpful assistant. user assistant system. Count from one to ten. Write a short story about the old memory.
Each request holds a list of blocks, and each block holds keys and values of some tokens. Then the engine takes a step.
def add(a, b): return a + b. for i in range(n): print(i). Please think step by step and give the result, true or false.
How many tokens fit into one block? Sixteen. A policy gradient makes good actions more likely, and bad ones less likely.
Explain why a cache of attention keys saves work when you decode the next token, and where the time goes instead of it.
"""


def recipe() -> Recipe:
    """Return how the `tiny` folder is made."""
    return Recipe(name="tiny-1", build=build)


def build() -> dict[str, bytes]:
    """Return the folder's files."""
    from safetensors.torch import save

    generation = {"eos_token_id": END, "pad_token_id": PAD}
    return {
        "config.json": _json(CONFIG),
        "generation_config.json": _json(generation),
        "model.safetensors": save(dict(_weights()), metadata={"format": "pt"}),
        **tokenizer_files(_tokenizer(), {"eos": SPECIAL[END], "pad": SPECIAL[PAD]}, CHAT_TEMPLATE, _CONTEXT),
    }


def _weights() -> Iterator[tuple[str, Any]]:
    """Yield random weights by name, without a copy of the embedding for the tied lm_head.

    A row of n inputs has standard deviation n ** -0.5, and the embedding 0.1: the next-token distribution is then far
    from flat, so that greedy decoding does not hang on the last bit of a bf16 sum.
    """
    import numpy as np
    import torch

    # NumPy promises never to change RandomState's stream (NEP 19); torch's differs with the machine's vector width.
    chance = np.random.RandomState(20230901)

    def normal(rows: int, columns: int, std: float) -> torch.Tensor:
        return torch.from_numpy(chance.standard_normal((rows, columns)) * std).to(torch.bfloat16)

    hidden, inner, head = CONFIG["hidden_size"], CONFIG["intermediate_size"], CONFIG["head_dim"]
    queries, keys = CONFIG["num_attention_heads"] * head, CONFIG["num_key_value_heads"] * head
    shapes = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    norms = {"input_layernorm": hidden, "post_attention_layernorm": hidden}
    norms |= {"self_attn.q_norm": head, "self_attn.k_norm": head}
    yield "model.embed_tokens.weight", normal(_VOCAB, hidden, 0.1)
    yield "model.norm.weight", torch.ones(hidden, dtype=torch.bfloat16)
    for layer in range(CONFIG["num_hidden_layers"]):
        for name, (rows, columns) in shapes.items():
            yield f"model.layers.{layer}.{name}.weight", normal(rows, columns, columns**-0.5)
        for name, size in norms.items():
            yield f"model.layers.{layer}.{name}.weight", torch.ones(size, dtype=torch.bfloat16)


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer

    learner = Tokenizer(BPE())
    learner.pre_tokenizer = single_digits()
    trainer = BpeTrainer(
        vocab_size=_VOCAB,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    learner.train_from_iterator(_CORPUS.splitlines(), trainer)
    learned = json.loads(learner.to_str())["model"]
    return byte_level(learned["vocab"], [(left, right) for left, right in learned["merges"]], SPECIAL)


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
