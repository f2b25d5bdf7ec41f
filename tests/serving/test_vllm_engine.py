"""The real vLLM in this process: what it leaves as it was, what it gives back, and what it says where it can't start."""

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from course_lib.models import PolicyError
from course_lib.serving import LLM, EngineError, start_vllm, stop_vllm
from course_lib.serving.vllm_engine import is_vllm, vllm_engine, vllm_scheduler

from .oracle import Oracle, tokens_of

SMALL: dict[str, Any] = {
    "enforce_eager": True,
    "dtype": "float32",
    "max_model_len": 256,
    "kv_cache_memory_bytes": 8 << 20,
}

WRONG = [
    ({"max_model_len": 5000}, r"max_model_len \(5000\) is greater .*Lower max_model_len\.$"),
    ({"max_modl_len": 64}, r"no option 'max_modl_len'\. Did you mean 'max_model_len'\?$"),
    ({"nonsense": 1}, r"no option 'nonsense'\.$"),
    ({"kv_cache_memory_bytes": 4096}, r"cache blocks.*Raise kv_cache_memory_bytes"),
    ({"kv_cache_memory_bytes": 1 << 17}, r"KV cache is needed.*Lower max_model_len \(-1"),
    ({"kv_cache_memory_bytes": 1 << 50}, r"memory.*Lower kv_cache_memory_bytes"),
    ({"dtype": "int3"}, r"dtype: .*'bfloat16'"),
]


@pytest.fixture(scope="module")
def real(folder: Path) -> Any:
    with vllm_engine(folder, **SMALL) as llm:
        yield llm


def greedy(count: int) -> Any:
    from vllm import SamplingParams

    return SamplingParams(temperature=0, max_tokens=count, ignore_eos=True)


def test_it_generates_what_transformers_does(real: Any, oracle: Oracle) -> None:
    prompts = [tuple(range(20, 60)), (5, 6), (300,)]
    outputs = real.generate([{"prompt_token_ids": list(prompt)} for prompt in prompts], greedy(8), use_tqdm=False)
    assert tokens_of(outputs) == [oracle.greedy(prompt, 8) for prompt in prompts]


def test_threads_can_still_be_set(real: Any) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    assert torch.get_num_threads() == threads + 1
    torch.set_num_threads(threads)


def test_whose_engine_it_is(real: Any, llm: LLM) -> None:
    assert is_vllm(real) and not is_vllm(llm)
    assert vllm_scheduler(real).running == []


@pytest.mark.parametrize(("options", "message"), WRONG, ids=[str(options) for options, _ in WRONG])
def test_a_start_that_fails_says_why_in_one_line(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(EngineError, match=rf"^vLLM did not start on {folder.name}: .*{message}") as caught:
        start_vllm(folder, **(SMALL | options))
    said = str(caught.value)
    assert "\n" not in said and "http" not in said and len(said) < 400
    assert caught.value.__cause__ is None and caught.value.__context__ is None


def test_a_start_that_fails_keeps_nothing(folder: Path) -> None:
    """The KV cache is what fails, after the weights are loaded."""

    def models() -> int:
        gc.collect()
        return sum(type(one).__name__ == "Qwen3ForCausalLM" for one in gc.get_objects())

    before = models()
    with pytest.raises(EngineError) as caught:
        start_vllm(folder, **(SMALL | {"kv_cache_memory_bytes": 1 << 17}))
    assert "KV cache" in str(caught.value)
    assert models() == before


def test_after_failures_one_starts_with_the_tiers_defaults(folder: Path, oracle: Oracle) -> None:
    with pytest.raises(EngineError):
        start_vllm(folder, kv_cache_memory_bytes=4096, enforce_eager=True)
    with vllm_engine(
        "tiny", enforce_eager=True, max_model_len=64, dtype="float32", kv_cache_memory_bytes=1 << 20
    ) as llm:
        assert llm.llm_engine.vllm_config.cache_config.block_size == 32
        assert tokens_of(llm.generate([{"prompt_token_ids": [5, 6]}], greedy(4), use_tqdm=False)) == [
            oracle.greedy((5, 6), 4)
        ]


def test_a_folder_that_is_no_model_is_refused_before_the_start(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=tmp_path.name):
        start_vllm(tmp_path)


def test_stopping_releases_the_memory_though_the_variable_lives_on(folder: Path, real: Any) -> None:
    import torch.distributed as dist

    with pytest.raises(ZeroDivisionError), vllm_engine(folder, **SMALL) as llm:  # noqa: PT012  the body is what fails
        runner = llm.llm_engine.model_executor.driver_worker.worker.model_runner
        held = [weakref.ref(runner.model), *(weakref.ref(cache) for cache in runner.kv_caches)]
        del runner
        assert len(held) == 3 and all(ref() is not None for ref in held)
        raise ZeroDivisionError
    assert [ref() for ref in held] == [None] * 3
    stop_vllm(llm)  # again
    with pytest.raises(ValueError, match="was stopped"):
        vllm_scheduler(llm)
    assert dist.is_initialized()
    assert real.generate([{"prompt_token_ids": [5]}], greedy(1), use_tqdm=False)  # the neighbour goes on


def test_a_scheduler_elsewhere_is_out_of_reach() -> None:
    class Elsewhere:
        llm_engine = object()

    with pytest.raises(ValueError, match="another process"):
        vllm_scheduler(Elsewhere())
