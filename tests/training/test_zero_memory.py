"""`training_memory` and the bytes that ranks exchange, against what must hold; test_zero_study.py has them against real runs."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, PretrainedConfig, Qwen3Config

from course_lib.kv_cache.cost import MODELS, ModelShape
from course_lib.training import Group, Policy, ZeroPlan, pack, training_memory
from course_lib.training.memory import SavedActivations
from course_lib.training.zero_memory import (
    CATEGORIES,
    MAX_LIVE,
    communication_bytes,
    deepspeed_communication_bytes,
    layer_activations,
    persistent_parameters,
    saved_activations,
)

SHAPES = st.sampled_from([shape for shape in MODELS.values() if shape.gated_mlp])
PLANS = st.builds(
    lambda stage, ranks, optimizer, param, checkpointing: ZeroPlan(
        stage, ranks, optimizer and stage > 0, param and stage == 3, checkpointing
    ),
    st.integers(0, 3),
    st.integers(1, 64),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
STATES = CATEGORIES[:5]


def config(kind: type[PretrainedConfig], **sizes: int | bool) -> PretrainedConfig:
    usual = {"vocab_size": 600, "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 3, "head_dim": 16}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
    return kind(**usual | heads | sizes)


CONFIGS = {
    "llama": config(LlamaConfig),
    "one layer": config(LlamaConfig, num_hidden_layers=1),
    "no grouped queries": config(LlamaConfig, num_key_value_heads=4),
    "wide MLP": config(LlamaConfig, intermediate_size=512),
    "output of its own": config(LlamaConfig, tie_word_embeddings=False),
    "qwen3": config(Qwen3Config),
    "qwen3, wide heads": config(Qwen3Config, head_dim=48, num_key_value_heads=1),
}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_saved_activations_of_other_models(name: str, checkpointing: bool) -> None:
    policy = _policy(CONFIGS[name])
    shape = ModelShape.from_config(CONFIGS[name].to_dict(), name)
    if checkpointing:
        policy.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    policy.train()
    for rows, length in ((1, 40), (3, 40), (2, 200)):
        batch = pack([Group([1], [[2] * (length - 1)], [row]) for row in range(rows)])
        with SavedActivations(policy) as saved:
            logprobs, _ = policy(batch)
        predicted = saved_activations(shape, rows * length, length, gradient_checkpointing=checkpointing)
        # The batch's own numbers are in one tensor, all of which is saved for the sake of some; no prediction counts it.
        own = batch.targets.untyped_storage().nbytes()
        assert predicted == pytest.approx(saved.storages.bytes - own, rel=0.03)
        logprobs.sum().backward()
        del logprobs
        assert saved.storages.bytes < predicted / 2  # the backward pass lets go of them


def _policy(config: PretrainedConfig) -> Policy:
    from transformers import AutoModelForCausalLM

    policy = Policy.__new__(Policy)  # its __init__ reads a folder
    torch.nn.Module.__init__(policy)
    policy.model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
    return policy


@given(SHAPES, st.integers(1, 8), st.integers(1, 2048))
def test_checkpointing_keeps_a_layer_at_a_time(shape: ModelShape, rows: int, length: int) -> None:
    tokens = rows * length
    whole, checkpointed = (
        training_memory(shape, ZeroPlan(0, gradient_checkpointing=on), tokens, length).device["activations"]
        for on in (False, True)
    )
    inputs = 2 * shape.hidden * shape.layers * tokens
    assert whole > shape.layers * layer_activations(shape, tokens, length)
    assert inputs < checkpointed < whole
    assert checkpointed - inputs < 2 * layer_activations(shape, tokens, length)


@given(SHAPES)
def test_16_bytes_a_parameter(shape: ModelShape) -> None:
    budget = training_memory(shape, ZeroPlan(0), 1, 1)
    assert sum(budget.device[state] for state in STATES) == 16 * shape.parameters
    # The step converts the gradients: with hardly any activations that is the fullest moment.
    assert budget.device_bytes == pytest.approx(20 * shape.parameters, rel=0.01)


@given(SHAPES, PLANS)
def test_a_stage_cuts_what_its_name_says(shape: ModelShape, plan: ZeroPlan) -> None:
    plan = replace(plan, offload_optimizer=False, offload_param=False)
    held = training_memory(shape, plan, 64, 64).device
    cut = {1: {"master", "exp_avg", "exp_avg_sq"}}
    cut |= {0: set(), 2: cut[1] | {"gradients"}, 3: cut[1] | {"gradients", "weights"}}
    for state, size in (("weights", 2), ("gradients", 2), ("master", 4), ("exp_avg", 4), ("exp_avg_sq", 4)):
        ranks = plan.ranks if state in cut[plan.stage] else 1
        left_whole = 2 * persistent_parameters(shape) if state == "weights" and ranks > 1 else 0
        share = size * shape.parameters / ranks + left_whole
        assert share <= held[state] < share + size


@given(SHAPES, PLANS, st.integers(1, 8), st.integers(1, 512))
def test_no_part_is_negative_and_only_offloading_uses_the_host(
    shape: ModelShape, plan: ZeroPlan, rows: int, length: int
) -> None:
    budget = training_memory(shape, plan, rows * length, length)
    assert budget.device.keys() == budget.host.keys() == set(CATEGORIES)
    assert min(*budget.device.values(), *budget.host.values()) >= 0
    assert (budget.host_bytes > 0) == (plan.offload_optimizer or plan.offload_param)
    if plan.offload_optimizer:
        assert budget.device["master"] == budget.device["exp_avg"] == budget.device["exp_avg_sq"] == 0
    longer = training_memory(shape, plan, (rows + 1) * length, length)
    assert longer.device["activations"] > budget.device["activations"]
    assert longer.device_bytes >= budget.device_bytes


@given(SHAPES, PLANS, st.integers(1, 9))
def test_what_is_moved(shape: ModelShape, plan: ZeroPlan, micro_batches: int) -> None:
    paper, real = communication_bytes(shape, plan), deepspeed_communication_bytes(shape, plan, micro_batches)
    whole = 2 * shape.parameters
    if plan.ranks == 1:
        assert paper == real == 0
        return
    assert paper == {0: 2, 1: 2, 2: 2, 3: 3}[plan.stage] * whole  # section 7.2 of the paper
    times = {0: 2, 1: 3, 2: 2 * micro_batches + 1, 3: (2 if shape.parameters <= MAX_LIVE else 3) * micro_batches}
    assert real == pytest.approx(times[plan.stage] * whole, rel=0.01)


def test_bad_plans_are_refused() -> None:
    with pytest.raises(ValueError, match="stage is 4; ZeRO has 0, 1, 2 and 3"):
        ZeroPlan(4)
    with pytest.raises(ValueError, match="ranks is 0"):
        ZeroPlan(1, 0)
    with pytest.raises(ValueError, match="offload_optimizer needs a stage of 1, 2 or 3"):
        ZeroPlan(0, offload_optimizer=True)
    with pytest.raises(ValueError, match="offload_param needs stage 3, and this is stage 2"):
        ZeroPlan(2, offload_param=True)
    with pytest.raises(ValueError, match=r"tokens=10, length=3: expected rows \* length"):
        training_memory(MODELS["Qwen3-0.6B"], ZeroPlan(1), 10, 3)
    with pytest.raises(ValueError, match="OPT-13B has an MLP of two matrices"):
        training_memory(MODELS["OPT-13B"], ZeroPlan(1), 8, 8)


def test_a_plan_and_a_budget_say_what_they_are() -> None:
    plan = ZeroPlan(3, 4, offload_param=True, gradient_checkpointing=True)
    assert str(plan) == "ZeRO-3 on 4 ranks, offload param, gradient checkpointing"
    assert "weights 0.06" in repr(training_memory(MODELS["SmolLM2-135M"], ZeroPlan(3, 4), 8, 8))
