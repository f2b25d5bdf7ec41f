"""Which models a policy can be, and the frozen one."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PhiConfig, PhiForCausalLM

from course_lib.training import FrozenPolicy, Group, Policy, pack


@pytest.fixture
def with_config(tiny_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """A folder that has a changed config and no weights: a refusal has to come before they are read."""

    def make(**options: object) -> Path:
        shutil.copytree(tiny_folder, tmp_path / "changed")
        (tmp_path / "changed" / "model.safetensors").unlink()
        config = json.loads((tiny_folder / "config.json").read_text())
        (tmp_path / "changed" / "config.json").write_text(json.dumps(config | options))
        return tmp_path / "changed"

    return make


@pytest.mark.parametrize("option", ["final_logit_softcapping", "logits_scaling", "logit_scale"])
def test_a_model_that_changes_its_logits_is_refused_before_its_weights_are_read(
    with_config: Callable[..., Path], option: str
) -> None:
    with pytest.raises(ValueError, match=f"{option} in its config.*Llama, Qwen2 and Qwen3"):
        Policy(with_config(**{option: 30.0}))


def test_an_option_that_is_off_is_no_reason_to_refuse(with_config: Callable[..., Path]) -> None:
    with pytest.raises(OSError, match=r"model\.safetensors"):  # it gets as far as the weights, which are not there
        Policy(with_config(final_logit_softcapping=None))


def test_a_nested_config_is_looked_into(with_config: Callable[..., Path]) -> None:
    from transformers import Gemma3Config

    folder = with_config()
    Gemma3Config(text_config={"final_logit_softcapping": 30.0}).save_pretrained(folder)
    with pytest.raises(ValueError, match="final_logit_softcapping in its config"):
        Policy(folder)


def test_an_output_matrix_with_a_bias_is_refused(tmp_path: Path) -> None:
    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    PhiForCausalLM(PhiConfig(**sizes, num_attention_heads=2)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="a bias in its lm_head"):
        Policy(tmp_path)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_frozen_logprobs_are_the_models_own(tiny_folder: Path, groups: list[Group], temperature: float) -> None:
    frozen = FrozenPolicy(tiny_folder, micro_batch_tokens=20)
    plain = AutoModelForCausalLM.from_pretrained(tiny_folder)
    found = frozen.logprobs(groups, temperature)
    assert sorted(found) == list(range(9))
    for group in groups:
        for sample, response in zip(group.samples, group.responses, strict=True):
            assert found[sample].shape == (len(response),)
            if not response:
                continue
            with torch.no_grad():
                logits = plain(torch.tensor([group.prompt_ids + response])).logits[0].float() / temperature
            table = torch.log_softmax(logits, dim=1)[len(group.prompt_ids) - 1 : -1]
            expected = table.gather(1, torch.tensor(response)[:, None])[:, 0]
            # Both run in bf16: its 8 bits leave a few hundredths of a nat of a logit of 5.
            torch.testing.assert_close(found[sample].cpu(), expected, atol=0.15 / temperature, rtol=0)


def test_a_frozen_policy_has_nothing_to_train(tiny_folder: Path) -> None:
    policy = FrozenPolicy(tiny_folder).policy
    assert not policy.training
    assert not any(parameter.requires_grad for parameter in policy.parameters())


def test_forward_and_backward_wait_for_nothing(tiny_folder: Path, groups: list[Group]) -> None:
    """On a GPU the host launches ahead. A meta tensor has no values: whatever needs one to go on raises."""
    policy = Policy(tiny_folder).to("meta")
    logprobs, _ = policy(pack(groups, device="meta"), 0.7)
    logprobs.sum().backward()
    assert all(parameter.grad is not None for parameter in policy.parameters())
