"""`tiny`: small, the same bytes everywhere, and a real model to every library."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from course_lib.models import describe, load_policy, tiny
from course_lib.models.cache import fault

# Other values mean another model: give the recipe's name a new number, so that nobody's cache keeps the old one.
WEIGHTS = "5d55b1fad1dd36fa61a86adccbd854c674c90ca9fd9ec26f78b079b522786f71"
VOCABULARY = "56dbd335fbf053bd9f81186246fa77ec4f507dde2534b9556d1572fc9bbdb85b"


@pytest.fixture(scope="module")
def tokenizer(tiny_folder: Path) -> object:
    return AutoTokenizer.from_pretrained(tiny_folder)


def test_same_bytes_each_time(cache: Path, tiny_folder: Path) -> None:
    ask = "from course_lib.models import load_policy; load_policy('tiny')"
    subprocess.run([sys.executable, "-c", ask], check=True)  # another process: another seed for Python's hashes
    names = sorted(path.name for path in tiny_folder.iterdir())
    assert sorted(path.name for path in (cache / "tiny-1").iterdir()) == names
    for name in names:
        assert (cache / "tiny-1" / name).read_bytes() == (tiny_folder / name).read_bytes(), name


def test_is_the_recipe_of_this_name(tiny_folder: Path) -> None:
    model = json.loads((tiny_folder / "tokenizer.json").read_text())["model"]
    vocabulary = json.dumps([model["vocab"], model["merges"]], sort_keys=True).encode()
    found = (
        hashlib.sha256((tiny_folder / "model.safetensors").read_bytes()).hexdigest(),
        hashlib.sha256(vocabulary).hexdigest(),
    )
    assert found == (WEIGHTS, VOCABULARY)


def test_a_truncated_file_is_rebuilt(cache: Path) -> None:
    folder = load_policy("tiny")
    weights = folder / "model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before[:1000])
    assert load_policy("tiny") == folder
    assert weights.read_bytes() == before
    assert fault(folder) is None


def test_sizes(tiny_folder: Path) -> None:
    info = describe(tiny_folder)
    assert 1e6 < info.parameters < 3e6
    assert (info.layers, info.heads, info.kv_heads, info.head_dim, info.dtype) == (2, 4, 2, 64, "BF16")
    assert info.kv_bytes_per_token == 2 * 2 * 2 * 64 * 2


def test_transformers_loads_trains_and_saves_it(tiny_folder: Path, tmp_path: Path, tokenizer: object) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    assert type(model).__name__ == "Qwen3ForCausalLM"
    assert model.dtype == torch.bfloat16
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert sum(p.numel() for p in model.parameters()) == describe(tiny_folder).parameters
    assert (model.config.eos_token_id, model.config.pad_token_id) == (tiny.END, tiny.PAD)
    ids = torch.arange(100, 120)[None]
    loss = model.float()(ids, labels=ids).loss
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(load_policy(tmp_path))
    assert torch.equal(again(ids).logits, model(ids).logits)


def test_the_next_token_depends_on_all_that_came_before(tiny_folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    one, other = torch.tensor([[100, 101, 102, 103]]), torch.tensor([[200, 101, 102, 103]])
    with torch.no_grad():
        logits = model(torch.cat([one, other])).logits[:, -1]
    assert (logits[0] - logits[1]).abs().max() > 0.1
    assert logits.std() > 0.5  # far from flat


def test_tokenizer(tokenizer: object) -> None:
    assert len(tokenizer) == 512
    assert [tokenizer.convert_tokens_to_ids(token) for token in tiny.SPECIAL] == [0, 1, 2]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (tiny.PAD, tiny.END)
    assert tokenizer.tokenize("12+345")[:2] == ["1", "2"]
    assert tokenizer.tokenize("345") == ["3", "4", "5"]
    assert len(tokenizer("What is 2+3? Answer with just the number.").input_ids) < 20  # not a token a byte


def test_chat_template(tokenizer: object) -> None:
    chat = [{"role": "user", "content": "What is 2+3?"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\nWhat is 2+3?<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer(text).input_ids.count(tiny.START) == 2
    assert tokenizer.apply_chat_template(chat, tokenize=False) == "<|im_start|>user\nWhat is 2+3?<|im_end|>\n"


@given(st.text())
def test_every_text_comes_back(tokenizer: object, text: str) -> None:
    assert tokenizer.decode(tokenizer(text).input_ids) == text
