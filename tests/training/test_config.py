import dataclasses
import math

import pytest

from course_lib.training import TrainerConfig


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("learning_rate", -1e-5),
        ("learning_rate", math.nan),
        ("learning_rate", math.inf),
        ("warmup_steps", -1),
        ("betas", (0.9, 1.0)),
        ("betas", (-0.1, 0.9)),
        ("betas", (0.9,)),
        ("weight_decay", -0.1),
        ("weight_decay", math.nan),
        ("max_grad_norm", -1.0),
        ("max_grad_norm", math.nan),
        ("zero_stage", 4),
        ("zero_stage", "2"),
        ("micro_batch_tokens", 0),
        ("offload_optimizer", "nvme"),
        ("offload_param", "nvme"),
        ("offload_param", 1),
    ],
)
def test_a_wrong_value_is_named_and_the_right_ones_are_said(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{field} is .*must be"):
        TrainerConfig(**{field: value})


def test_offload_needs_a_stage() -> None:
    with pytest.raises(ValueError, match=r"offload_optimizer .* Use zero_stage=1, 2 or 3"):
        TrainerConfig(zero_stage=0, offload_optimizer=True)


@pytest.mark.parametrize("stage", [0, 1, 2])
@pytest.mark.parametrize("with_optimizer", [False, True])
def test_weights_are_offloaded_by_zero_3_alone(stage: int, with_optimizer: bool) -> None:
    """DeepSpeed takes it at any stage and ignores it; what runs is held against plain PyTorch in test_reference.py."""
    with pytest.raises(ValueError, match=r"offload_param needs zero_stage=3|offload_optimizer needs a ZeRO stage"):
        TrainerConfig(zero_stage=stage, offload_param=True, offload_optimizer=with_optimizer)


def test_edges_are_allowed() -> None:
    TrainerConfig(learning_rate=0, betas=(0, 0), max_grad_norm=0, zero_stage=0, micro_batch_tokens=1)


def test_a_config_stays_as_it_is() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainerConfig().learning_rate = 1.0


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("with_param", [False, True])
def test_deepspeed_gets_the_decisions(stage: int, with_param: bool) -> None:
    with_param = with_param and stage == 3
    asked = TrainerConfig(
        zero_stage=stage, max_grad_norm=0.3, offload_optimizer=stage > 0, offload_param=with_param
    ).for_deepspeed()
    assert asked["zero_optimization"]["stage"] == stage
    assert asked["gradient_clipping"] == 0.3
    assert ("offload_optimizer" in asked["zero_optimization"]) == (stage > 0)
    assert ("offload_param" in asked["zero_optimization"]) == with_param
