"""The interface: bad input, stopping, chat, steps by hand, weights, a learner's own parts."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from course_lib.paged_attention import BlockPool
from course_lib.scheduling import Scheduler, SchedulerOutput
from course_lib.serving import LLM, RequestOutput, SamplingParams, Step

from .oracle import Oracle, assert_pool_whole, tokens_of

GREEDY = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)

BAD = [
    ([], {}, "empty prompt"),
    ([5] * 300, {}, "300 prompt tokens.*max_model_len=200"),
    ([5] * 100, {"max_tokens": 90}, "grow to 189 tokens.*144"),
    ([5, 512], {}, "token 512 is out of range.*0 to 511"),
    ([-1], {}, "token -1 is out of range"),
    ([5, "x"], {}, "whole numbers"),
    (3.5, {}, "a prompt is"),
    ({"text": "hello"}, {}, "a prompt is"),
    (None, {}, "a prompt is"),
    ("", {}, "empty prompt"),
    ([5], {"max_tokens": 0}, "max_tokens=0; expected 1 or more"),
    ([5], {"max_tokens": 2.5}, "max_tokens=2.5"),
    ([5], {"temperature": -0.1}, "temperature=-0.1; expected 0"),
    ([5], {"temperature": float("nan")}, "temperature=nan"),
    ([5], {"temperature": "hot"}, "temperature='hot'"),
    ([5], {"top_p": 0.0}, "top_p=0.0"),
    ([5], {"top_p": 1.1}, "top_p=1.1"),
    ([5], {"top_k": -2}, "top_k=-2"),
    ([5], {"min_p": 1.5}, "min_p=1.5"),
    ([5], {"n": 0}, "n=0"),
    ([5], {"seed": "lucky"}, "seed='lucky'"),
    ([5], {"stop": 7}, "stop=7; expected a string or several"),
    ([5], {"stop": ["a", None]}, "stop="),
    ([5], {"stop": [""]}, "stop="),
    ([5], {"stop": "a", "detokenize": False}, "stop='a'; expected none"),
    ([5], {"stop_token_ids": [512]}, "stop_token_ids=.*0 to 511"),
    ([5], {"stop_token_ids": "ab"}, "stop_token_ids="),
    ([5], {"logprobs": -1}, "logprobs=-1"),
    ([5], {"min_tokens": 20}, "min_tokens=20; expected 0 to max_tokens"),
]


@pytest.mark.parametrize(("prompt", "options", "message"), BAD, ids=[f"{m[:24]}{i}" for i, (*_, m) in enumerate(BAD)])
def test_a_bad_request_says_why_and_the_others_finish(
    make_llm: Any, oracle: Oracle, prompt: Any, options: dict[str, Any], message: str
) -> None:
    llm: LLM = make_llm(num_blocks=9, max_model_len=200)
    params = [GREEDY, SamplingParams(**options), GREEDY]
    first, bad, last = llm.generate([[5, 6], prompt, [7]], params)
    assert tokens_of([first, last]) == [oracle.greedy((5, 6), 6), oracle.greedy((7,), 6)]
    assert bad.finished and bad.outputs[0].finish_reason == "error" and bad.outputs[0].token_ids == []
    with pytest.raises(AssertionError) if bad.error is None else pytest.raises(ValueError, match=message):
        raise ValueError(bad.error)
    with pytest.raises(ValueError, match=f"prompt 1: .*{message}"):
        llm.generate([[5, 6], prompt, [7]], params, raise_on_error=True)
    assert first.error is None
    assert_pool_whole(llm)


def test_several_faults_are_said_at_once() -> None:
    with pytest.raises(ValueError, match=r"temperature=-1.*top_p=2") as caught:
        SamplingParams(temperature=-1, top_p=2).check(512)
    assert "max_tokens" not in str(caught.value)


def test_arguments_of_different_lengths(llm: LLM) -> None:
    with pytest.raises(ValueError, match="sampling_params has 1 entries for 2 prompts"):
        llm.generate([[5], [6]], [GREEDY])
    with pytest.raises(ValueError, match="priority has 3 entries"):
        llm.generate([[5], [6]], GREEDY, priority=[1, 2, 3])
    assert llm.generate([], GREEDY) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"max_model_len": 5000}, "max_model_len is 5000; expected 2 to 1024"),
        ({"num_blocks": None, "kv_cache_memory_bytes": 10}, "KV cache has 10 bytes"),
        ({"block_size": 0}, "block_size is 0"),
        ({"scheduling_policy": "lifo"}, "policy is 'lifo'"),
        ({"max_num_seqs": 0}, "max_num_seqs"),
    ],
)
def test_bad_engine_arguments(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LLM(folder, **({"num_blocks": 4, "device": "cpu"} | options))


def test_prompts_in_all_forms(llm: LLM) -> None:
    tokens = llm.get_tokenizer().encode("Once upon a time")
    forms = ["Once upon a time", {"prompt": "Once upon a time"}, {"prompt_token_ids": tokens}, tokens]
    outputs = llm.generate(forms, GREEDY)
    assert [output.prompt for output in outputs] == ["Once upon a time"] * 2 + [None] * 2
    assert [output.prompt_token_ids for output in outputs] == [tokens] * 4
    assert len({tuple(ids) for ids in tokens_of(outputs)}) == 1
    assert [tokens_of(llm.generate(form, GREEDY))[0] for form in forms] == tokens_of(outputs)


def test_chat_is_the_template(llm: LLM) -> None:
    messages = [{"role": "user", "content": "What is 2+3?"}]
    text = "<|im_start|>user\nWhat is 2+3?<|im_end|>\n<|im_start|>assistant\n"
    one, several = llm.chat(messages, GREEDY), llm.chat([messages, messages], GREEDY)
    assert one[0].prompt == text
    assert tokens_of([*one, *several]) == tokens_of(llm.generate(text, GREEDY)) * 3


def test_stop_token_and_stop_string(llm: LLM, oracle: Oracle) -> None:
    prompt = list(range(30, 60))
    want = oracle.greedy(tuple(prompt), 30)
    stop = want[11]
    at = want.index(stop)
    plain = SamplingParams(temperature=0, max_tokens=30)
    decode = llm.get_tokenizer().decode

    sample = llm.generate(prompt, SamplingParams(temperature=0, max_tokens=30, stop_token_ids=[stop]))[0].outputs[0]
    assert (sample.token_ids, sample.finish_reason, sample.stop_reason) == (want[: at + 1], "stop", stop)
    assert sample.text == decode(want[:at], skip_special_tokens=True)

    text = llm.generate(prompt, plain)[0].outputs[0].text
    word = text[10:13]
    for include in (False, True):
        params = SamplingParams(temperature=0, max_tokens=30, stop=[word], include_stop_str_in_output=include)
        sample = llm.generate(prompt, params)[0].outputs[0]
        assert (sample.finish_reason, sample.stop_reason) == ("stop", word)
        assert sample.text == text[: text.find(word)] + (word if include else "")
        assert sample.token_ids == want[: len(sample.token_ids)] and len(sample.token_ids) < 30
    assert_pool_whole(llm)


def test_min_tokens_holds_the_stop_back(llm: LLM) -> None:
    """Every token but 7 stops: there are exactly as many 7s as have to be."""
    stops = [token for token in range(512) if token != 7]
    params = SamplingParams(temperature=0, max_tokens=9, min_tokens=4, stop_token_ids=stops)
    sample = llm.generate(list(range(30, 60)), params)[0].outputs[0]
    assert sample.token_ids[:4] == [7] * 4 and len(sample.token_ids) == 5
    assert (sample.finish_reason, sample.stop_reason) == ("stop", sample.token_ids[4])


def test_the_longest_sequence(make_llm: Any, oracle: Oracle) -> None:
    """max_tokens=None goes on to the model's limit, and the last token needs no slot."""
    llm = make_llm(num_blocks=2, block_size=16)
    assert llm.llm_engine.scheduler.config.max_model_len == 33
    sample = llm.generate([5] * 30, SamplingParams(temperature=0, max_tokens=None, ignore_eos=True))[0].outputs[0]
    assert (sample.token_ids, sample.finish_reason) == (oracle.greedy((5,) * 30, 3), "length")


def test_steps_by_hand(llm: LLM, oracle: Oracle) -> None:
    llm.add_request("a", [5, 6], GREEDY)
    llm.add_request("b", [7], SamplingParams(temperature=0, max_tokens=3, ignore_eos=True))
    with pytest.raises(ValueError, match="'a' is here already"):
        llm.add_request("a", [5], GREEDY)
    with pytest.raises(ValueError, match="added by hand"):
        llm.generate([5], GREEDY)
    seen: dict[str, RequestOutput] = {}
    lengths = []
    while llm.has_unfinished_requests():
        outputs = llm.step()
        seen |= {output.request_id: output for output in outputs}
        lengths.append([len(output.outputs[0].token_ids) for output in outputs])
    assert lengths == [[1, 1], [2, 2], [3, 3], [4], [5], [6]]
    assert tokens_of([seen["a"], seen["b"]]) == [oracle.greedy((5, 6), 6), oracle.greedy((7,), 3)]
    assert llm.step() == []
    metrics = seen["a"].metrics
    assert metrics.arrival_time <= metrics.scheduled_ts <= metrics.first_token_ts < metrics.last_token_ts
    assert metrics.num_generation_tokens == 6 and metrics.first_token_latency > 0


def test_abort(llm: LLM) -> None:
    llm.add_request("a", [5, 6], SamplingParams(n=2, max_tokens=20, seed=0))
    llm.add_request("b", [7], GREEDY)
    llm.step()
    output = llm.abort_request("a")
    assert output.finished and [s.finish_reason for s in output.outputs] == ["abort", "abort"]
    assert [len(s.token_ids) for s in output.outputs] == [1, 1]
    assert llm.abort_request("a") is None
    while llm.has_unfinished_requests():
        assert [output.request_id for output in llm.step()] == ["b"]
    assert_pool_whole(llm)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_new_weights_in_place(folder: Path, tmp_path: Path, dtype: str) -> None:
    """After a load the engine is as one that was started with the new weights: packed copies and cache too."""
    from safetensors.torch import load_file, save_file

    llm = LLM(folder, dtype=dtype, num_blocks=16, device="cpu")
    prompt = list(range(10, 50))
    old = tokens_of(llm.generate(prompt, GREEDY))
    weights = load_file(folder / "model.safetensors")
    noise = torch.Generator().manual_seed(0)
    other = {name: w + 0.05 * torch.randn(w.shape, generator=noise).to(w.dtype) for name, w in weights.items()}
    llm.load_weights(other.items())
    output = llm.generate(prompt, GREEDY)[0]
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    save_file(other, tmp_path / "model.safetensors")
    fresh = LLM(tmp_path, dtype=dtype, num_blocks=16, device="cpu").generate(prompt, GREEDY)
    assert tokens_of([output]) == tokens_of(fresh) != old and output.num_cached_tokens == 0
    llm.add_request("a", [5], GREEDY)
    with pytest.raises(RuntimeError, match="unfinished"):
        llm.load_weights(weights.items())
    llm.abort_request("a")
    with pytest.raises(ValueError, match="missing"):
        llm.load_weights(list(weights.items())[:3])
    llm.load_weights(weights.items())
    assert tokens_of(llm.generate(prompt, GREEDY)) == old


def test_a_learners_parts_run_inside(folder: Path, oracle: Oracle) -> None:
    taken, steps = [], []

    class OneAtATime(Scheduler):
        def schedule(self) -> SchedulerOutput:
            output = super().schedule()
            assert len(output.num_scheduled_tokens) <= 1
            return output

    class CountingPool(BlockPool):
        def get_new_blocks(self, count: int) -> Any:
            taken.append(count)
            return super().get_new_blocks(count)

    llm = LLM(
        folder,
        dtype="float32",
        num_blocks=8,
        max_num_seqs=1,
        device="cpu",
        scheduler=OneAtATime,
        block_pool=CountingPool,
        on_step=steps.append,
    )
    outputs = llm.generate([[5, 6], [7]], GREEDY)
    assert tokens_of(outputs) == [oracle.greedy((5, 6), 6), oracle.greedy((7,), 6)]
    assert sum(taken) == 2
    assert len(steps) == 12 and all(isinstance(step, Step) for step in steps)
    assert steps[0].plan.num_scheduled_tokens == {"0": 2}
    assert [step.sampled["1"] for step in steps[6:]] == tokens_of(outputs)[1]
    assert all(set(step.seconds) == {"schedule", "run", "sample"} for step in steps)


def test_a_scheduler_that_plans_nothing_is_found_out(folder: Path) -> None:
    class Idle(Scheduler):
        def schedule(self) -> SchedulerOutput:
            return SchedulerOutput(held_back="I am tired")

    llm = LLM(folder, dtype="float32", num_blocks=8, device="cpu", scheduler=Idle)
    with pytest.raises(RuntimeError, match=r"planned nothing.*I am tired"):
        llm.generate([[5, 6]], GREEDY)


def test_default_sampling_is_the_models(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 9], "temperature": 0.6, "top_k": 20}')
    llm = LLM(tmp_path, num_blocks=8, device="cpu")
    assert llm.get_default_sampling_params() == SamplingParams(temperature=0.6, top_k=20)
    assert llm.llm_engine.eos_token_ids == (2, 9)
    assert len(llm.generate("Hello")[0].outputs[0].token_ids) <= 16


def test_everything_prints(llm: LLM) -> None:
    llm.add_request("a", "Once", SamplingParams(temperature=0.0, stop="x", max_tokens=5))
    assert "1 waiting" in repr(llm) and "256 blocks" in repr(llm)
    llm.abort_request("a")
    assert repr(SamplingParams(temperature=0, n=2)) == "SamplingParams(n=2, temperature=0)"
    assert "finish_reason='length'" in repr(llm.generate([random.Random(0).randrange(500)], GREEDY))
