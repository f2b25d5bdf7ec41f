"""The predicted pool is the live one, vLLM's and ours, and holds as many requests as it says."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_lib.kv_cache import MODELS, ModelShape
from course_lib.serving import LLM, KVPool, SamplingParams, gpu_kv_bytes, predict_pool, read_pool, watch
from course_lib.serving.vllm_engine import vllm_engine

GIB = 1 << 30
ODD = (6 << 20) + 54321  # no whole number of blocks


@pytest.fixture(scope="module", params=[("float32", 32), ("bfloat16", 64)], ids=str)
def real(request: pytest.FixtureRequest, folder: Path) -> Any:
    dtype, block_size = request.param
    options = {"dtype": dtype, "block_size": block_size, "kv_cache_memory_bytes": ODD, "max_model_len": 256}
    with vllm_engine(folder, enforce_eager=True, max_num_batched_tokens=8192, **options) as llm:
        yield llm


def bytes_per_number(llm: Any) -> int:
    return {torch.float32: 4, torch.bfloat16: 2}[llm.llm_engine.model_config.dtype]


def test_the_prediction_is_vllms_own_number(real: Any, folder: Path) -> None:
    config = real.llm_engine.vllm_config.cache_config
    predicted = predict_pool(ModelShape.from_config(folder), ODD, config.block_size, bytes_per_number(real))
    assert predicted == read_pool(real)
    assert predicted.num_blocks == config.num_gpu_blocks
    assert predicted.bytes <= ODD < predicted.bytes + predicted.bytes_per_block


def test_the_pool_is_what_vllm_allocated(real: Any) -> None:
    runner = real.llm_engine.model_executor.driver_worker.worker.model_runner
    storages = {cache.untyped_storage().data_ptr(): cache.untyped_storage().nbytes() for cache in runner.kv_caches}
    assert read_pool(real).bytes == sum(storages.values())


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("bfloat16", 2)])
def test_the_prediction_is_ours_too(folder: Path, dtype: str, size: int) -> None:
    llm = LLM(folder, dtype=dtype, block_size=24, kv_cache_memory_bytes=ODD, device="cpu")
    pool = read_pool(llm)
    assert pool == predict_pool(ModelShape.from_config(folder), ODD, 24, size)
    assert pool.bytes == llm.llm_engine.runner.cache.kv.nbytes


@pytest.mark.parametrize("prompt", [33, 64, 65])
def test_so_many_requests_run_at_once(real: Any, prompt: int) -> None:
    """The only token that they generate needs no slot, and one step has room for all their prompts."""
    from vllm import SamplingParams as VLLMSamplingParams

    fit = read_pool(real).requests(prompt)
    params = VLLMSamplingParams(temperature=0, max_tokens=1, detokenize=False)
    watched = watch(real, [[token] * prompt for token in range(fit + 3)], params)
    assert [sample.running for sample in watched.samples] == [fit, 3]


@pytest.mark.parametrize("prompt", [16, 17, 40])
def test_so_many_run_at_once_in_ours(folder: Path, prompt: int) -> None:
    llm = LLM(folder, block_size=16, kv_cache_memory_bytes=1 << 19, device="cpu")
    fit = read_pool(llm).requests(prompt)
    watched = watch(llm, [[token] * prompt for token in range(fit + 3)], SamplingParams(temperature=0, max_tokens=1))
    assert [sample.running for sample in watched.samples] == [fit, 3]


@given(
    st.sampled_from(list(MODELS.values())),
    st.integers(1, 80 * GIB),
    st.sampled_from([1, 8, 16, 32, 128]),
    st.sampled_from([1, 2, 4]),
)
def test_as_many_whole_blocks_as_fit(shape: ModelShape, memory: int, block_size: int, size: int) -> None:
    per_block = 2 * shape.layers * shape.kv_heads * shape.head_dim * block_size * size
    if memory < per_block:
        with pytest.raises(ValueError, match="not one block fits"):
            predict_pool(shape, memory, block_size, size)
        return
    pool = predict_pool(shape, memory, block_size, size)
    assert pool.bytes_per_block == per_block and pool.tokens == pool.num_blocks * block_size
    assert pool.bytes <= memory < pool.bytes + per_block


@given(st.integers(1, 500), st.integers(1, 64), st.integers(1, 3000), st.booleans())
def test_requests_have_blocks_of_their_own(blocks: int, block_size: int, tokens: int, null_block: bool) -> None:
    """Dealt out block by block, it is the same number."""
    pool = KVPool(blocks, block_size, 1, null_block)
    free, fit = blocks - null_block, 0
    each = len(range(0, tokens, block_size))
    while free >= each:
        free, fit = free - each, fit + 1
    assert pool.requests(tokens) == fit


def test_a_gpus_memory_is_shared_out() -> None:
    shape = MODELS["Qwen3-4B"]
    left = gpu_kv_bytes(shape, 80 * GIB, 0.9, 3 * GIB, non_torch_bytes=GIB)
    assert left + 2 * shape.parameters + 4 * GIB == pytest.approx(72 * GIB, abs=1)
    assert gpu_kv_bytes(shape, 80 * GIB, 0.9, 3 * GIB, GIB, bytes_per_number=1) == left + shape.parameters


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gpu_kv_bytes(MODELS["Llama-3.1-70B"], 80 * GIB, 0.9, GIB), "nothing is left.*131"),
        (lambda: gpu_kv_bytes(MODELS["Qwen3-4B"], 80 * GIB, 90, GIB), "utilization is 90"),
        (lambda: gpu_kv_bytes(MODELS["Qwen3-4B"], 80 * GIB, 0, GIB), "utilization is 0"),
        (lambda: predict_pool(MODELS["Qwen3-4B"], GIB, 0), "block_size"),
        (lambda: KVPool(0, 16, 1), "num_blocks is 0"),
        (lambda: KVPool(1, 16, 1).requests(0), "tokens_each is 0"),
    ],
)
def test_bad_numbers(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_it_prints() -> None:
    assert repr(KVPool(1000, 16, 1 << 20)) == "KVPool(1,000 blocks of 16 tokens, 16,000 tokens, 1,000.0 MiB)"
