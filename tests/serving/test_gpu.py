"""On a GPU: the Triton kernel and CUDA graphs give the tokens that the CPU gives."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from course_lib.serving import LLM, SamplingParams

from .oracle import Oracle, assert_pool_whole, tokens_of

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]


@pytest.fixture(scope="module")
def requests() -> tuple[list[list[int]], list[SamplingParams]]:
    rng = random.Random(0)
    prompts = [[rng.randrange(3, 512) for _ in range(rng.choice([1, 17, 80]))] for _ in range(21)]
    return prompts, [SamplingParams(temperature=0, ignore_eos=True, max_tokens=rng.choice([5, 30])) for _ in prompts]


@pytest.mark.parametrize(
    "options",
    [
        {"enforce_eager": True},
        {"enforce_eager": False},
        {"enforce_eager": False, "max_num_seqs": 5},
        {"max_num_batched_tokens": 30, "num_blocks": 24, "max_model_len": 300},
    ],
    ids=str,
)
def test_gpu_equals_cpu(folder: Path, requests: Any, options: dict[str, Any]) -> None:
    want = tokens_of(LLM(folder, dtype="float32", device="cpu", num_blocks=256).generate(*requests))
    llm = LLM(folder, dtype="float32", device="cuda", **({"num_blocks": 256} | options))
    assert tokens_of(llm.generate(*requests)) == want
    assert tokens_of(llm.generate(*requests)) == want  # and again, from the prefix cache
    assert_pool_whole(llm)


def test_greedy_tokens_are_those_of_transformers(folder: Path, requests: Any, oracle: Oracle) -> None:
    llm = LLM(folder, dtype="float32", device="cuda", num_blocks=256)
    want = [oracle.greedy(tuple(prompt), wish.max_tokens) for prompt, wish in zip(*requests, strict=True)]
    assert tokens_of(llm.generate(*requests)) == want


def test_new_weights_reach_the_graphs(folder: Path, requests: Any) -> None:
    from safetensors.torch import load_file

    llm = LLM(folder, dtype="float32", device="cuda", num_blocks=256)
    before = tokens_of(llm.generate(*requests))
    weights = load_file(folder / "model.safetensors")
    llm.load_weights((name, weight * 1.3) for name, weight in weights.items())
    assert tokens_of(llm.generate(*requests)) != before
    llm.load_weights(weights.items())
    assert tokens_of(llm.generate(*requests)) == before


def test_the_pool_takes_the_memory_that_is_left(folder: Path) -> None:
    llm = LLM(folder, gpu_memory_utilization=0.3)
    free, total = torch.cuda.mem_get_info()
    assert 0.2 * total < total - free < 0.35 * total
    assert len(llm.llm_engine.scheduler.kv_manager.pool.blocks) > 1000
