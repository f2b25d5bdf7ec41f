"""The GPU's kernels, in Triton's interpreter, against the operations that they stand for."""

import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812  its name everywhere

from course_lib.kv_cache.rope import rotate, rotation
from course_lib.kv_cache.transformer import Transformer
from course_lib.serving import SamplingParams
from course_lib.serving.batch import Batch, Span
from course_lib.serving.fused_model import FusedTransformer
from course_lib.serving.gpu_cache import GPUPagedCache
from course_lib.serving.gpu_draw import CHUNK, draw_tokens, uniform
from course_lib.serving.gpu_kernels import add_rms_norm, rotate_and_store, silu_mul
from course_lib.serving.gpu_model import GPUTransformer
from course_lib.serving.gpu_sampler import GPUSampler
from course_lib.serving.sampler import SamplingRow

from .test_sampler import chi_squared

DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def close(got: torch.Tensor, want: torch.Tensor) -> None:
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 4e-2}[got.dtype]
    torch.testing.assert_close(got, want.to(got.dtype), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [8, 24, 576])
def test_add_rms_norm(dtype: torch.dtype, size: int) -> None:
    x, residual = torch.randn(2, 5, size).to(dtype)
    weight, total = torch.randn(size).to(dtype), x + residual
    out, kept = add_rms_norm(x, residual, weight, 1e-5)
    assert kept is residual
    close(kept, total)  # not equal: where a GPU rounds to bf16, Triton's interpreter cuts off
    close(out, F.rms_norm(total.float(), (size,), weight.float(), 1e-5))
    out, kept = add_rms_norm(x, None, weight, 1e-5)
    assert kept is x
    close(out, F.rms_norm(x.float(), (size,), weight.float(), 1e-5))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [16, 1500])
def test_silu_mul(dtype: torch.dtype, size: int) -> None:
    x = torch.randn(3, 2 * size).to(dtype) * 3
    gate, up = x.float().chunk(2, dim=-1)
    close(silu_mul(x), F.silu(gate) * up)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(4, 2, 16), (9, 3, 8), (2, 2, 12), (1, 1, 4)])
def test_rotate_and_store(dtype: torch.dtype, normed: bool, heads: int, kv_heads: int, head_dim: int) -> None:
    tokens, slots = 6, torch.tensor([3, 17, 0, 8, 9, 23], dtype=torch.int32)
    positions = torch.tensor([0, 1, 400, 7, 8, 30], dtype=torch.int32)
    frequencies = 1.0 / 10000 ** (torch.arange(0, head_dim, 2) / head_dim)
    cos, sin = rotation(torch.arange(512), frequencies, torch.float32)
    qkv = torch.randn(tokens, heads + 2 * kv_heads, head_dim).to(dtype)
    q, k, v = qkv.float().split((heads, kv_heads, kv_heads), dim=1)
    weights = torch.randn(2, head_dim).to(dtype)
    if normed:
        q = F.rms_norm(q, (head_dim,), weights[0].float(), 1e-6)
        k = F.rms_norm(k, (head_dim,), weights[1].float(), 1e-6)
    turned = [rotate(x, cos[positions.long()], sin[positions.long()]) for x in (q, k)]
    keys, values = torch.full((2, 6, 4, kv_heads, head_dim), 7.0).to(dtype)
    got = rotate_and_store(
        qkv, keys, values, slots, positions, torch.cat((cos, sin), -1)[:, 0], (*weights, 1e-6) if normed else None
    )
    close(got, turned[0])
    close(keys.flatten(0, 1)[slots.long()], turned[1])
    assert torch.equal(values.flatten(0, 1)[slots.long()], v.to(dtype))
    others = sorted(set(range(24)) - set(slots.tolist()))
    assert (keys.flatten(0, 1)[others] == 7).all() and (values.flatten(0, 1)[others] == 7).all()


@pytest.mark.skipif(torch.cuda.is_available(), reason="test_gpu.py asks the GPU itself")
def test_the_model_of_kernels_is_the_model(folder: Path) -> None:
    model = FusedTransformer(Transformer.load(folder))
    config, rng = model.config, random.Random(0)
    layers = GPUTransformer(model, 64)
    caches = [GPUPagedCache(config.layers, 12, 4, config.kv_heads, config.head_dim) for _ in range(2)]
    tables = [[3, 5, 0], [7, 1, 2, 4]]
    tokens = [[rng.randrange(3, 400) for _ in range(count)] for count in (9, 14)]
    # A whole prompt beside a part of one; then the rest of it beside a decode.
    for ends in ([(0, 8), (0, 11)], [(8, 9), (11, 14)]):
        spans = [Span(known, *end, table) for known, end, table in zip(tokens, ends, tables, strict=True)]
        batch = Batch.build(spans, 4)
        found = []
        for run, cache in zip((model.hidden_states, layers), caches, strict=True):
            cache.begin(batch.metadata, batch.query_lens, batch.seq_lens)
            with torch.inference_mode():
                found.append(run(batch.tokens, batch.positions, cache))
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(caches[0].kv, caches[1].kv, rtol=1e-4, atol=1e-4)


def splitmix(key: int, count: int) -> int:
    """SplitMix64's `count`-th number, from 0, as in its paper (figure 16)."""
    wide = 2**64
    bits = (key + (count + 1) * 0x9E3779B97F4A7C15) % wide
    bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9 % wide
    bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB % wide
    return bits ^ (bits >> 31)


@given(st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**20)), min_size=1, max_size=300))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_uniform_numbers_are_splitmix64(rows: list[tuple[int, int]]) -> None:
    keys, positions = zip(*rows, strict=True)
    got = uniform(torch.tensor(keys), torch.tensor(positions, dtype=torch.int32))
    want = [[(splitmix(key, 2 * at + which) >> 40) / 2**24 for which in (0, 1)] for key, at in rows]
    assert got.tolist() == want


@pytest.mark.parametrize(("vocab", "temperature"), [(5, 1.0), (2 * CHUNK + 70, 0.5), (CHUNK, 2.0)])
def test_draws_follow_the_distribution(vocab: int, temperature: float) -> None:
    draws = 400
    logits = torch.randn(vocab, generator=torch.Generator().manual_seed(vocab)) * 3
    chance = torch.rand(draws, 2, generator=torch.Generator().manual_seed(1))
    factors, greedy = torch.full((draws,), 1 / temperature), torch.zeros(draws, dtype=torch.bool)
    tokens, logprobs = draw_tokens(logits.expand(draws, -1), factors, greedy, chance)
    exact = (logits / temperature).log_softmax(-1)
    torch.testing.assert_close(logprobs, exact[tokens], rtol=1e-5, atol=1e-5)
    expected = exact.exp() * draws
    large, counts = expected >= 8, torch.bincount(tokens, minlength=vocab)
    observed, hoped = counts[large].tolist(), expected[large].tolist()
    if float(expected[~large].sum()) > 0:
        observed.append(int(counts[~large].sum()))
        hoped.append(float(expected[~large].sum()))
    assert chi_squared(observed, hoped) > 1e-3


@given(
    st.integers(0, 10_000),
    st.sampled_from([1, 7, CHUNK, CHUNK + 1]),
    st.floats(0, 1 - 2**-24),
    st.floats(0, 1 - 2**-24),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_draw_is_a_token_that_can_come(seed: int, vocab: int, first: float, second: float) -> None:
    chance = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, vocab, generator=chance)
    forbidden = torch.rand(3, vocab, generator=chance) < 0.9
    forbidden[range(3), torch.randint(vocab, (3,), generator=chance)] = False
    logits[forbidden] = -torch.inf
    factors, greedy = torch.tensor([1.0, 100.0, 1.0]), torch.tensor([True, False, False])
    tokens, logprobs = draw_tokens(logits, factors, greedy, torch.tensor([[first, second]] * 3))
    assert not forbidden[range(3), tokens].any()
    assert logits[0, tokens[0]] == logits[0].max()
    assert torch.isfinite(logprobs).all()


def test_rows_that_are_not_simple_take_the_other_way() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    sampler = GPUSampler(0)
    simple = [SamplingRow(SamplingParams(temperature=t, logprobs=0)) for t in (0, 1, 1)]
    greedy, *_ = sampler(logits, simple)
    assert greedy.token == int(logits[0].argmax()) and greedy.logprobs is not None
    assert greedy.logprobs[greedy.token].rank == 1
    (one,) = sampler(logits[1:2], [SamplingRow(SamplingParams(top_k=1))])
    assert one.token == int(logits[1].argmax())
    (forbidden,) = sampler(logits[:1], [SamplingRow(SamplingParams(temperature=0), forbidden=(greedy.token,))])
    assert forbidden.token != greedy.token


def test_a_seed_repeats_in_any_batch_and_at_any_step() -> None:
    logits = torch.randn(40, 300, generator=torch.Generator().manual_seed(0))
    sampler, params = GPUSampler(3), SamplingParams(logprobs=0)
    rows = [SamplingRow(params, sampler.make_generator(index)) for index in range(40)]
    positions = torch.arange(40, dtype=torch.int32)
    together = sampler.launch(logits, rows, positions).result()
    for index in (0, 7, 39):
        alone = sampler.launch(logits[index : index + 1], [rows[index]], positions[index : index + 1]).result()
        assert alone == [together[index]]
    later = sampler.launch(logits, rows, positions + 1).result()
    assert sum(one.token != other.token for one, other in zip(together, later, strict=True)) > 20
    want = logits.log_softmax(-1)[range(40), [one.token for one in together]]
    assert [one.logprobs[one.token].logprob for one in together if one.logprobs] == pytest.approx(
        want.tolist(), abs=1e-5
    )


def test_rows_without_a_seed_draw_anew_in_each_step() -> None:
    logits = torch.zeros(200, 1000)
    sampler, rows = GPUSampler(0), [SamplingRow(SamplingParams())] * 200
    steps = [[one.token for one in sampler.launch(logits, rows, torch.full((200,), at)).result()] for at in (5, 6)]
    assert len(set(steps[0])) > 150  # rows do not draw the same
    assert steps[0] != steps[1]
    again = GPUSampler(0)
    assert [one.token for one in again.launch(logits, rows, torch.full((200,), 5)).result()] == steps[0]
