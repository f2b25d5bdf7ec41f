"""The kernel equals the gather reference; on a CPU it is Triton's interpreter that runs it."""

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from course_lib.paged_attention.attention import paged_attention
from course_lib.paged_attention.triton_attention import triton_paged_attention
from course_lib.paged_attention.triton_launch import Launch
from course_lib.paged_attention.triton_naive import naive_paged_attention

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SAME = 1e-6 if DEVICE == "cpu" else 1e-5  # a GPU's exp2 is good to 22 bits
TOLERANCE = {torch.float32: 2 * SAME, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
INDICES = (torch.int32, torch.int64)


@dataclasses.dataclass(frozen=True)
class Case:
    """What a batch is drawn from: (keys, new tokens) of each sequence, and the shapes."""

    sequences: tuple[tuple[int, int], ...]
    kv_heads: int = 2
    group: int = 2
    head_dim: int = 16
    block_size: int = 16
    dtype: torch.dtype = torch.float32
    index: torch.dtype = torch.int32
    seed: int = 0

    def arguments(self) -> dict[str, Any]:
        """Return arguments of which everything that must not be read is a trap: NaN in slots, nonsense in tables."""
        random = torch.Generator().manual_seed(self.seed)
        blocks = [-(-keys // self.block_size) for keys, _ in self.sequences]
        pool = torch.randperm(sum(blocks) + 2, generator=random)
        tables = torch.full((len(blocks), max(blocks) + 1), 10**9, dtype=self.index)
        tables[:, -1] = -7
        cache = torch.full((2, len(pool), self.block_size, self.kv_heads, self.head_dim), torch.nan, dtype=self.dtype)
        for row, ((keys, _), owned) in enumerate(zip(self.sequences, pool.split([*blocks, 2]), strict=False)):
            tables[row, : len(owned)] = owned
            written = torch.randn(2, keys, self.kv_heads, self.head_dim, generator=random).to(self.dtype)
            slots = (owned[:, None] * self.block_size + torch.arange(self.block_size)).flatten()[:keys]
            cache.flatten(1, 2)[:, slots] = written
        tokens = sum(new for _, new in self.sequences)
        q = torch.randn(tokens, self.kv_heads * self.group, self.head_dim, generator=random).to(self.dtype)
        lens = torch.tensor(self.sequences, dtype=self.index).T.contiguous()
        arguments = {"q": q, "key_cache": cache[0], "value_cache": cache[1], "block_tables": tables}
        return {
            name: value.to(DEVICE) for name, value in (arguments | {"seq_lens": lens[0], "query_lens": lens[1]}).items()
        }


def wide(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value.float() if value.is_floating_point() else value for name, value in arguments.items()}


def assert_equal(result: Tensor, arguments: dict[str, Any], **options: Any) -> None:
    expected = paged_attention(**wide(arguments), **options)
    assert result.dtype == arguments["q"].dtype
    assert result.shape == arguments["q"].shape
    torch.testing.assert_close(result.float(), expected, atol=TOLERANCE[result.dtype], rtol=TOLERANCE[result.dtype])


def sequences(longest: int, most_new: int) -> st.SearchStrategy[tuple[tuple[int, int], ...]]:
    one = st.tuples(st.integers(1, longest), st.integers(0, most_new)).map(lambda pair: (pair[0], min(pair)))
    batch = st.lists(one, min_size=1, max_size=3).map(tuple)
    return batch.filter(lambda drawn: any(new for _, new in drawn))


cases = st.builds(
    Case,
    sequences=sequences(70, 12),
    kv_heads=st.integers(1, 2),
    group=st.sampled_from([1, 3, 4, 8]),
    head_dim=st.sampled_from([8, 16, 40, 64]),
    block_size=st.sampled_from([16, 32]),
    dtype=st.sampled_from(list(TOLERANCE)),
    index=st.sampled_from(INDICES),
    seed=st.integers(0, 2**16),
)
launches = st.builds(
    Launch,
    rows=st.sampled_from([16, 32]),
    tile=st.sampled_from([16, 32, 64]),
    splits=st.integers(1, 5),
    warps=st.just(4),
)


@settings(max_examples=40, deadline=None)
@given(cases, st.none() | launches)
@example(Case(((16, 16), (16, 1), (32, 16)), group=1), Launch(span=16, splits=2, tile=16))  # full blocks, full tiles
@example(Case(((33, 1), (5, 0), (7, 3))), None)  # a sequence without a new token
@example(Case(((5, 0), (7, 2))), None)  # as many tokens as sequences, and yet not decode
def test_the_kernel_equals_the_reference(case: Case, launch: Launch | None) -> None:
    arguments = case.arguments()
    assert_equal(triton_paged_attention(**arguments, launch=launch), arguments)


@settings(max_examples=15, deadline=None)
@given(cases)
def test_the_naive_kernel_equals_the_reference(case: Case) -> None:
    arguments = dataclasses.replace(
        case, kv_heads=1, sequences=tuple((keys, min(new, 3)) for keys, new in case.sequences)
    )
    assert_equal(naive_paged_attention(**arguments.arguments()), arguments.arguments())


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 150), min_size=1, max_size=4), st.sampled_from([1, 3, 4, 8]), st.integers(1, 4))
def test_decode_with_and_without_its_hint(keys: list[int], group: int, splits: int) -> None:
    arguments = Case(tuple((length, 1) for length in keys), group=group).arguments()
    launch = Launch(span=16, splits=splits)
    told = triton_paged_attention(**arguments, max_query_len=1, max_seq_len=max(keys), launch=launch)
    assert_equal(told, arguments)
    torch.testing.assert_close(triton_paged_attention(**arguments, launch=launch), told, atol=SAME, rtol=0)


@pytest.mark.filterwarnings("error::RuntimeWarning")  # -inf - -inf, where a query sees no key of a split
def test_splits_change_only_the_order_of_sums() -> None:
    arguments = Case(((300, 1), (20, 8), (3, 1)), kv_heads=1, block_size=32).arguments()
    whole = triton_paged_attention(**arguments, launch=Launch(tile=16))
    for splits in (2, 7, 32):  # 32: most of them have no key
        split = triton_paged_attention(**arguments, launch=Launch(tile=16, span=16, splits=splits))
        torch.testing.assert_close(split, whole, atol=SAME, rtol=0)


def test_where_blocks_lie_does_not_matter() -> None:
    arguments = Case(((70, 1), (40, 9))).arguments()
    order = torch.randperm(len(arguments["key_cache"]), generator=torch.Generator().manual_seed(1)).to(DEVICE)
    moved = dict(arguments)
    for cache in ("key_cache", "value_cache"):
        moved[cache] = torch.empty_like(arguments[cache])
        moved[cache][order] = arguments[cache]
    tables = arguments["block_tables"]
    real = (tables >= 0) & (tables < len(order))
    moved["block_tables"] = torch.where(real, order[tables.where(real, 0).long()].to(tables.dtype), tables)
    assert not torch.equal(moved["block_tables"], tables)
    assert torch.equal(triton_paged_attention(**moved), triton_paged_attention(**arguments))


def test_cutting_a_prompt_into_chunks_gives_the_same_rows() -> None:
    whole = Case(((60, 60),), kv_heads=1).arguments()
    expected = triton_paged_attention(**whole)
    for start, stop in ((0, 25), (25, 26), (26, 60)):
        lens = {
            "seq_lens": torch.tensor([stop], device=DEVICE),
            "query_lens": torch.tensor([stop - start], device=DEVICE),
        }
        chunk = triton_paged_attention(**whole | lens | {"q": whole["q"][start:stop]})
        torch.testing.assert_close(chunk, expected[start:stop], atol=SAME, rtol=0)


def test_scores_too_large_for_exp_are_fine() -> None:
    arguments = Case(((80, 3),)).arguments()
    arguments["q"] *= 1e3  # exp of such scores is inf in fp32: the running maximum has to be taken off
    result = triton_paged_attention(**arguments, launch=Launch(tile=16, span=16, splits=3))
    torch.testing.assert_close(result, paged_attention(**arguments), atol=1e-4, rtol=1e-4)


def test_the_scale_is_the_callers() -> None:
    arguments = Case(((30, 4),)).arguments()
    for kernel in (triton_paged_attention, naive_paged_attention):
        assert_equal(kernel(**arguments, scale=0.7), arguments, scale=0.7)


@pytest.mark.parametrize("splits", [1, 3])
def test_a_padded_sequence_of_a_cuda_graph_gets_zeros(splits: int) -> None:
    arguments = Case(((40, 1), (20, 1))).arguments()
    expected = triton_paged_attention(**arguments)[0]
    arguments["seq_lens"][1] = 0
    arguments["block_tables"][1] = -1
    result = triton_paged_attention(**arguments, max_query_len=1, launch=Launch(span=16, splits=splits))
    torch.testing.assert_close(result[0], expected, atol=SAME, rtol=0)
    assert result[1].eq(0).all()


def test_inputs_may_be_slices_of_larger_tensors() -> None:
    arguments = Case(((40, 1), (20, 5)), head_dim=16).arguments()
    expected = triton_paged_attention(**arguments)
    strided = dict(arguments)
    for name in (
        "q",
        "key_cache",
        "value_cache",
    ):  # as q is a slice of a fused projection, and a layer of the whole cache
        strided[name] = torch.stack([arguments[name], torch.full_like(arguments[name], torch.nan)], dim=-2)[..., 0, :]
        assert not strided[name].is_contiguous()
    strided["block_tables"] = torch.cat([arguments["block_tables"]] * 2, dim=1)[:, : arguments["block_tables"].shape[1]]
    assert torch.equal(triton_paged_attention(**strided), expected)
    assert torch.equal(naive_paged_attention(**strided), naive_paged_attention(**arguments))


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="there is no GPU")
def test_a_cuda_graph_follows_lengths_that_change() -> None:
    arguments = Case(((300, 1), (90, 1)), head_dim=64, dtype=torch.bfloat16).arguments()
    hints = {"max_query_len": 1, "max_seq_len": 512}
    triton_paged_attention(**arguments, **hints)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = triton_paged_attention(**arguments, **hints)
    arguments["seq_lens"].copy_(torch.tensor([250, 3]))
    graph.replay()
    assert_equal(result, arguments)


def bad(name: str, change: Any) -> Any:
    return pytest.param(name, change, id=name)


@pytest.mark.parametrize(
    ("message", "change"),
    [
        bad("q has shape", lambda a: {"q": a["q"][0]}),
        bad("query heads of 16 numbers do not go", lambda a: {"q": a["q"][:, :3]}),
        bad("expected float16, bfloat16 or float32", lambda a: {"q": a["q"].half()}),
        bad("expected float16, bfloat16", lambda a: {k: a[k].double() for k in ("q", "key_cache", "value_cache")}),
        bad("one length of each kind", lambda a: {"seq_lens": a["seq_lens"][:1]}),
        bad("call .contiguous", lambda a: {"q": a["q"].transpose(0, 2).contiguous().transpose(0, 2)}),
        bad(
            "same for both caches", lambda a: {"key_cache": a["key_cache"].transpose(1, 2).contiguous().transpose(1, 2)}
        ),
        bad("expected one device", lambda a: {"q": a["q"].to("meta")}),
    ],
)
def test_what_does_not_fit_is_named(message: str, change: Any) -> None:
    arguments = Case(((40, 1), (20, 5))).arguments()
    with pytest.raises(ValueError, match=message):
        triton_paged_attention(**arguments | change(arguments))


@pytest.mark.skipif(DEVICE == "cuda", reason="values are looked at on a CPU only")
@pytest.mark.parametrize(
    ("message", "change"),
    [
        bad("do not add up to q's 6 tokens", lambda a: {"query_lens": a["query_lens"] * 2}),
        bad("reaches 16 slots", lambda a: {"block_tables": a["block_tables"][:, :1].contiguous()}),
        bad("names block 1000000000", lambda a: {"seq_lens": torch.tensor([40, 36])}),
    ],
)
def test_values_that_do_not_fit_are_named_before_memory_is_read(message: str, change: Any) -> None:
    arguments = Case(((40, 1), (20, 5))).arguments()
    arguments["block_tables"][1, 2] = 10**9
    with pytest.raises(ValueError, match=message):
        triton_paged_attention(**arguments | change(arguments))
