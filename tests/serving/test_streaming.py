"""Streaming, the same of both engines: what comes, when, and what is left behind by whoever stops listening."""

from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_lib.serving import LLM, CompletionOutput, RequestOutput, SamplingParams, deltas, stream
from course_lib.serving.vllm_engine import is_vllm, vllm_engine, vllm_scheduler

from .oracle import Oracle

PROMPTS = ["Once upon a time", "What is 2+3?", list(range(30, 70)), {"prompt_token_ids": [5, 6]}]


@pytest.fixture(scope="module")
def real(folder: Path) -> Any:
    with vllm_engine(
        folder, enforce_eager=True, dtype="float32", max_model_len=256, kv_cache_memory_bytes=8 << 20
    ) as llm:
        yield llm


@pytest.fixture(params=["ours", "vllm"])
def engine(request: pytest.FixtureRequest, llm: LLM) -> Any:
    return llm if request.param == "ours" else request.getfixturevalue("real")


def params(llm: Any, **wish: Any) -> Any:
    if not is_vllm(llm):
        return SamplingParams(**wish)
    from vllm import SamplingParams as VLLMSamplingParams

    return VLLMSamplingParams(**wish)


def greedy(llm: Any, count: int = 8) -> Any:
    return params(llm, temperature=0, max_tokens=count, ignore_eos=True)


def assert_nothing_left(llm: Any) -> None:
    assert not llm.llm_engine.has_unfinished_requests()
    if is_vllm(llm):
        assert vllm_scheduler(llm).kv_cache_manager.usage == 0
    else:
        pool = llm.llm_engine.scheduler.kv_manager.pool
        assert pool.num_free_blocks == len(pool.blocks)


def test_a_token_at_a_time_up_to_what_generate_gives(engine: Any, oracle: Oracle) -> None:
    seen: dict[str, list[RequestOutput]] = {str(index): [] for index in range(len(PROMPTS))}
    for output in stream(engine, PROMPTS, greedy(engine)):
        seen[output.request_id].append(output)
    for outputs, whole in zip(seen.values(), engine.generate(PROMPTS, greedy(engine), use_tqdm=False), strict=True):
        last = outputs[-1]
        assert (last.prompt, list(last.prompt_token_ids)) == (whole.prompt, list(whole.prompt_token_ids))
        wanted = oracle.greedy(tuple(whole.prompt_token_ids), 8)
        assert [output.outputs[0].token_ids for output in outputs] == [wanted[: n + 1] for n in range(8)]
        assert [output.finished for output in outputs] == [False] * 7 + [True]
        texts = [output.outputs[0].text for output in outputs]
        assert all(later.startswith(before) for before, later in pairwise(texts))
        assert texts[-1] == whole.outputs[0].text
    assert_nothing_left(engine)


def test_pieces_make_the_text(engine: Any) -> None:
    outputs = list(stream(engine, PROMPTS[:2], greedy(engine, 20)))
    pieces = list(deltas(outputs))
    for name in ("0", "1"):
        text = [output.outputs[0].text for output in outputs if output.request_id == name][-1]
        assert "".join(piece for request_id, piece in pieces if request_id == name) == text
    assert all(piece for _, piece in pieces)


def test_several_samples_of_a_prompt_come_together(engine: Any) -> None:
    wish = params(engine, n=3, temperature=1, seed=5, max_tokens=6, ignore_eos=True)
    outputs = list(stream(engine, "Once upon a time", wish))
    assert [len(output.outputs) for output in outputs] == [3] * 6
    assert [sum(len(sample.token_ids) for sample in output.outputs) for output in outputs] == [3, 6, 9, 12, 15, 18]
    (whole,) = engine.generate("Once upon a time", wish, use_tqdm=False)
    assert [sample.token_ids for sample in outputs[-1].outputs] == [list(one.token_ids) for one in whole.outputs]
    pieces = list(deltas(outputs))
    for sample in whole.outputs:
        assert "".join(piece for name, piece in pieces if name == f"{sample.index}_0") == sample.text


def test_whoever_stops_listening_ends_the_requests(engine: Any) -> None:
    running = stream(engine, PROMPTS, greedy(engine, 100))
    assert len(list(islice(running, 6))) == 6
    assert engine.llm_engine.has_unfinished_requests()
    with pytest.raises(ValueError, match="unfinished requests"):
        next(stream(engine, "Hello", greedy(engine)))
    running.close()
    assert_nothing_left(engine)
    assert len(list(stream(engine, "Hello", greedy(engine, 3)))) == 3


def test_each_prompt_its_own_parameters(engine: Any) -> None:
    outputs = list(stream(engine, [[5], [6]], [greedy(engine, 2), greedy(engine, 4)]))
    assert [output.request_id for output in outputs] == ["0", "1", "0", "1", "1", "1"]


def test_the_models_own_parameters_are_the_default(engine: Any) -> None:
    assert len(list(stream(engine, [[5]]))[-1].outputs[0].token_ids) <= 16


def test_no_prompts_no_outputs(engine: Any) -> None:
    assert list(stream(engine, [], greedy(engine))) == []


@pytest.mark.parametrize("bad", ["", [], [5] * 2000, [512], [-1], 3.5, {"text": "a"}], ids=range(7))
def test_a_bad_prompt_is_named_and_nothing_runs(engine: Any, bad: Any) -> None:
    with pytest.raises(ValueError, match=r"^prompt 1: "):
        next(stream(engine, [[5, 6], bad], greedy(engine)))
    assert_nothing_left(engine)


def test_bad_parameters(engine: Any, llm: LLM, real: Any) -> None:
    other = real if engine is llm else llm
    with pytest.raises(ValueError, match=r"params are of .*; expected (vllm|course_lib.serving)\.SamplingParams"):
        next(stream(engine, [[5]], greedy(other)))
    with pytest.raises(ValueError, match="params has 1 entries for 2 prompts"):
        next(stream(engine, [[5], [6]], [greedy(engine)]))
    with pytest.raises(ValueError, match=r"^prompt 0: .*600"):
        next(stream(engine, [[5]], params(engine, stop_token_ids=[600])))
    assert_nothing_left(engine)


@given(st.lists(st.tuples(st.integers(0, 2), st.text(max_size=3)), max_size=20))
def test_deltas_of_any_streams(steps: list[tuple[int, str]]) -> None:
    texts = ["", "", ""]
    outputs = []
    for request, piece in steps:
        texts[request] += piece
        outputs.append(RequestOutput(str(request), None, [], [CompletionOutput(0, texts[request], [])], False))
    assert list(deltas(outputs)) == [(str(request), piece) for request, piece in steps if piece]
