"""Against transformers, which is what a model folder means."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from course_lib.kv_cache import ContiguousCache, NoCache, Transformer, generate_with_cache
from course_lib.models import load_policy

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def config(kind: str, **changes: Any) -> Any:
    from transformers import LlamaConfig, Qwen2Config, Qwen3Config

    sizes = {
        "vocab_size": 101,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    return {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}[kind](**sizes | changes)


CASES = {
    "llama": ("llama", {}),
    "llama3 rope": ("llama", {"rope_parameters": LLAMA3}),
    "tied": ("llama", {"tie_word_embeddings": True}),
    "own keys": ("llama", {"num_key_value_heads": 6}),
    "other theta and eps": (
        "llama",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 77.0}, "rms_norm_eps": 0.1},
    ),
    "qwen2 bias": ("qwen2", {}),
    "qwen3 norms, head_dim": ("qwen3", {"head_dim": 16}),
}


def everything(model: Transformer, tokens: Tensor) -> Tensor:
    return model(tokens, torch.arange(len(tokens)), NoCache())


def greedy(model: Any, prompt: list[int], count: int) -> list[int]:
    out = model.generate(
        torch.tensor([prompt]), max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0
    )
    return out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("case", CASES)
def test_equals_transformers(case: str, saved: Callable[[Any], tuple[Any, Path]]) -> None:
    kind, changes = CASES[case]
    theirs, folder = saved(config(kind, **changes))
    ours = Transformer.load(folder)
    tokens = torch.randint(101, (90,), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = theirs(tokens[None]).logits[0]
    assert logits.std() > 0.5  # the comparison sees something
    torch.testing.assert_close(everything(ours, tokens), logits, atol=2e-4, rtol=2e-4)
    prompt = tokens[:9].tolist()
    assert generate_with_cache(ours, prompt, 20) == greedy(theirs, prompt, 20)


@pytest.mark.parametrize("policy", ["tiny", pytest.param("smollm2", marks=pytest.mark.slow)])
def test_the_courses_policies(policy: str) -> None:
    from transformers import AutoModelForCausalLM

    folder = load_policy(policy)
    theirs, ours = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), Transformer.load(folder)
    tokens = torch.randint(3, 500, (40,), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(everything(ours, tokens), theirs(tokens[None]).logits[0], atol=1e-3, rtol=1e-4)
    assert generate_with_cache(ours, tokens[:12].tolist(), 24) == greedy(theirs, tokens[:12].tolist(), 24)


def test_bf16_is_near_fp32(tiny: Transformer, tiny_folder: Path) -> None:
    half = Transformer.load(tiny_folder, dtype=torch.bfloat16)
    assert half.frequencies.dtype == torch.float32
    tokens = torch.arange(3, 60)
    logits = everything(half, tokens)
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), everything(tiny, tokens), atol=0.2, rtol=0.05)


def test_old_and_new_spelling_of_rope(tiny: Transformer, tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    change(folder, rope_theta=None, rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
    assert torch.equal(Transformer.load(folder).frequencies, tiny.frequencies)
    change(folder, rope_theta=500.0, rope_parameters=None)
    torch.testing.assert_close(Transformer.load(folder).frequencies, 500.0 ** (-torch.arange(32) / 32))
    scaling = {key: value for key, value in LLAMA3.items() if key.startswith(("factor", "low", "high", "orig"))}
    scaling["type"] = "llama3"
    change(folder, rope_theta=10000.0, rope_parameters=None, rope_scaling=scaling)
    assert not torch.equal(Transformer.load(folder).frequencies, tiny.frequencies)


def test_weights_in_several_files(tiny: Transformer, tiny_folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(tiny_folder).save_pretrained(tmp_path, max_shard_size="1MB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    tokens = torch.arange(5, 25)
    assert torch.equal(everything(Transformer.load(tmp_path), tokens), everything(tiny, tokens))


def test_loads_new_weights_in_place(tiny_folder: Path) -> None:
    model = Transformer.load(tiny_folder)
    before, place = model.embed_tokens.weight.clone(), model.embed_tokens.weight.data_ptr()
    model.load_weights([(f"model.{name}", 2 * weight) for name, weight in model.named_parameters()])
    assert model.embed_tokens.weight.data_ptr() == place
    assert torch.equal(model.embed_tokens.weight, 2 * before)


def test_needs_no_gradients(tiny: Transformer) -> None:
    assert not everything(tiny, torch.arange(4)).requires_grad


def test_prints_what_it_is(tiny: Transformer) -> None:
    assert repr(tiny) == "Transformer(1.7M parameters, 2 layers, 4 query and 2 KV heads of 64, float32 on cpu)"
    assert (
        repr(ContiguousCache.for_model(tiny, 512))
        == "ContiguousCache(0 of 512 tokens, 2 layers, 2 KV heads of 64, 1.0 MiB)"
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "gemma3"}, "model_type 'gemma3'"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"use_sliding_window": True}, "sliding window"),
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"quantization_config": {"bits": 4}}, "quantized"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_type 'yarn'"),
        ({"intermediate_size": 64}, "of another model"),
        ({"num_hidden_layers": 3}, "weights are missing"),
        ({"num_hidden_layers": 1}, "no weight of this name"),
        ({"tie_word_embeddings": False}, "such as lm_head.weight"),
    ],
)
def test_a_foreign_model(changes: dict[str, Any], says: str, tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    change(folder, **changes)
    with pytest.raises(ValueError, match=says):
        Transformer.load(folder)


def test_no_model_at_all(tmp_path: Path, tiny_folder: Path) -> None:
    with pytest.raises(ValueError, match="give a Hugging Face model folder"):
        Transformer.load(tmp_path)
    shutil.copy(tiny_folder / "config.json", tmp_path)
    with pytest.raises(ValueError, match="safetensors is missing"):
        Transformer.load(tmp_path)


def change(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
