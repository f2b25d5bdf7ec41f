"""Checkpoints: whole or not there, and turned into a folder that transformers and vLLM load."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from course_lib.models import PolicyError, load_policy
from course_lib.training import Group, PolicyTrainer, TrainerConfig, consolidate

Loss = Callable[..., Tensor]
KINDS = {
    "stage 0": TrainerConfig(zero_stage=0, learning_rate=1e-3),
    "stage 1": TrainerConfig(zero_stage=1, learning_rate=1e-3),
    "stage 2": TrainerConfig(zero_stage=2, learning_rate=1e-3),
    "stage 3": TrainerConfig(zero_stage=3, learning_rate=1e-3),
    "stage 3, offload": TrainerConfig(zero_stage=3, learning_rate=1e-3, offload_optimizer=True, offload_param=True),
}


@pytest.fixture(scope="module", params=KINDS)
def trained(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    tiny_folder: Path,
    groups: list[Group],
    advantage_loss: Loss,
) -> tuple[PolicyTrainer, Path]:
    """A trainer after a step, and its checkpoint."""
    trainer = PolicyTrainer(tiny_folder, KINDS[request.param])
    trainer.step(groups, advantage_loss)
    checkpoint = tmp_path_factory.mktemp("checkpoint")
    trainer.save(checkpoint, {"seen": 9})
    return trainer, checkpoint


@pytest.fixture(scope="module")
def stage_2(
    tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, groups: list[Group], advantage_loss: Loss
) -> Path:
    trainer = PolicyTrainer(tiny_folder, KINDS["stage 2"])
    trainer.step(groups, advantage_loss)
    folder = tmp_path_factory.mktemp("stage_2") / "made" / "on the way"
    trainer.save(folder)
    return folder


def test_the_consolidated_folder_is_the_exported_one(
    trained: tuple[PolicyTrainer, Path], tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer, checkpoint = trained
    trainer.export(tmp_path / "exported")
    capsys.readouterr()
    assert consolidate(checkpoint, tiny_folder, tmp_path / "made") == tmp_path / "made"
    written = capsys.readouterr()
    assert written.out + written.err == ""
    found, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("made", "exported"))
    assert found.keys() == expected.keys()
    assert "lm_head.weight" not in found  # it is the embedding
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    folder = load_policy(tmp_path / "made")
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.dtype == torch.bfloat16
    tokenizers = [AutoTokenizer.from_pretrained(where) for where in (folder, tiny_folder)]
    assert len({tokenizer.chat_template for tokenizer in tokenizers}) == 1


def test_the_fp32_master_copy_has_what_bf16_rounds_away(
    trained: tuple[PolicyTrainer, Path], tiny_folder: Path, tmp_path: Path
) -> None:
    trainer, checkpoint = trained
    found = load_file(consolidate(checkpoint, tiny_folder, tmp_path, torch.float32) / "model.safetensors")
    assert {weight.dtype for weight in found.values()} == {torch.float32}
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float32"
    rounded = dict(trainer.named_weights())
    for name, weight in found.items():
        assert torch.equal(weight.to(torch.bfloat16), rounded[name].cpu()), name
    assert any(not torch.equal(weight, weight.to(torch.bfloat16).float()) for weight in found.values())


@pytest.mark.parametrize("stage", [0, 2])
def test_an_output_matrix_of_its_own_comes_along(
    stage: int, untied_folder: Path, groups: list[Group], advantage_loss: Loss, tmp_path: Path
) -> None:
    trainer = PolicyTrainer(untied_folder, KINDS[f"stage {stage}"])
    trainer.step(groups, advantage_loss)
    trainer.save(tmp_path / "checkpoint")
    found = load_file(consolidate(tmp_path / "checkpoint", untied_folder, tmp_path / "made") / "model.safetensors")
    assert torch.equal(found["lm_head.weight"], dict(trainer.named_weights())["lm_head.weight"])


def test_a_save_replaces_the_one_before(stage_2: Path, tmp_path: Path, tiny_folder: Path) -> None:
    trainer = PolicyTrainer(tiny_folder, KINDS["stage 2"])
    for state in ({"n": 1}, {"n": 2}, {"n": 3}):
        trainer.save(tmp_path, state)
        assert trainer.load(tmp_path) == state
        assert sum(path.is_dir() for path in tmp_path.iterdir()) == 1


@pytest.mark.parametrize("died", ["before the end", "before it was published", "before the old one was dropped"])
def test_a_save_that_was_cut_short_leaves_the_one_before(
    stage_2: Path, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, died: str
) -> None:
    trainer = PolicyTrainer(tiny_folder, KINDS["stage 2"])
    trainer.save(tmp_path, {"n": 1})

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if died == "before the end":
            patch.setattr(trainer.engine, "_save_zero_checkpoint", die)
        elif died == "before it was published":
            patch.setattr(Path, "replace", die)
        else:
            patch.setattr("shutil.rmtree", lambda path, **_: path.name == "deepspeed" and die())
        with pytest.raises(KeyboardInterrupt):
            trainer.save(tmp_path, {"n": 2})
    assert trainer.load(tmp_path) == {"n": 2 if died == "before the old one was dropped" else 1}
    trainer.save(tmp_path, {"n": 3})
    assert trainer.load(tmp_path) == {"n": 3}
    consolidate(tmp_path, tiny_folder, tmp_path / "made")


def test_no_checkpoint_is_a_clear_error(tiny_folder: Path, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere", tiny_folder):
        with pytest.raises(
            FileNotFoundError, match="holds no DeepSpeed checkpoint; give a folder that a trainer's save"
        ):
            consolidate(folder, tiny_folder, tmp_path / "made")
    (tmp_path / "deepspeed").mkdir()
    with pytest.raises(FileNotFoundError, match="only a save that was cut short"):
        consolidate(tmp_path, tiny_folder, tmp_path / "made")


def test_a_missing_file_is_named_by_load_too(stage_2: Path, tmp_path: Path, tiny_folder: Path) -> None:
    shutil.copytree(stage_2, tmp_path / "part")
    (tmp_path / "part" / "deepspeed" / "mp_rank_00_model_states.pt").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks 1 of its 2 files: mp_rank_00_model_states\.pt\. Each rank"):
        PolicyTrainer(tiny_folder, KINDS["stage 2"]).load(tmp_path / "part")


def test_another_model_is_a_clear_error(stage_2: Path, tiny_folder: Path, untied_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"is not a whole model folder: config\.json is missing"):
        consolidate(stage_2, tmp_path, tmp_path / "made")
    shutil.copytree(tiny_folder, tmp_path / "wider")
    config = json.loads((tiny_folder / "config.json").read_text())
    (tmp_path / "wider" / "config.json").write_text(json.dumps(config | {"intermediate_size": 512}))
    with pytest.raises(
        ValueError, match=r"is not of the model in .*6 weights are missing or of another shape \(model\.layers"
    ):
        consolidate(stage_2, tmp_path / "wider", tmp_path / "made")
    with pytest.raises(ValueError, match=r"dtype is torch\.float16; it must be torch\.float32 or torch\.bfloat16"):
        consolidate(stage_2, tiny_folder, tmp_path / "made", torch.float16)


def test_a_folder_that_is_no_model_is_refused_before_deepspeed_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepspeed.initialize", None)
    for folder in (tmp_path, str(tmp_path / "nowhere")):
        with pytest.raises(PolicyError, match=rf"^{folder} is not a whole model folder: config\.json is missing; "):
            PolicyTrainer(folder)


@pytest.mark.slow
def test_vllm_says_what_transformers_says(stage_2: Path, tiny_folder: Path, tmp_path: Path) -> None:
    from course_lib.serving.vllm_engine import vllm_engine

    folder = consolidate(stage_2, tiny_folder, tmp_path / "made")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer("What is 2+3?").input_ids
    model = AutoModelForCausalLM.from_pretrained(folder)
    expected = model.generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False)[0, len(prompt) :].tolist()
    with vllm_engine(folder, max_model_len=64, enforce_eager=True) as llm:
        from vllm import SamplingParams

        (output,) = llm.generate(
            [{"prompt_token_ids": prompt}], SamplingParams(temperature=0, max_tokens=8), use_tqdm=False
        )
    assert list(output.outputs[0].token_ids) == expected
