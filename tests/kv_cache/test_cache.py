import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from course_lib.kv_cache import (
    ContiguousCache,
    LockstepCache,
    NoCache,
    Transformer,
    attention,
    generate_with_cache,
    generate_without_cache,
)
from course_lib.kv_cache.probes import Recorder, Stopwatch

PROMPT = st.lists(st.integers(0, 511), min_size=1, max_size=9)
NO_LIMIT = settings(deadline=None, max_examples=25)


@NO_LIMIT
@given(prompt=PROMPT, count=st.integers(0, 8))
def test_same_tokens_with_and_without(tiny: Transformer, prompt: list[int], count: int) -> None:
    cached = generate_with_cache(tiny, prompt, count)
    assert len(cached) == count
    assert cached == generate_without_cache(tiny, prompt, count)


@NO_LIMIT
@given(chunks=st.lists(st.integers(1, 5), min_size=1, max_size=6), seed=st.integers(0, 9))
def test_any_chunks_give_the_same_logits(tiny: Transformer, chunks: list[int], seed: int) -> None:
    tokens = torch.randint(512, (sum(chunks),), generator=torch.Generator().manual_seed(seed))
    positions = torch.arange(len(tokens))
    cache = ContiguousCache.for_model(tiny, len(tokens))
    pieces = [
        tiny(part, place, cache) for part, place in zip(tokens.split(chunks), positions.split(chunks), strict=True)
    ]
    torch.testing.assert_close(torch.cat(pieces), tiny(tokens, positions, NoCache()), atol=1e-4, rtol=1e-4)
    assert cache.length == len(tokens)


@given(chunks=st.lists(st.integers(1, 4), min_size=1, max_size=5), spare=st.integers(0, 3), seed=st.integers(0, 9))
def test_a_slot_holds_its_token(chunks: list[int], spare: int, seed: int) -> None:
    """Shadow state: a plain list of all that was given."""
    layers, chance = 2, torch.Generator().manual_seed(seed)
    cache = ContiguousCache(layers, sum(chunks) + spare, 2, 4)
    shadow: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(layers)]
    for size in chunks:
        for layer in range(layers):
            q, (k, v) = torch.randn(size, 4, 4, generator=chance), torch.randn(2, size, 2, 4, generator=chance)
            shadow[layer].append((k, v))
            keys, values = (torch.cat([pair[i] for pair in shadow[layer]]) for i in (0, 1))
            torch.testing.assert_close(cache.attend(layer, q, k, v), attention(q, keys, values))
            assert torch.equal(cache.keys[layer, : len(keys)], keys)
            assert torch.equal(cache.values[layer, : len(keys)], values)
    assert cache.length == sum(chunks)
    assert not cache.keys[:, cache.length :].any()


@NO_LIMIT
@given(sequences=st.integers(1, 4), prompt=st.integers(1, 5), steps=st.integers(0, 3), seed=st.integers(0, 9))
def test_lockstep_is_each_sequence_alone(tiny: Transformer, sequences: int, prompt: int, steps: int, seed: int) -> None:
    length = prompt + steps
    tokens = torch.randint(512, (sequences, length), generator=torch.Generator().manual_seed(seed))
    cache = LockstepCache(sequences, ContiguousCache.for_model(tiny, length, sequences))
    found = []
    for start, end in [(0, prompt), *((prompt + step, prompt + step + 1) for step in range(steps))]:
        logits = tiny(tokens[:, start:end].flatten(), torch.arange(start, end).repeat(sequences), cache)
        found.append(logits.unflatten(0, (sequences, -1)))
    for mine, row in zip(torch.cat(found, dim=1), tokens, strict=True):
        torch.testing.assert_close(mine, tiny(row, torch.arange(length), NoCache()), atol=1e-4, rtol=1e-4)


def test_full_cache_refuses_and_stays() -> None:
    cache = ContiguousCache(1, 3, 1, 2)
    x = torch.ones(2, 1, 2)
    cache.attend(0, x, x, x)
    with pytest.raises(ValueError, match=r"holds 2 of 3 tokens and 2 more do not fit"):
        cache.attend(0, x, 5 * x, 5 * x)
    assert cache.length == 2 and not cache.keys[0, 2].any()
    cache.attend(0, x[:1], x[:1], x[:1])  # the last slot is usable
    assert cache.length == cache.capacity == 3


def test_bytes_of_the_memory() -> None:
    assert ContiguousCache(3, 5, 2, 8, torch.bfloat16).nbytes == 2 * 3 * 5 * 2 * 8 * 2


def test_nonsense_is_refused(tiny: Transformer) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        ContiguousCache(1, 0, 1, 1)
    with pytest.raises(ValueError, match="3 sequences do not fit"):
        LockstepCache(3, ContiguousCache(1, 4, 4, 2))
    for generate in (generate_with_cache, generate_without_cache):
        with pytest.raises(ValueError, match="prompt is empty"):
            generate(tiny, [], 3)


def test_with_a_cache_each_token_is_computed_once(tiny: Transformer) -> None:
    computed: list[int] = []
    hook = tiny.embed_tokens.register_forward_hook(lambda _module, given, _out: computed.append(len(given[0])))
    generate_with_cache(tiny, [7, 8, 9], 5)
    with_cache, computed[:] = list(computed), []
    generate_without_cache(tiny, [7, 8, 9], 5)
    hook.remove()
    assert with_cache == [3, 1, 1, 1, 1]
    assert computed == [3, 4, 5, 6, 7]


def test_recorder_sees_what_the_model_does(tiny: Transformer) -> None:
    tokens, positions, recorder = torch.arange(4, 9), torch.arange(5), Recorder()
    assert torch.equal(tiny(tokens, positions, recorder), tiny(tokens, positions, NoCache()))
    assert repr(recorder) == "Recorder(5 tokens, 2 layers)"
    cache = ContiguousCache.for_model(tiny, 5)
    tiny(tokens, positions, cache)
    assert torch.equal(torch.stack(recorder.keys), cache.keys) and torch.equal(
        torch.stack(recorder.values), cache.values
    )
    weights = recorder.weights(1)
    assert weights.shape == (4, 5, 5) and torch.equal(weights[:, 0], torch.eye(5)[:1].expand(4, 5))


def test_stopwatch_changes_nothing(tiny: Transformer) -> None:
    tokens, positions, watch = torch.arange(4, 9), torch.arange(5), Stopwatch(NoCache())
    assert torch.equal(tiny(tokens, positions, watch), tiny(tokens, positions, NoCache()))
    assert watch.seconds > 0
