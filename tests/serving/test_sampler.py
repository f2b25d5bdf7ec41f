"""Samples follow the exact distribution; seeds repeat; logprobs are the model's."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.serving import LLM, SamplingParams
from course_lib.serving.sampler import Sampler, SamplingRow, smallest_kept

from .oracle import Oracle, tokens_of


def exact(logits: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """The distribution by definition, one filter after another over all tokens: temperature, min-p, top-k, top-p."""
    probs = (logits.double() / params.temperature).softmax(-1)
    probs[probs < params.min_p * probs.max()] = 0
    order = probs.argsort(descending=True)
    if params.top_k > 0:
        probs[order[params.top_k :]] = 0
    probs /= probs.sum()
    before = probs[order].cumsum(0) - probs[order]
    probs[order[before >= params.top_p]] = 0
    return probs / probs.sum()


def chi_squared(observed: list[int], expected: list[float]) -> float:
    """The probability of counts at least as far from the expected ones, if these are true (Pearson)."""
    distance = sum((o - e) ** 2 / e for o, e in zip(observed, expected, strict=True))
    freedom = torch.tensor((len(expected) - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(freedom, torch.tensor(distance / 2, dtype=torch.float64)))


CASES = [
    {},
    {"temperature": 0.5},
    {"temperature": 1.7},
    {"top_k": 5},
    {"top_p": 0.7},
    {"min_p": 0.1},
    {"top_k": 20, "top_p": 0.6, "temperature": 1.3},
    {"top_k": 30, "min_p": 0.02, "top_p": 0.9, "temperature": 1.5},
    {"top_k": -1, "top_p": 0.95},
]


@pytest.mark.parametrize("options", CASES, ids=str)
@pytest.mark.parametrize("vocab", [60, 3000])  # more than are sorted at first, too
def test_samples_follow_the_distribution(options: dict[str, Any], vocab: int) -> None:
    params = SamplingParams(**options)
    logits = torch.randn(vocab, generator=torch.Generator().manual_seed(3)) * 2.5
    draws = 20_000 if vocab < 100 else 6_000
    want = exact(logits, params)
    sampler, counts = Sampler(seed=7), torch.zeros(vocab, dtype=torch.int64)
    for _ in range(draws // 1000):
        rows = sampler(logits.repeat(1000, 1), [SamplingRow(params)] * 1000)
        counts += torch.bincount(torch.tensor([row.token for row in rows]), minlength=vocab)
    assert int(counts[want == 0].sum()) == 0, "a token was sampled that the filters leave out"
    # Cells with few expected draws are put together, as the chi-squared test asks.
    expected = want * draws
    large = expected >= 8
    observed, hoped = counts[large].tolist(), expected[large].tolist()
    if float(expected[~large].sum()) > 0:
        observed.append(int(counts[~large].sum()))
        hoped.append(float(expected[~large].sum()))
    if len(hoped) > 1:
        assert chi_squared(observed, hoped) > 1e-3


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.integers(0, 10_000),
    st.sampled_from([7, 300, 1025, 2500]),
    st.sampled_from([0, 1, 3, 1023, 1024, 1500]),
    st.sampled_from([1.0, 0.999, 0.9, 0.3, 1e-6]),
    st.sampled_from([0.0, 0.001, 0.2, 1.0]),
    st.sampled_from([0.01, 1.0, 4.0]),
)
def test_filters_keep_what_the_definition_keeps(
    seed: int, vocab: int, top_k: int, top_p: float, min_p: float, spread: float
) -> None:
    params = SamplingParams(top_k=min(top_k, vocab), top_p=top_p, min_p=min_p)
    logits = torch.randn(vocab, generator=torch.Generator().manual_seed(seed)) * spread
    lowest = smallest_kept(
        logits[None],
        torch.tensor([[float(params.top_k or vocab)]]),
        torch.tensor([[top_p]]),
        torch.tensor([[min_p]]),
    )
    got = int((logits >= lowest[0]).sum())
    want = int((exact(logits, params) > 0).sum())
    # Sums of thousands of fp32 numbers are off in the sixth digit, which moves the place of a cut in a flat distribution.
    assert abs(got - want) <= (0 if vocab <= 300 and spread > 1 else 2)


def test_rows_of_a_batch_are_sampled_as_alone() -> None:
    rows = [SamplingParams(**options) for options in CASES] + [SamplingParams(temperature=0)] * 2
    logits = torch.randn(len(rows), 3000, generator=torch.Generator().manual_seed(1))
    sampler = Sampler(0)

    def row(index: int) -> SamplingRow:
        return SamplingRow(rows[index], sampler.make_generator(index))

    together = [got.token for got in sampler(logits, [row(i) for i in range(len(rows))])]
    assert together == [sampler(logits[i : i + 1], [row(i)])[0].token for i in range(len(rows))]
    assert together[-2:] == logits[-2:].argmax(-1).tolist()


def test_forbidden_tokens_do_not_come() -> None:
    logits = torch.tensor([[5.0, 4.0, 0.0], [5.0, 4.0, 0.0]])
    rows = [SamplingRow(SamplingParams(temperature=0), forbidden=(0,)), SamplingRow(SamplingParams(temperature=0))]
    assert [got.token for got in Sampler(0)(logits, rows)] == [1, 0]
    assert logits[0, 0] == 5.0  # the caller's logits are as they were


def test_a_seed_repeats_in_any_batch(make_llm: Any) -> None:
    prompt, params = list(range(10, 40)), SamplingParams(seed=5, max_tokens=20, n=2)
    alone = make_llm().generate(prompt, params)[0]
    others = [SamplingParams(max_tokens=30), params, SamplingParams(temperature=0, max_tokens=9)]
    crowded = make_llm(max_num_batched_tokens=7).generate([prompt[3:], prompt, prompt[:4]], others)[1]
    assert [s.token_ids for s in crowded.outputs] == [s.token_ids for s in alone.outputs]
    assert alone.outputs[0].token_ids != alone.outputs[1].token_ids  # sample i has seed + i
    next_seed = make_llm().generate(prompt, SamplingParams(seed=6, max_tokens=20))[0]
    assert next_seed.outputs[0].token_ids == alone.outputs[1].token_ids


def test_unseeded_samples_differ_and_the_engine_seed_repeats_them(folder: Any) -> None:
    def run(seed: int) -> list[list[int]]:
        llm = LLM(folder, dtype="float32", num_blocks=16, seed=seed, device="cpu")
        return tokens_of(llm.generate([[5, 6, 7]] * 3, SamplingParams(max_tokens=12)))

    first = run(0)
    assert first == run(0) != run(1)
    assert len({tuple(tokens) for tokens in first}) == 3


@pytest.mark.parametrize("mode", ["raw_logprobs", "processed_logprobs"])
def test_logprobs_are_the_models(make_llm: Any, oracle: Oracle, mode: str) -> None:
    llm = make_llm(logprobs_mode=mode)
    prompts = [[5, 9, 11], list(range(20, 60))]
    params = SamplingParams(temperature=0.7, top_k=50, seed=3, max_tokens=12, logprobs=4)
    for prompt, output in zip(prompts, llm.generate(prompts, params), strict=True):
        sample = output.outputs[0]
        logits = oracle.logits([*prompt, *sample.token_ids])[len(prompt) - 1 : -1]
        if mode == "raw_logprobs":
            want = logits.log_softmax(-1)
        else:
            want = torch.stack([exact(row, params) for row in logits]).log().float()
        assert len(sample.logprobs) == len(sample.token_ids)
        total = 0.0
        for row, token, entries in zip(want, sample.token_ids, sample.logprobs, strict=True):
            best = row.topk(4)
            assert next(iter(entries)) == token  # the sampled one first
            assert set(entries) == {token, *best.indices.tolist()}
            for each, entry in entries.items():
                assert entry.logprob == pytest.approx(float(row[each]), abs=1e-4)
                assert entry.rank == int((row >= row[each]).sum())
                assert entry.decoded_token == llm.get_tokenizer().decode([each])
            total += entries[token].logprob
        assert sample.cumulative_logprob == pytest.approx(total)


def test_logprobs_zero_is_the_sampled_token_alone(llm: LLM) -> None:
    sample = llm.generate([5, 6], SamplingParams(logprobs=0, max_tokens=3))[0].outputs[0]
    assert [list(entries) for entries in sample.logprobs] == [[token] for token in sample.token_ids]
    assert llm.generate([5, 6], SamplingParams(max_tokens=3))[0].outputs[0].cumulative_logprob is None


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="logprobs_mode"):
        Sampler(0, logprobs_mode="raw")  # type: ignore[arg-type]
