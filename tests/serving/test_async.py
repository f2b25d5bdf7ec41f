"""An engine that plans a step ahead gives what one gives that waits: tokens, reasons, logprobs; and leaves nothing behind."""

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.scheduling import AsyncScheduler, Scheduler
from course_lib.serving import LLM, SamplingParams

from .oracle import assert_pool_whole, tokens_of


def work(seed: int, count: int = 9) -> tuple[list[list[int]], list[SamplingParams]]:
    """Requests that end at their length, at a stop token, at a minimum, and several samples of one prompt."""
    rng = random.Random(seed)
    common = [rng.randrange(3, 512) for _ in range(35)]
    prompts = [
        common[: rng.choice([0, 16, 35])] + [rng.randrange(3, 512) for _ in range(rng.choice([1, 15, 40]))]
        for _ in range(count)
    ]
    wishes = [
        SamplingParams(
            temperature=rng.choice([0, 1.0]),
            seed=index,
            max_tokens=rng.choice([1, 2, 16, 33]),
            min_tokens=rng.choice([0, 1]),
            stop_token_ids=rng.sample(range(512), 60),
            logprobs=rng.choice([None, 0, 2]),
            n=rng.choice([1, 1, 3]),
            ignore_eos=rng.random() < 0.5,
        )
        for index in range(count)
    ]
    return prompts, wishes


def assert_equal(got: Any, want: Any) -> None:
    """Equal but for the last bits of logprobs: a step of one request more sums in another order."""
    for ours, theirs in zip(got, want, strict=True):
        for one, other in zip(ours.outputs, theirs.outputs, strict=True):
            assert (one.token_ids, one.finish_reason, one.stop_reason, one.text) == (
                other.token_ids,
                other.finish_reason,
                other.stop_reason,
                other.text,
            )
            assert (one.logprobs is None) == (other.logprobs is None)
            for mine, its in zip(one.logprobs or [], other.logprobs or [], strict=True):
                assert {token: entry.logprob for token, entry in mine.items()} == pytest.approx(
                    {token: entry.logprob for token, entry in its.items()}, abs=1e-3
                )


OPTIONS = [
    {},
    {"max_num_seqs": 3},
    {"num_blocks": 12, "max_model_len": 120, "max_num_batched_tokens": 30},  # preemption, and prompts in parts
    {"num_blocks": 12, "max_model_len": 120, "enable_prefix_caching": False},
    {"block_size": 1, "num_blocks": 200, "max_model_len": 120},
    {"max_model_len": 45},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_planning_ahead_changes_nothing(make_llm: Any, options: dict[str, Any]) -> None:
    ahead, waiting = make_llm(async_scheduling=True, **options), make_llm(**options)
    assert isinstance(ahead.llm_engine.scheduler, AsyncScheduler)
    for seed in range(4):
        prompts, wishes = work(seed)
        assert_equal(ahead.generate(prompts, wishes), waiting.generate(prompts, wishes))
        assert_pool_whole(ahead)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.integers(7, 30), st.sampled_from([1, 4, 16]), st.integers(8, 60))
def test_in_any_pool(make_llm: Any, seed: int, blocks: int, block_size: int, budget: int) -> None:
    blocks = max(blocks, -(-120 // block_size))
    options = {"num_blocks": blocks, "block_size": block_size, "max_model_len": 112, "max_num_batched_tokens": budget}
    prompts, wishes = work(seed, 5)
    ahead, waiting = make_llm(async_scheduling=True, **options), make_llm(**options)
    assert_equal(ahead.generate(prompts, wishes), waiting.generate(prompts, wishes))
    assert_pool_whole(ahead)


def test_the_device_has_work_while_the_host_finishes_a_step(folder: Path) -> None:
    llm = LLM(folder, dtype="float32", device="cpu", num_blocks=64, async_scheduling=True)
    engine, events = llm.llm_engine, []
    run, update = engine.runner.run, engine.scheduler.update
    engine.runner.run = lambda *args: events.append("launch") or run(*args)  # type: ignore[method-assign,func-returns-value]
    engine.scheduler.update = lambda *args: events.append("tokens") or update(*args)  # type: ignore[method-assign,func-returns-value]
    llm.generate([[5, 6, 7]], SamplingParams(max_tokens=4, ignore_eos=True))
    # Four tokens are four launches: the length is known in advance, so nothing is computed beyond it.
    assert events == ["launch", "launch", "tokens", "launch", "tokens", "launch", "tokens", "tokens"]


def test_a_stop_token_costs_one_step_more_and_no_token(make_llm: Any) -> None:
    llm = make_llm(async_scheduling=True)
    prompt = list(range(20, 40))
    free = tokens_of(llm.generate([prompt], SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)))[0]
    stop = next(token for token in free[2:] if token not in free[:2])
    (output,) = llm.generate([prompt], SamplingParams(temperature=0, max_tokens=12, stop_token_ids=[stop]))
    assert output.outputs[0].token_ids == free[: free.index(stop) + 1]
    assert output.outputs[0].stop_reason == stop


def test_an_aborted_request_in_flight_gives_its_name_free(make_llm: Any) -> None:
    llm = make_llm(async_scheduling=True)
    params = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
    want = tokens_of(llm.generate([[9, 8, 7]], params))[0]
    llm.add_request("a", [50, 51, 52], params)
    llm.step()
    aborted = llm.abort_request("a")
    assert aborted is not None and aborted.outputs[0].token_ids == []
    llm.add_request("a", [9, 8, 7], params)  # while the other one's token is still being computed
    outputs = []
    while llm.has_unfinished_requests():
        outputs += llm.step()
    assert outputs[-1].finished and outputs[-1].outputs[0].token_ids == want
    assert [len(output.outputs[0].token_ids) for output in outputs] == [1, 2, 3, 4, 5, 6]
    assert_pool_whole(llm)


def test_a_scheduler_that_cannot_plan_ahead_is_refused(folder: Path) -> None:
    class Mine(Scheduler):
        pass

    with pytest.raises(ValueError, match="derive it from that"):
        LLM(folder, device="cpu", num_blocks=8, async_scheduling=True, scheduler=Mine)
