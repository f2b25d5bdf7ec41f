"""What leaves the trainer: weights by name, and a folder that transformers and vLLM load."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from course_lib.models import load_policy
from course_lib.training import FrozenPolicy, Group, PolicyTrainer, TrainerConfig

Snapshot = Callable[[PolicyTrainer], dict[str, Tensor]]


@pytest.fixture(scope="module", params=[0, 2, 3])
def trained(
    request: pytest.FixtureRequest, tiny_folder: Path, groups: list[Group], advantage_loss: Callable[..., Tensor]
) -> PolicyTrainer:
    trainer = PolicyTrainer(tiny_folder, TrainerConfig(zero_stage=request.param, learning_rate=1e-3))
    trainer.step(groups, advantage_loss)
    return trainer


def test_named_weights_are_whole_and_have_hugging_face_names(
    trained: PolicyTrainer, tiny_folder: Path, snapshot: Snapshot
) -> None:
    before = dict(AutoModelForCausalLM.from_pretrained(tiny_folder).named_parameters())
    now = snapshot(trained)
    assert {name: weight.shape for name, weight in now.items()} == {name: w.shape for name, w in before.items()}
    assert {weight.dtype for weight in now.values()} == {torch.bfloat16}
    assert not any(torch.equal(now[name], before[name]) for name in before if "proj" in name)


def test_weights_that_are_kept_stay_whole(trained: PolicyTrainer) -> None:
    kept = dict(trained.named_weights())  # under ZeRO-3 each is gathered for its own turn only
    assert all(weight.numel() > 0 and weight.isfinite().all() for weight in kept.values())
    assert kept["model.embed_tokens.weight"].shape == (512, 256)


def test_the_exported_folder_is_the_trained_policy(
    trained: PolicyTrainer, tiny_folder: Path, tmp_path: Path, snapshot: Snapshot, groups: list[Group]
) -> None:
    folder = tmp_path / "policy"
    trained.export(folder)
    trained.export(folder)  # a second time over the first
    model = AutoModelForCausalLM.from_pretrained(load_policy(folder))
    assert model.dtype == torch.bfloat16
    assert model.lm_head.weight is model.model.embed_tokens.weight
    loaded, mine = dict(model.named_parameters()), snapshot(trained)
    assert loaded.keys() == mine.keys()
    for name, weight in mine.items():
        assert torch.equal(loaded[name], weight), name

    text = "What is 2+3? Answer with just the number."
    old, new = (AutoTokenizer.from_pretrained(where) for where in (tiny_folder, folder))
    assert new(text).input_ids == old(text).input_ids
    assert new.chat_template == old.chat_template

    found, expected = FrozenPolicy(folder).logprobs(groups), trained.logprobs(groups)
    assert all(torch.equal(found[sample], expected[sample]) for sample in expected)


def test_the_export_is_not_tied_to_the_trainer(
    trained: PolicyTrainer, tmp_path: Path, groups: list[Group], advantage_loss: Callable[..., Tensor]
) -> None:
    trained.export(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    trained.step(groups, advantage_loss)
    assert (tmp_path / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("stage", [2, 3])
def test_an_output_matrix_of_its_own_is_exported(stage: int, untied_folder: Path, tmp_path: Path) -> None:
    PolicyTrainer(untied_folder, TrainerConfig(zero_stage=stage)).export(tmp_path)
    before, after = (AutoModelForCausalLM.from_pretrained(folder) for folder in (untied_folder, tmp_path))
    assert torch.equal(after.lm_head.weight, before.lm_head.weight)
    assert not torch.equal(after.lm_head.weight, after.model.embed_tokens.weight)


def test_a_folder_is_found_by_its_name_too(tiny_folder: Path) -> None:
    assert PolicyTrainer(str(tiny_folder)).folder == tiny_folder
