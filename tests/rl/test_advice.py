"""Memory that runs out is answered with the phase's settings, what they are and what to try."""

import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_lib import machine
from course_lib.rl import LoopConfig, RewardError, RolloutError
from course_lib.rl.advice import advise
from course_lib.rl.errors import ALL, OutOfMemory
from course_lib.training import TrainerConfig

TRAINER, LOOP = TrainerConfig(), LoopConfig()
PHASES = ("generate", "evaluate", "reward", "train", "sync", "checkpoint")
# As the engines say it; the first two were seen on the machines of the course, the others are in vLLM's and torch's sources.
SHORTAGES = [
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"
        " 4503599627370496 bytes. Error code 12 (Cannot allocate memory)"
    ),
    torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.34 GiB. GPU 0 has a total capacity of 139.80 GiB of which 1.20 GiB is free."
    ),
    MemoryError(),
    OSError(12, "Cannot allocate memory"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("std::bad_alloc"),
    ValueError("No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing"),
    ValueError(
        "To serve at least one request, (2.0 GiB KV cache is needed, which is larger than the available KV cache"
    ),
    ValueError(
        "Free memory on device (1.2/79.1 GiB) on startup is less than desired GPU memory utilization (0.9, 71.2 GiB)"
    ),
]


def ask(phase: str, error: BaseException, trainer: TrainerConfig = TRAINER, ranks: int = 1, **rollout: Any) -> Any:
    engine = type("VLLMRollout", (), {"llm": None, "kv_cache_bytes": 160 << 20} | rollout)()
    return advise(phase, error, SimpleNamespace(config=trainer, world_size=ranks), engine, LOOP)


@pytest.mark.parametrize("error", SHORTAGES, ids=lambda error: str(error)[:40])
@pytest.mark.parametrize("phase", PHASES)
def test_every_shortage_of_every_phase_names_a_setting(phase: str, error: BaseException) -> None:
    advice = ask(phase, error)
    assert isinstance(advice, OutOfMemory)
    assert isinstance(advice, ALL)
    assert advice.phase == phase
    assert str(advice).startswith(f"memory ran out in the phase {phase}: ")
    assert "resume the run" in str(advice)
    for name in advice.settings:
        assert re.search(rf"- \w+\.{name} is \S+.*: try ", str(advice)), name
    first = {"train": "micro_batch_tokens", "reward": "samples_per_prompt"}.get(phase, "kv_cache_bytes")
    assert advice.settings[0] == first


@pytest.mark.parametrize(
    "error",
    [ValueError("prompt too long"), RuntimeError("shape mismatch"), KeyError("memory"), OSError(28, "No space")],
)
def test_other_errors_get_none(error: BaseException) -> None:
    assert ask("train", error) is None


def test_a_reward_that_runs_out_stays_a_reward_error() -> None:
    """It names the sample, and the loop writes a checkpoint for it."""
    error = RewardError("mine raised MemoryError")
    error.__cause__ = MemoryError()
    assert ask("reward", error) is None


def test_the_cause_of_an_engine_error_is_looked_at() -> None:
    error = RolloutError("VLLMRollout failed while generating. Lower kv_cache_bytes.")
    error.__cause__ = SHORTAGES[1]
    assert "generate: it tried to take 2.34 GiB. At most" in str(ask("generate", error))
    error.__cause__, error.__context__, error.__suppress_context__ = None, MemoryError(), True
    assert ask("generate", error) is None


def test_what_was_asked_for_is_in_gib() -> None:
    assert "train: it tried to take 4194304.00 GiB. At most" in str(ask("train", SHORTAGES[0]))
    assert "generate: CUDA error: out of memory. At most" in str(ask("generate", SHORTAGES[4]))
    assert "generate: MemoryError. At most" in str(ask("generate", SHORTAGES[2]))


def test_no_room_for_the_kv_cache_wants_more_of_it_and_all_else_less() -> None:
    assert "VLLMRollout.kv_cache_bytes is 160 << 20: try 320 << 20" in str(ask("generate", SHORTAGES[7]))
    assert "VLLMRollout.kv_cache_bytes is 160 << 20: try 80 << 20" in str(ask("generate", SHORTAGES[1]))


@pytest.mark.parametrize(("error", "tried"), [(SHORTAGES[1], "0.30"), (SHORTAGES[7], "0.50")])
def test_a_share_of_the_gpu(error: BaseException, tried: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "tier", lambda: "gpu")
    cache = SimpleNamespace(kv_cache_memory_bytes=None, gpu_memory_utilization=0.4)
    llm = SimpleNamespace(llm_engine=SimpleNamespace(vllm_config=SimpleNamespace(cache_config=cache)))
    advice = ask("generate", error, llm=llm, kv_cache_bytes=None)
    assert f"VLLMRollout.gpu_memory_utilization is 0.4: try {tried}" in str(advice)
    assert advice.settings == ("gpu_memory_utilization", "samples_per_prompt", "max_new_tokens")


@given(
    st.integers(1, 1 << 16),
    st.booleans(),
    st.integers(0, 3),
    st.booleans(),
    st.integers(1, 8),
    st.sampled_from(["cpu", "gpu"]),
)
def test_what_training_is_told_to_try_can_be_tried(
    tokens: int, checkpointing: bool, stage: int, offload: bool, ranks: int, tier: str
) -> None:
    config = TrainerConfig(
        micro_batch_tokens=tokens,
        gradient_checkpointing=checkpointing,
        zero_stage=stage,
        offload_optimizer=offload and stage > 0,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "tier", lambda: tier)
        advice = ask("train", MemoryError(), config, ranks)
    tried = re.findall(r"- TrainerConfig\.(\w+) is (\w+): try (\w+)", str(advice))
    assert tried[0][0] == "micro_batch_tokens"
    for name, now, value in tried:
        assert str(getattr(config, name)) == now
        changed = dataclasses.replace(config, **{name: {"True": True}.get(value) or int(value)})
        assert changed != config or tokens == 1
    names = [name for name, *_ in tried]
    assert ("gradient_checkpointing" in names) == (not checkpointing)
    assert ("offload_optimizer" in names) == (tier == "gpu" and stage > 0 and not config.offload_optimizer)
    assert ("zero_stage" in names) == (stage < 3 if ranks > 1 else stage > 0 and not config.offload_optimizer)


def test_settings_that_a_run_can_not_change_say_so(tmp_path: Path) -> None:
    generating = str(ask("generate", MemoryError()))
    assert "LoopConfig.samples_per_prompt is 8: try 4 (a new run)" in generating
    assert "kv_cache_bytes is 160 << 20: try 80 << 20\n" in generating
    assert "zero_stage is 2: try 3: 4 ranks share more of it (a new run)" in str(ask("train", MemoryError(), ranks=4))
