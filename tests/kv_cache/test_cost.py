from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_lib.kv_cache import (
    HARDWARE,
    MODELS,
    ContiguousCache,
    Cost,
    Hardware,
    ModelShape,
    Transformer,
    kv_bytes_per_token,
    sequence_cost,
    step_cost,
    weight_bytes,
)
from course_lib.kv_cache.batching import Turn, slot_use, static_batches
from course_lib.kv_cache.cost import listed_hardware
from course_lib.kv_cache.measure import count_step, measure_hardware, time_step
from course_lib.models import describe

KIB = {
    "SmolLM2-135M": 22.5,
    "Qwen3-0.6B": 112,
    "Qwen3-4B": 144,
    "Llama-3.1-8B": 128,
    "OPT-13B": 800,
    "Llama-3.1-70B": 320,
}
# As their cards give them; OPT's also counts 10 M position embeddings.
PARAMETERS = {
    "SmolLM2-135M": 134.5e6, "Qwen3-0.6B": 0.596e9, "Qwen3-4B": 4.02e9, "Llama-3.1-8B": 8.03e9, "OPT-13B": 12.85e9,
    "Llama-3.1-70B": 70.55e9,
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_known_models(name: str) -> None:
    shape = MODELS[name]
    assert kv_bytes_per_token(shape) == KIB[name] * 1024
    assert shape.parameters == pytest.approx(PARAMETERS[name], rel=2e-3)
    assert weight_bytes(shape, 4) == 4 * shape.parameters


def test_shape_of_a_folder_and_of_an_opt_config(tiny_folder: Path) -> None:
    from transformers import OPTConfig

    shape, said = ModelShape.from_config(tiny_folder), describe(tiny_folder)
    assert kv_bytes_per_token(shape) == said.kv_bytes_per_token
    assert shape.parameters == pytest.approx(said.parameters, rel=2e-3)
    opt = OPTConfig(vocab_size=50272, hidden_size=5120, num_hidden_layers=40, ffn_dim=20480, num_attention_heads=40)
    assert ModelShape.from_config(opt.to_dict(), "OPT-13B") == MODELS["OPT-13B"]
    with pytest.raises(ValueError, match="num_attention_heads"):
        ModelShape.from_config({})


def test_a_real_cache_has_these_bytes(tiny: Transformer, tiny_folder: Path) -> None:
    shape = ModelShape.from_config(tiny_folder)
    assert ContiguousCache.for_model(tiny, 7).nbytes == 7 * kv_bytes_per_token(shape, bytes_per_number=4)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_vllm_counts_the_same_bytes(name: str) -> None:
    from vllm.v1.kv_cache_interface import FullAttentionSpec

    shape = MODELS[name]
    spec = FullAttentionSpec(block_size=16, num_kv_heads=shape.kv_heads, head_size=shape.head_dim, dtype=torch.bfloat16)
    assert spec.page_size_bytes * shape.layers == 16 * kv_bytes_per_token(shape)


@pytest.mark.parametrize(
    ("new", "context", "batch"), [(1, 2, 1), (1, 9, 1), (9, 9, 1), (3, 9, 1), (1, 5, 4), (3, 6, 2)]
)
def test_pytorch_counts_the_same_flops(
    tiny: Transformer, tiny_folder: Path, new: int, context: int, batch: int
) -> None:
    cost = step_cost(ModelShape.from_config(tiny_folder), new, context, batch)
    assert count_step(tiny, new, context, batch) == (cost.projection_flops, cost.attention_flops)


def test_pytorch_counts_the_same_flops_without_tied_embeddings(saved: Callable[[Any], tuple[Any, Path]]) -> None:
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=50, hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=3, head_dim=8, tie_word_embeddings=False,
    )  # fmt: skip
    model, folder = saved(config)
    shape, cost = ModelShape.from_config(folder), step_cost(ModelShape.from_config(folder), 2, 7)
    assert shape.parameters == sum(p.numel() for p in model.parameters() if p.ndim > 1)
    assert count_step(Transformer.load(folder), 2, 7) == (cost.projection_flops, cost.attention_flops)


SHAPES = st.sampled_from(list(MODELS.values()))


@given(shape=SHAPES, context=st.integers(2, 4000), times=st.integers(2, 9))
def test_what_grows_and_what_does_not(shape: ModelShape, context: int, times: int) -> None:
    """With a cache: projections O(1), attention O(T) a token; without: O(T) and O(T^2)."""
    head = 2 * shape.head_weights
    cached, longer = step_cost(shape, 1, context), step_cost(shape, 1, times * context)
    assert longer.projection_flops == cached.projection_flops
    assert longer.attention_flops == times * cached.attention_flops
    naive, naive_longer = step_cost(shape, context, context), step_cost(shape, times * context, times * context)
    assert naive_longer.projection_flops - head == times * (naive.projection_flops - head)
    assert naive_longer.attention_flops == times**2 * naive.attention_flops


@given(shape=SHAPES, context=st.integers(1, 4000), batch=st.integers(1, 500))
def test_a_batch_shares_weights_and_nothing_else(shape: ModelShape, context: int, batch: int) -> None:
    alone, together = step_cost(shape, 1, context), step_cost(shape, 1, context, batch)
    assert together.flops == batch * alone.flops
    assert together.kv_bytes == batch * alone.kv_bytes == batch * (context + 1) * kv_bytes_per_token(shape)
    assert together.weight_bytes == alone.weight_bytes < weight_bytes(shape) + 1


@given(prompt=st.integers(1, 50), new=st.integers(1, 20))
def test_a_sequence_is_its_steps(prompt: int, new: int) -> None:
    shape = MODELS["Qwen3-0.6B"]
    decodes = [step_cost(shape, 1, prompt + step) for step in range(1, new)]
    assert sequence_cost(shape, prompt, new, cached=True) == sum(decodes, step_cost(shape, prompt, prompt))
    again = [step_cost(shape, prompt + step, prompt + step) for step in range(new)]
    assert sequence_cost(shape, prompt, new, cached=False) == sum(again, Cost())


@given(flops=st.floats(1e9, 1e15), bandwidth=st.floats(1e9, 1e13), intensity=st.floats(0.1, 1e4))
def test_roofline(flops: float, bandwidth: float, intensity: float) -> None:
    machine = Hardware("drawn", flops, bandwidth)
    assert machine.attainable(intensity) == pytest.approx(flops if intensity > machine.ridge else intensity * bandwidth)
    cost = Cost(projection_flops=round(intensity * 10**9), kv_bytes=10**9)
    assert cost.flops / machine.seconds(cost) == pytest.approx(machine.attainable(cost.intensity))


def test_ridges_of_the_data_sheets() -> None:
    assert {name: round(HARDWARE[name].ridge) for name in ("H200 SXM", "H100 SXM", "A100 80GB SXM")} == {
        "H200 SXM": 206,
        "H100 SXM": 295,
        "A100 80GB SXM": 153,
    }


@pytest.mark.parametrize(("new", "context", "batch"), [(0, 1, 1), (3, 2, 1), (1, 1, 0)])
def test_impossible_steps(new: int, context: int, batch: int) -> None:
    with pytest.raises(ValueError, match="1 <= new_tokens <= context"):
        step_cost(MODELS["Qwen3-4B"], new, context, batch)


def test_measuring(tiny: Transformer) -> None:
    time = time_step(tiny, 1, 16, batch=2, repeats=1)
    assert (time.new_tokens, time.context, time.batch) == (1, 16, 2)
    assert 0 < time.attention_seconds < time.seconds
    assert time.other_seconds == pytest.approx(time.seconds - time.attention_seconds)
    machine = measure_hardware()
    assert 1e8 < machine.bandwidth < machine.flops < 1e14


@given(
    requests=st.lists(st.tuples(st.integers(0, 20), st.integers(1, 20)), min_size=1, max_size=12),
    size=st.integers(1, 5),
)
def test_static_batches(requests: list[tuple[int, int]], size: int) -> None:
    arrivals, lengths = sorted(arrival for arrival, _ in requests), [length for _, length in requests]
    turns = static_batches(arrivals, lengths, size)
    assert [turn.end - turn.start for turn in turns] == lengths
    for first in range(0, len(turns), size):
        batch = turns[first : first + size]
        assert len({(turn.start, turn.batch_end) for turn in batch}) == 1
        assert batch[0].start == max([turn.arrival for turn in batch] + [turn.batch_end for turn in turns[:first]])
        assert batch[0].batch_end == max(turn.end for turn in batch)
    assert 0 < slot_use(turns) <= 1


def test_slot_use() -> None:
    assert slot_use([Turn(0, 0, 0, 3, 6), Turn(1, 0, 0, 6, 6)]) == 0.75
    with pytest.raises(ValueError, match="in order"):
        static_batches([3, 1], [1, 1], 2)


@pytest.mark.parametrize(
    ("gpu", "name"),
    [
        ("NVIDIA H200", "H200 SXM"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA L40", None),
    ],
)
def test_a_gpu_is_listed_by_its_drivers_name(gpu: str, name: str | None) -> None:
    found = listed_hardware(gpu)
    assert (found and found.name) == name
