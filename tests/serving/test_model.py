"""The fused model and the grouped attention compute what the lessons' plain ones do."""

import json
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.kv_cache import NoCache, Transformer
from course_lib.paged_attention import PagedKVCache
from course_lib.serving.batch import Batch, Span
from course_lib.serving.cpu_cache import CPUPagedCache, group_by_length
from course_lib.serving.fused_model import FusedTransformer
from course_lib.serving.linear import PackedLinear


def _folder(path: Path, family: str, tied: bool) -> Path:
    """A random model of another family than the tiny policy's, made by transformers."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        family,
        vocab_size=100,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=tied,
    )
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)  # biases too, which start at 0
    model.save_pretrained(path)
    return path


@pytest.mark.parametrize(("family", "tied"), [("llama", True), ("llama", False), ("qwen2", False), ("qwen3", True)])
def test_fused_equals_plain(tmp_path: Path, family: str, tied: bool) -> None:
    folder = _folder(tmp_path, family, tied)
    assert json.loads((folder / "config.json").read_text())["model_type"] == family
    plain, fused = Transformer.load(folder), FusedTransformer(Transformer.load(folder))
    tokens, positions = torch.randint(0, 100, (37,)), torch.arange(37)
    hidden = plain.hidden_states(tokens, positions, NoCache())
    torch.testing.assert_close(fused.hidden_states(tokens, positions, NoCache()), hidden, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(fused.logits(hidden), plain.logits(hidden), rtol=1e-4, atol=1e-4)
    # The model that was merged still works, and loading into it is loading into the merged weights.
    doubled = {name: parameter * 1.5 for name, parameter in plain.named_parameters()}
    plain.load_weights(doubled.items())
    fused.load_weights(doubled.items())
    hidden = plain.hidden_states(tokens, positions, NoCache())
    torch.testing.assert_close(fused.hidden_states(tokens, positions, NoCache()), hidden, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(fused.model.hidden_states(tokens, positions, NoCache()), hidden, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tokens", [1, 5, 33, 400])
def test_packed_linear(tokens: int) -> None:
    weight, bias = torch.randn(96, 64).bfloat16(), torch.randn(96).bfloat16()
    x = torch.randn(tokens, 64).bfloat16()
    linear = PackedLinear(weight, bias)
    want = x.double() @ weight.double().T + bias.double()
    torch.testing.assert_close(linear(x).double(), want, rtol=1e-2, atol=5e-2)
    weight.copy_(torch.randn(96, 64))
    linear.pack()
    torch.testing.assert_close(linear(x).double(), x.double() @ weight.double().T + bias.double(), rtol=1e-2, atol=5e-2)


sequences = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 90), st.just(1)),  # decode
        st.integers(1, 40).map(lambda n: (n, n)),  # a fresh prompt
        st.tuples(st.integers(10, 90), st.integers(1, 10)),  # a chunk
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(sequences, st.sampled_from([1, 4, 16]), st.integers(0, 1000), st.sampled_from([(4, 2), (3, 1), (2, 2)]))
def test_grouped_attention_equals_the_reference(
    shapes: list[tuple[int, int]], block_size: int, seed: int, heads: tuple[int, int]
) -> None:
    (query_heads, kv_heads), rng = heads, random.Random(seed)
    counts = [-(-keys // block_size) for keys, _ in shapes]
    num_blocks = sum(counts) + 1
    free = rng.sample(range(num_blocks), num_blocks)
    tables = [[free.pop() for _ in range(count)] for count in counts]
    spans = [
        Span([rng.randrange(100) for _ in range(keys)], keys - new, keys, table)
        for (keys, new), table in zip(shapes, tables, strict=True)
    ]
    batch = Batch.build(spans, block_size)
    ours = CPUPagedCache(2, num_blocks, block_size, kv_heads, 8)
    reference = PagedKVCache(2, num_blocks, block_size, kv_heads, 8)
    torch.manual_seed(seed)
    ours.kv.normal_()  # what was computed before, and what nobody may read
    reference.kv.copy_(ours.kv)
    ours.begin(batch.metadata, batch.query_lens, batch.seq_lens)
    reference.begin_step(tables, batch.seq_lens, batch.query_lens)
    assert torch.equal(batch.metadata.slot_mapping, reference.metadata.slot_mapping)
    for layer in range(2):
        q = torch.randn(len(batch.tokens), query_heads, 8)
        k, v = torch.randn(2, len(batch.tokens), kv_heads, 8)
        torch.testing.assert_close(ours.attend(layer, q, k, v), reference.attend(layer, q, k, v), rtol=1e-4, atol=1e-5)
    assert torch.equal(ours.kv, reference.kv)
    assert batch.tokens.tolist() == [token for span in spans for token in span.tokens[span.start :]]
    assert batch.positions.tolist() == [p for span in spans for p in range(span.start, span.end)]


def test_only_requests_that_caught_up_sample() -> None:
    spans = [Span([1, 2, 3, 4], 0, 3, [0]), Span([1, 2, 3], 2, 3, [1]), Span([5, 6], 0, 2, [2])]
    batch = Batch.build(spans, 16)
    assert batch.sample_rows.tolist() == [3, 5]
    assert not batch.is_decode and Batch.build(spans[1:2], 16).is_decode


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 60), max_size=40))
def test_groups_partition_and_bound_the_padding(num_blocks: list[int]) -> None:
    from course_lib.serving.cpu_cache import GROUP_COST

    groups = group_by_length(range(len(num_blocks)), num_blocks)
    assert sorted(member for group in groups for member in group) == list(range(len(num_blocks)))
    for group in groups:
        longest = max(num_blocks[member] for member in group)
        assert sum(longest - num_blocks[member] for member in group) <= GROUP_COST


@pytest.mark.parametrize("shapes", [[(5, 1), (18, 1)], [(7, 7), (18, 3), (4, 1)]], ids=["decode", "mixed"])
def test_gpu_cache_equals_the_reference(shapes: list[tuple[int, int]]) -> None:
    """What the GPU runs, in Triton's interpreter: a row of padding, as CUDA graphs have it, included."""
    from course_lib.paged_attention import AttentionMetadata
    from course_lib.serving.gpu_cache import GPUPagedCache

    torch.manual_seed(0)
    tables = [[2, 0], [1, 4], [5, 6]][: len(shapes)]
    spans = [
        Span(list(range(keys)), keys - new, keys, table) for (keys, new), table in zip(shapes, tables, strict=True)
    ]
    batch = Batch.build(spans, 16)
    gpu, reference = (cache(1, 8, 16, 2, 16) for cache in (GPUPagedCache, PagedKVCache))
    reference.kv.normal_()
    gpu.kv.copy_(reference.kv)
    tokens, step, pad = len(batch.tokens), batch.metadata, int(batch.is_decode)
    padded = AttentionMetadata(
        torch.nn.functional.pad(step.block_tables, (0, 0, 0, pad)),
        torch.nn.functional.pad(step.seq_lens, (0, pad)),
        torch.nn.functional.pad(step.query_lens, (0, pad), value=1),
        torch.nn.functional.pad(step.slot_mapping, (0, pad), value=7 * 16),
    )
    q, k, v = torch.randn(tokens + pad, 4, 16), torch.randn(tokens + pad, 2, 16), torch.randn(tokens + pad, 2, 16)
    gpu.begin(padded if pad else step, batch.query_lens, batch.seq_lens)
    reference.begin_step(tables, batch.seq_lens, batch.query_lens)
    found = gpu.attend(0, q, k, v)[:tokens]
    torch.testing.assert_close(found, reference.attend(0, q[:tokens], k[:tokens], v[:tokens]), rtol=1e-4, atol=1e-5)
    assert torch.equal(gpu.kv[:, :, :7], reference.kv[:, :, :7])
