"""A reward model's folder: the policy's body untouched, a head of the wanted size, and loadable by transformers."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from course_lib.models import PolicyError, load_policy, with_score_head


def test_the_body_is_the_policys_and_the_head_is_random(tiny_folder: Path, tmp_path: Path) -> None:
    folder = with_score_head(tiny_folder, tmp_path / "new" / "reward", seed=3, scale=0.5)
    policy, found = load_file(tiny_folder / "model.safetensors"), load_file(folder / "model.safetensors")
    head = found.pop("score.weight")
    assert found.keys() == policy.keys()
    assert all(torch.equal(found[name], policy[name]) for name in policy)
    assert head.shape == (1, 256) and head.dtype == torch.bfloat16
    assert 0.4 < head.float().std() < 0.6
    assert load_policy(folder) == folder


def test_the_seed_decides_the_head(tiny_folder: Path, tmp_path: Path) -> None:
    heads = [
        load_file(with_score_head(tiny_folder, tmp_path / str(i), seed=seed, scale=scale) / "model.safetensors")[
            "score.weight"
        ]
        for i, (seed, scale) in enumerate([(0, 0.02), (0, 0.02), (1, 0.02), (0, 0.04)])
    ]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    torch.testing.assert_close(heads[3], 2 * heads[0])


def test_transformers_loads_it(tiny_folder: Path, tmp_path: Path) -> None:
    """And its score is the head's product with the last token's state, of the policy as it was."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    folder = with_score_head("tiny", tmp_path)
    model, info = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert model.config.num_labels == 1 and model.config.pad_token_id == 0
    policy = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    tokens = AutoTokenizer.from_pretrained(folder)("Once upon a time", return_tensors="pt").input_ids
    with torch.inference_mode():
        state = policy.model(tokens).last_hidden_state[0, -1]
        torch.testing.assert_close(model(tokens).logits[0], model.score.weight @ state)


def test_shards_and_an_untied_head(tiny_folder: Path, tmp_path: Path) -> None:
    """A larger policy comes in parts; its LM head has no place in a reward model."""
    parts = tmp_path / "parts"
    shutil.copytree(tiny_folder, parts, ignore=shutil.ignore_patterns("*.safetensors", "manifest.json"))
    weights = load_file(tiny_folder / "model.safetensors") | {
        "lm_head.weight": torch.zeros(512, 256, dtype=torch.bfloat16)
    }
    names = [f"model-0000{part}-of-00002.safetensors" for part in (1, 2)]
    where = {name: names[index % 2] for index, name in enumerate(weights)}
    for part in names:
        save_file({name: weights[name] for name in weights if where[name] == part}, parts / part)
    (parts / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    found = load_file(with_score_head(parts, tmp_path / "out") / "model.safetensors")
    assert found.keys() == weights.keys() - {"lm_head.weight"} | {"score.weight"}


def test_a_pad_token_from_the_end_token(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "a")
    config = json.loads((tiny_folder / "config.json").read_text())
    (tmp_path / "a" / "config.json").write_text(json.dumps(config | {"pad_token_id": None, "eos_token_id": [2, 0]}))
    made = json.loads((with_score_head(tmp_path / "a", tmp_path / "b") / "config.json").read_text())
    assert made["pad_token_id"] == 2


def test_what_can_not_become_a_reward_model(tiny_folder: Path, tmp_path: Path) -> None:
    folder = with_score_head(tiny_folder, tmp_path / "reward")
    with pytest.raises(PolicyError, match=r"Qwen3ForSequenceClassification.*ForCausalLM"):
        with_score_head(folder, tmp_path / "again")
    own = tmp_path / "own"
    shutil.copytree(tiny_folder, own)
    with pytest.raises(PolicyError, match="own folder"):
        with_score_head(own, own / ".." / "own")
    with pytest.raises(PolicyError, match="no folder"):
        with_score_head(tmp_path / "nowhere", tmp_path / "out")
