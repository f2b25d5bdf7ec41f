"""How the work is cut, what runs it, and that the real compiler takes it, for a GPU that need not be here."""

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from hypothesis import given
from hypothesis import strategies as st
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from course_lib.paged_attention.triton_attention import _attend
from course_lib.paged_attention.triton_kernel import Kernel
from course_lib.paged_attention.triton_launch import (
    MAX_SPLITS,
    MIN_KEYS_PER_SPLIT,
    PROGRAMS_PER_MULTIPROCESSOR,
    choose_launch,
    choose_splits,
)
from course_lib.paged_attention.triton_naive import _attend_naively
from course_lib.paged_attention.triton_split import _combine


@given(st.integers(1, 5000), st.integers(1, 200_000), st.integers(1, 200))
def test_splits_fill_the_gpu_and_not_much_more(programs: int, keys: int, multiprocessors: int) -> None:
    splits = choose_splits(programs, keys, multiprocessors)
    assert 1 <= splits <= MAX_SPLITS
    if splits > 1:
        assert keys // splits >= MIN_KEYS_PER_SPLIT
        assert programs * (splits - 0.5) <= PROGRAMS_PER_MULTIPROCESSOR * multiprocessors
    else:
        assert 1.5 * programs >= PROGRAMS_PER_MULTIPROCESSOR * multiprocessors or keys < 2 * MIN_KEYS_PER_SPLIT


def launch_of(tokens: int, seqs: int, group: int, dtype: torch.dtype = torch.bfloat16, **hints: int) -> Any:
    q = torch.empty(tokens, group, 64, dtype=dtype)
    return choose_launch(q, torch.empty(1, 16, 1, 64, dtype=dtype), torch.empty(seqs, 9), **hints)


def test_tiles_fit_the_work() -> None:
    assert launch_of(4, 4, group=4).rows == 16
    assert launch_of(100, 2, group=4).rows == 64
    assert launch_of(100, 2, group=4, max_query_len=5).rows == 32
    assert launch_of(4, 4, group=71).rows == 128
    assert launch_of(100, 2, group=4, dtype=torch.float32).rows == 16
    assert launch_of(4, 4, group=4).splits == 1  # a CPU runs one program at a time


@Kernel
def _sums(out_ptr, x_ptr, num_rows, width: tl.constexpr):
    row, column = tl.program_id(0), tl.arange(0, width)
    x = tl.load(x_ptr + row * width + column)
    tl.store(out_ptr + row * width + column, tl.cumsum(x, 0) + tl.sum(x, 0) * num_rows - tl.max(x, 0))


def test_a_launch_leaves_triton_and_the_process_as_they_were() -> None:
    names = ("sum", "max", "cumsum", "dot", "load", "store", "reduce")
    before, environment = [getattr(tl, name) for name in names], dict(os.environ)
    x = torch.randn(3, 8)
    out = torch.empty_like(x)
    _sums[(3,)](out, x, 3, width=8)
    torch.testing.assert_close(out, x.cumsum(1) + 3 * x.sum(1, keepdim=True) - x.amax(1, keepdim=True))
    assert [getattr(tl, name) for name in names] == before
    assert dict(os.environ) == environment
    assert repr(_sums) == "Kernel(_sums)"


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="about the CPU tier")
def test_it_runs_in_a_process_that_has_vllm() -> None:
    code = """if True:
        from course_lib.machine import prepare; prepare()
        import vllm, torch
        from course_lib.paged_attention.benchmark_shapes import SMALL
        from course_lib.paged_attention.triton_attention import triton_paged_attention
        print(triton_paged_attention(**SMALL[0].arguments(torch.float32, "cpu")).isfinite().all().item())
        import vllm.v1.engine.llm_engine
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "True"


SIZES = {"HEAD_DIM": 128, "PADDED_DIM": 128}
ATTEND = SIZES | {"KV_HEADS": 8, "BLOCK_SIZE": 16, "PADDED_SEQS": 64}
DECODE = ATTEND | {"GROUP": 4, "ROWS": 16, "QUERIES": 4, "TILE": 32, "DECODE": True, "SPLIT": True}
CHUNK = ATTEND | {"GROUP": 2, "ROWS": 64, "QUERIES": 32, "TILE": 64, "DECODE": False, "SPLIT": False}
NAIVE = SIZES | {"HEADS": 16, "GROUP": 2, "BLOCK_SIZE": 16}


@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
@pytest.mark.parametrize(
    ("kernel", "constants", "stages", "instruction"),
    [
        pytest.param(_attend, DECODE, 5, "mma.sync", id="decode"),
        pytest.param(_attend, CHUNK, 3, "wgmma", id="chunk"),
        pytest.param(_combine, SIZES | {"SPLITS": 8}, 3, "ex2", id="combine"),
        pytest.param(_attend_naively, NAIVE, 3, "ex2", id="naive"),
    ],
)
def test_it_compiles_for_an_h100(kernel: Kernel, constants: dict[str, Any], stages: int, instruction: str) -> None:
    def kind(name: str) -> str:
        if name in constants:
            return "constexpr"
        if name.endswith(("len_ptr", "table_ptr", "seq_ptr", "position_ptr")):
            return "*i32"
        if name.endswith("_ptr"):
            in_fp32 = name.startswith(("partial", "lse")) or (name == "out_ptr" and constants.get("SPLIT", False))
            return "*fp32" if in_fp32 else "*bf16"
        return "fp32" if name == "scale" else "i32"

    names = kernel.compiled.arg_names
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(names)
        if name.endswith("_ptr") or "stride" in name
    }
    source = ASTSource(
        fn=kernel.compiled,
        signature={name: kind(name) for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs=aligned,
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4, "num_stages": stages})
    assert instruction in compiled.asm["ptx"]
    assert compiled.metadata.shared < 100 * 1024  # two programs of a multiprocessor, or one of a small GPU's
    if kernel is _attend:
        assert "cp.async.cg.shared.global" in compiled.asm["ptx"]  # keys come 16 bytes at a time, ahead of their use
