"""vLLM and our engine behind DeepSpeed's interface: whose rows, which seeds, what logprobs, where a response ends."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from deepspeed.runtime.rollout import RolloutBatch, RolloutEngine
from deepspeed.runtime.rollout import SamplingConfig as DeepSpeedSamplingConfig
from transformers import AutoModelForCausalLM

from course_lib.models import PolicyError
from course_lib.models.tiny import END
from course_lib.rl import EngineRollout, Rollout, RolloutError, SamplingConfig, VLLMRollout
from course_lib.rl.rollout import request
from course_lib.rl.rollout_engine import PolicyRollout, sampling_options
from course_lib.training import PolicyTrainer

pytestmark = pytest.mark.slow
PROMPTS = [[1, 40, 50, 60, 70], [1, 45, 55], [1, 41, 51, 61, 71, 81, 91]]


@pytest.fixture(scope="module", autouse=True)
def equal(equalize: Callable[[PolicyTrainer], PolicyTrainer], make_trainer: Callable[[], PolicyTrainer]) -> None:
    """The shared vLLM has been through other tests: give it the folder's weights."""
    equalize(make_trainer())


@pytest.fixture(scope="module", params=[VLLMRollout, EngineRollout])
def rollouts(request: Any, engine: VLLMRollout, tiny: Path) -> Iterator[PolicyRollout]:
    if request.param is VLLMRollout:
        yield engine
        return
    ours = EngineRollout(tiny, kv_cache_bytes=64 << 20)
    yield ours
    ours.shutdown()


def same_rows(left: Rollout, right: Rollout, rows: int) -> int:
    return sum(a == b for a, b in zip(left.responses()[:rows], right.responses()[:rows], strict=True))


def test_is_deepspeeds_interface(rollouts: PolicyRollout) -> None:
    assert isinstance(rollouts, RolloutEngine)
    batch = rollouts.generate(request(PROMPTS), DeepSpeedSamplingConfig(max_new_tokens=4))
    assert isinstance(batch, RolloutBatch)
    assert batch.input_ids.shape == batch.attention_mask.shape
    assert batch.response_start_idx.tolist() == [7, 7, 7]


def test_samples_of_a_prompt_come_together(rollouts: PolicyRollout) -> None:
    rollout = rollouts.generate(request(PROMPTS), SamplingConfig(max_new_tokens=6, n_samples_per_prompt=3, seed=1))
    assert rollout.prompts() == [prompt for prompt in PROMPTS for _ in range(3)]
    assert [len(response) for response in rollout.responses()] == rollout.response_lengths.tolist()
    assert len({tuple(response) for response in rollout.responses()}) == 9  # siblings differ too


def test_the_prompt_conditions_its_own_rows(rollouts: PolicyRollout, tiny: Path) -> None:
    """Rows in the wrong order would have logprobs of another prompt's continuation."""
    rollout = rollouts.generate(request(PROMPTS), SamplingConfig(max_new_tokens=12, n_samples_per_prompt=2, seed=1))
    assert gap(rollout, tiny, 1.0) < 0.05
    rollout.input_ids[:, :7] = rollout.input_ids[:, :7].roll(2, dims=0)
    rollout.attention_mask[:, :7] = rollout.attention_mask[:, :7].roll(2, dims=0)
    assert gap(rollout, tiny, 1.0) > 0.2


def gap(rollout: Rollout, folder: Path, temperature: float) -> float:
    """Mean |difference| of the sampler's logprobs to transformers' on each sample alone, in nats."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    gaps = []
    for prompt, response, found in zip(rollout.prompts(), rollout.responses(), rollout.logprobs, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        wanted = torch.log_softmax(logits / temperature, dim=-1)[range(len(response)), response]
        gaps.append((wanted - found[: len(response)]).abs())
    return float(torch.cat(gaps).mean())


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_equal_transformers(rollouts: PolicyRollout, tiny: Path, temperature: float) -> None:
    sampling = SamplingConfig(max_new_tokens=24, temperature=temperature, n_samples_per_prompt=4, seed=3)
    rollout = rollouts.generate(request(PROMPTS), sampling)
    assert gap(rollout, tiny, temperature) < 0.05
    assert gap(rollout, tiny, temperature + 0.3) > 0.1


def test_seeds_decide_the_samples(rollouts: PolicyRollout) -> None:
    def draw(seed: int | None) -> list[list[int]]:
        sampling = SamplingConfig(max_new_tokens=8, n_samples_per_prompt=2, seed=seed)
        return rollouts.generate(request(PROMPTS), sampling).responses()

    assert draw(5) == draw(5)
    assert all(one != other for one, other in zip(draw(5), draw(6), strict=True))
    assert draw(None) != draw(None)


@pytest.mark.parametrize("others", [0, 3])
def test_what_the_loop_does_not_use_is_switched_off_and_the_samples_are_the_same(
    engine: VLLMRollout, monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    """vLLM's usual form, a dict of each token, has the same tokens and logprobs; beside likelier tokens too."""
    from vllm import SamplingParams

    sampling = SamplingConfig(max_new_tokens=12, temperature=0.8, n_samples_per_prompt=4, seed=5)
    found = engine.generate(request(PROMPTS), sampling)
    flat = type(engine)._params
    assert flat(engine, sampling, 0).flat_logprobs

    def plain(_: VLLMRollout, sampling: DeepSpeedSamplingConfig, row: int) -> SamplingParams:
        return SamplingParams(**sampling_options(sampling, row) | {"logprobs": others, "detokenize": True})

    monkeypatch.setattr(VLLMRollout, "_params", plain)
    usual = engine.generate(request(PROMPTS), sampling)
    assert len(set(map(tuple, found.responses()))) > 1
    for name in ("input_ids", "attention_mask", "response_lengths", "logprobs", "finished"):
        assert torch.equal(getattr(found, name), getattr(usual, name)), name

    def flat_with_others(rollout: VLLMRollout, sampling: DeepSpeedSamplingConfig, row: int) -> SamplingParams:
        params = flat(rollout, sampling, row)
        params.logprobs = others
        return params

    monkeypatch.setattr(VLLMRollout, "_params", flat_with_others)
    assert torch.equal(engine.generate(request(PROMPTS), sampling).logprobs, found.logprobs)


def test_a_sample_does_not_depend_on_its_batch(rollouts: PolicyRollout) -> None:
    sampling = SamplingConfig(max_new_tokens=12, n_samples_per_prompt=4, seed=5)
    whole, alone = (rollouts.generate(request(prompts), sampling) for prompts in (PROMPTS, PROMPTS[:1]))
    # Not all four: another batch shape may round a bf16 sum the other way and so move a sample over an edge.
    assert same_rows(whole, alone, 4) >= 2


def test_greedy_samples_are_all_the_same(rollouts: PolicyRollout) -> None:
    sampling = SamplingConfig(max_new_tokens=8, temperature=0.0, n_samples_per_prompt=2)
    rows = rollouts.generate(request(PROMPTS), sampling).responses()
    assert rows[0] == rows[1] != rows[2]


@pytest.fixture(scope="module")
def endless(rollouts: PolicyRollout) -> Rollout:
    """Long samples through the end-of-sequence token, padded with that very token."""
    sampling = SamplingConfig(max_new_tokens=64, n_samples_per_prompt=24, seed=7, stop_at_eos=False)
    rollout = rollouts.generate(request(PROMPTS, pad_id=END), sampling)
    assert sum(END in response[:-1] for response in rollout.responses()) >= 2, (
        "no sample has what these tests are about"
    )
    return rollout


def test_end_token_in_mid_response_is_a_token(endless: Rollout) -> None:
    assert endless.response_lengths.tolist() == [64] * 72
    assert bool(endless.response_mask.all())
    assert not bool(endless.finished.any())
    assert endless.prompts() == [prompt for prompt in PROMPTS for _ in range(24)]
    inside = endless.input_ids[:, 7:] == END
    assert bool((endless.logprobs[inside] < 0).all())  # each has its own logprob


def test_a_response_keeps_the_end_token_it_sampled(rollouts: PolicyRollout, endless: Rollout) -> None:
    sampling = SamplingConfig(max_new_tokens=64, n_samples_per_prompt=24, seed=7)
    rollout = rollouts.generate(request(PROMPTS, pad_id=END), sampling)
    ended = [response[-1] == END for response in rollout.responses()]
    assert rollout.finished.tolist() == ended
    assert any(ended) and not all(ended)
    assert not any(END in response[:-1] for response in rollout.responses())
    after = ~rollout.response_mask
    assert not bool(rollout.logprobs[after].any())
    assert not bool(rollout.attention_mask[:, 7:][after].any())
    # The same seeds gave the same tokens up to there, as far as bf16 allows.
    pairs = zip(rollout.responses(), endless.responses(), strict=True)
    assert sum(short == long[: len(short)] for short, long in pairs) >= 36


def test_more_prompts_than_one_engine_step_takes(rollouts: PolicyRollout) -> None:
    """220 prompts of 60 tokens are over the 8192 of a step: one that were prefilled in parts would lose its seed."""
    chance = torch.Generator().manual_seed(0)
    prompts = torch.randint(3, 500, (220, 60), generator=chance).tolist()
    sampling = SamplingConfig(max_new_tokens=4, seed=1)
    rollout = rollouts.generate(request(prompts), sampling)
    assert rollout.prompts() == prompts
    assert rollout.response_lengths.tolist() == [4] * 220 or bool(rollout.finished.any())
    assert same_rows(rollout, rollouts.generate(request(prompts), sampling), 220) >= 200


def test_too_long_a_prompt(rollouts: PolicyRollout) -> None:
    with pytest.raises(RolloutError, match=r"505 tokens and max_new_tokens=8 .*max_model_len=512"):
        rollouts.generate(request([[5] * 505, [5]]), SamplingConfig(max_new_tokens=8))
    assert len(rollouts.generate(request([[5] * 504]), SamplingConfig(max_new_tokens=8)).responses()) == 1


@pytest.mark.parametrize("prompts", [[], [[]], [[1], []]])
def test_no_prompt(prompts: list[list[int]]) -> None:
    with pytest.raises(RolloutError, match="at least one"):
        request(prompts)


def test_weights_do_not_come_by_themselves(rollouts: PolicyRollout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollouts, "weight_sync", None)
    with pytest.raises(RolloutError, match="WeightSync"):
        rollouts.sync_weights(1)


@pytest.mark.parametrize("kind", [VLLMRollout, EngineRollout])
def test_a_folder_that_is_no_model(tmp_path: Path, kind: Any) -> None:
    with pytest.raises((RolloutError, PolicyError)) as caught:
        kind(tmp_path, kv_cache_bytes=16 << 20)
    assert tmp_path.name in str(caught.value)


@pytest.mark.parametrize("kind", [VLLMRollout, EngineRollout])
def test_a_cache_that_holds_nothing(tiny: Path, kind: Any) -> None:
    with pytest.raises(RolloutError, match="kv_cache_bytes"):
        kind(tiny, kv_cache_bytes=1 << 10)


def test_a_slice_of_a_batch_draws_the_batchs_samples(rollouts: PolicyRollout) -> None:
    """Two ranks that generate a prompt each of one batch must draw what one rank would draw."""
    sampling = {"max_new_tokens": 12, "n_samples_per_prompt": 4, "seed": 5}
    whole = rollouts.generate(request(PROMPTS), SamplingConfig(**sampling)).responses()
    for first in (1, 2):
        part = rollouts.generate(
            request(PROMPTS[first:]), SamplingConfig(**sampling, first_sample=4 * first)
        ).responses()
        # Not all: another batch shape may round a bf16 sum the other way.
        assert sum(map(list.__eq__, part, whole[4 * first :])) >= len(part) // 2
        assert not any(map(list.__eq__, part, whole[: len(part)]))


def test_the_engine_is_watched_between_its_steps(rollouts: PolicyRollout) -> None:
    seen: list[tuple[int, int, float]] = []
    sampling = SamplingConfig(max_new_tokens=8, n_samples_per_prompt=3, seed=1, stop_at_eos=False)
    watched = rollouts.generate(request(PROMPTS), sampling, on_step=lambda *now: seen.append(now))
    assert watched.responses() == rollouts.generate(request(PROMPTS), sampling).responses()
    running, waiting, used = zip(*seen, strict=True)
    assert len(seen) >= 8
    assert running[:7] == (9,) * 7
    assert running[-1] == 0
    assert not any(waiting)
    assert all(0 < share < 1 for share in used[:7])
    assert used[-1] == 0


@pytest.mark.parametrize(
    ("error", "raised", "said"),
    [
        (KeyError("block 7"), RolloutError, "failed while generating .*KeyError.*block 7"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), RolloutError, "kv_cache_bytes"),
        (MemoryError(), RolloutError, "samples_per_prompt"),
        (KeyboardInterrupt("stop"), KeyboardInterrupt, "stop"),
    ],
)
def test_what_breaks_a_call_does_not_outlive_it(
    rollouts: PolicyRollout, error: BaseException, raised: type[BaseException], said: str
) -> None:
    """Requests of a call that failed would come out of the next one, beside its own."""
    sampling = SamplingConfig(max_new_tokens=6, n_samples_per_prompt=2, seed=1, stop_at_eos=False)
    before = rollouts.generate(request(PROMPTS), sampling)
    steps = iter(range(3))

    def breaks(*_: float) -> None:
        if next(steps) == 2:
            raise error

    with pytest.raises(raised, match=said):
        rollouts.generate(request(PROMPTS), sampling, on_step=breaks)
    after = rollouts.generate(request(PROMPTS), sampling)
    assert after.prompts() == before.prompts()
    assert same_rows(before, after, 6) >= 4
    assert math.isclose(float(after.logprobs.sum()), float(before.logprobs.sum()), rel_tol=0.1)


@pytest.mark.parametrize("kind", [VLLMRollout, EngineRollout])
def test_shutdown_twice(tiny: Path, engine: VLLMRollout, make_trainer: Any, train: Any, kind: Any) -> None:
    other: Any = kind(tiny, kv_cache_bytes=16 << 20)
    other.shutdown()
    other.shutdown()
    with pytest.raises(RolloutError, match="shut down"):
        other.generate(request(PROMPTS), SamplingConfig(max_new_tokens=2))
    assert engine.generate(request(PROMPTS), SamplingConfig(max_new_tokens=2)).responses()
    train(make_trainer())  # the neighbours still work
    assert "tiny" in repr(other)
