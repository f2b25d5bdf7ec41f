"""What `watch` sees: equal, step by step, of our scheduler and of vLLM's, and equal to what vLLM counts itself."""

import itertools
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from course_lib.paged_attention import BlockPool
from course_lib.serving import LLM, EngineSample, SamplingParams, Watched, metrics, watch
from course_lib.serving.probe import probe
from course_lib.serving.vllm_engine import is_vllm, vllm_engine, vllm_scheduler

BEGINS = list(range(50, 120))
PROMPTS = [BEGINS * (n % 2) + [100 + 7 * n] * (20 + 13 * n) for n in range(7)]
BLOCKS = 13
OPTIONS: dict[str, Any] = {"dtype": "float32", "block_size": 32, "max_model_len": 300, "max_num_batched_tokens": 96}
WISH = {"temperature": 0, "max_tokens": 40, "ignore_eos": True, "detokenize": False}
COUNTS = {
    "prefix_queries": "vllm:prefix_cache_queries",
    "prefix_hits": "vllm:prefix_cache_hits",
    "preemptions": "vllm:num_preemptions",
    "generated_tokens": "vllm:generation_tokens",
}


@pytest.fixture(scope="module")
def real(folder: Path) -> Any:
    more = {"num_gpu_blocks_override": BLOCKS, "kv_cache_memory_bytes": 8 << 20, "async_scheduling": False}
    with vllm_engine(folder, enforce_eager=True, disable_log_stats=False, **more, **OPTIONS) as llm:
        yield llm


@pytest.fixture(scope="module")
def ours(folder: Path) -> LLM:
    return LLM(folder, num_blocks=BLOCKS, block_pool=partial(BlockPool, null_block=True), device="cpu", **OPTIONS)


@pytest.fixture(params=["ours", "real"])
def engine(request: pytest.FixtureRequest) -> Any:
    llm = request.getfixturevalue(request.param)
    llm.reset_prefix_cache()
    return llm


def params(llm: Any, **wish: Any) -> Any:
    if not is_vllm(llm):
        return SamplingParams(**(WISH | wish))
    from vllm import SamplingParams as VLLMSamplingParams

    return VLLMSamplingParams(**(WISH | wish))


def run(llm: Any, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Watched:
    """With a clock that counts how often it is asked: at the beginning, and after each step."""
    llm.reset_prefix_cache()
    ticks = itertools.count()
    monkeypatch.setattr(metrics, "time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))
    return watch(llm, PROMPTS, params(llm), **options)


def test_both_engines_are_seen_doing_the_same(ours: LLM, real: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, theirs = run(ours, monkeypatch), run(real, monkeypatch)
    last = mine.samples[-1]
    assert last.preemptions >= 2 and last.prefix_hits >= 64 and last.generated_tokens == 280
    assert max(sample.waiting for sample in mine.samples) >= 4 and max(sample.running for sample in mine.samples) >= 3
    usable = BLOCKS - 1  # vLLM's own share leaves the null block out
    for one, other in zip(mine.samples, theirs.samples, strict=True):
        assert one == EngineSample(**(vars(other) | {"kv_usage": one.kv_usage}))
        assert one.kv_usage == pytest.approx((other.kv_usage * usable + 1) / BLOCKS)
    assert mine.requests == theirs.requests
    assert mine.seconds == theirs.seconds == len(mine.samples)
    assert [list(a.outputs[0].token_ids) for a in mine.outputs] == [
        list(b.outputs[0].token_ids) for b in theirs.outputs
    ]


def test_the_counts_are_those_that_vllm_exports(real: Any) -> None:
    def exported() -> dict[str, int]:
        values = {metric.name: int(metric.value) for metric in real.get_metrics() if hasattr(metric, "value")}
        return {name: values[theirs] for name, theirs in COUNTS.items()}

    real.reset_prefix_cache()
    before = exported()
    for prompts in (PROMPTS, PROMPTS[::-1]):  # the second time into a warm cache
        last = watch(real, prompts, params(real, max_tokens=30)).samples[-1]
        after = exported()
        assert {name: getattr(last, name) for name in COUNTS} == {name: after[name] - before[name] for name in COUNTS}
        before = after


def test_latencies_are_the_callers(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step n ends at n on the counting clock, so a latency is a number of steps."""
    watched = run(engine, monkeypatch)
    tokens = [len(output.outputs[0].token_ids) for output in watched.outputs]
    assert [len(request.inter_token_latencies) for request in watched.requests] == [count - 1 for count in tokens]
    assert watched.requests[0].ttft == 1
    assert [request.ttft for request in watched.requests] == sorted(request.ttft for request in watched.requests)
    ends = [request.ttft + sum(request.inter_token_latencies) for request in watched.requests]
    assert max(ends) == watched.seconds
    # A request that was preempted waited, and its caller with it.
    assert max(max(request.inter_token_latencies) for request in watched.requests) > 1


def test_samples_at_every_so_many_steps_and_the_last(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(engine, monkeypatch).samples
    for every in (7, 1000):
        seen: list[EngineSample] = []
        watched = run(engine, monkeypatch, every=every, on_sample=seen.append)
        wanted = whole[every - 1 :: every]
        assert watched.samples == (wanted if len(whole) % every == 0 else [*wanted, whole[-1]]) == seen


def test_several_samples_of_a_prompt(engine: Any) -> None:
    watched = watch(engine, [[5] * 40], params(engine, n=3, temperature=1, seed=1, max_tokens=4))
    last = watched.samples[-1]
    assert (last.generated_tokens, last.running) == (12, 3)
    assert last.prefix_queries == 120 and last.prefix_hits == 64
    assert len(watched.requests) == 1 and len(watched.requests[0].inter_token_latencies) == 3


def test_a_watch_leaves_no_trace(engine: Any) -> None:
    scheduler = vllm_scheduler(engine) if is_vllm(engine) else engine.llm_engine.scheduler

    class StopError(Exception):
        pass

    def stop(sample: EngineSample) -> None:
        raise StopError

    with pytest.raises(StopError):
        watch(engine, PROMPTS, params(engine), on_sample=stop)
    assert "schedule" not in vars(scheduler)
    assert not engine.llm_engine.has_unfinished_requests()
    with pytest.raises(ValueError, match="prompt 0"):
        watch(engine, [[]], params(engine))
    with pytest.raises(ValueError, match="every is 0"):
        watch(engine, PROMPTS, params(engine), every=0)
    assert "schedule" not in vars(scheduler)
    assert watch(engine, [], params(engine)).samples == []


def test_beside_a_probe(real: Any) -> None:
    scheduler = vllm_scheduler(real)
    trace = probe(real)
    try:
        watched = watch(real, PROMPTS[:3], params(real))
        hung = scheduler.schedule
        watch(real, PROMPTS[:3], params(real))
        assert scheduler.schedule is hung
        assert len(trace.steps) >= len(watched.samples) > 0
    finally:
        del scheduler.schedule, scheduler.update_from_output


def test_it_prints(engine: Any) -> None:
    watched = watch(engine, [[5]], params(engine, max_tokens=2))
    assert "1 requests, 2 samples, 2 tokens, 0 preemptions" in repr(watched)
