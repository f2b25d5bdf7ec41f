"""Every kernel compiles for each generation of GPU that has bf16, and fits in its shared memory. That needs no GPU."""

from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import pytest
import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompilationError, CompiledKernel
from triton.compiler import compile as compile_kernel

from course_lib.paged_attention import triton_launch
from course_lib.paged_attention.triton_attention import triton_paged_attention
from course_lib.paged_attention.triton_kernel import Kernel
from course_lib.paged_attention.triton_naive import naive_paged_attention
from course_lib.serving.gpu_draw import draw_tokens, uniform
from course_lib.serving.gpu_kernels import add_rms_norm, rotate_and_store, silu_mul

# Compute capability: KiB of shared memory that a program may have ("Maximum amount of shared memory per thread block",
# CUDA C++ Programming Guide, compute capabilities). A100; L4 and RTX 40 (RTX 30 has as much); H100; B200; RTX 50.
SHARED_KIB = {80: 163, 89: 99, 90: 227, 100: 227, 120: 99}
SHAPES = [(64, 3), (128, 8), (256, 4)]
"""head_dim, heads of a group: SmolLM2, Qwen3-32B, and as wide as Gemma."""
_TYPES = {
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.bool: "*i1",
}
pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")

Launched = tuple[Kernel, dict[str, Any], dict[str, int]]


def launches(call: Callable[[], object]) -> list[Launched]:
    """Return what `call` launches, (kernel, its arguments, options of the compiler) each, and launch nothing."""
    found: list[Launched] = []

    def record(kernel: Kernel, _grid: tuple[int, ...], *args: Any, **kwargs: Any) -> None:
        options = {name: kwargs.pop(name) for name in ("num_warps", "num_stages") if name in kwargs}
        found.append((kernel, dict(zip(kernel.compiled.arg_names, args, strict=False)) | kwargs, options))

    with patch.object(Kernel, "_launch", record):
        call()
    return found


def compile_for(launched: Launched, capability: int) -> CompiledKernel:
    """Compile as a launch on such a GPU does: a 1 is a constant, and multiples of 16 are known to be such."""
    kernel, arguments, options = launched
    signature, constants, known = {}, {}, {}
    for at, parameter in enumerate(kernel.compiled.params):
        value = arguments[parameter.name]
        count = parameter.do_not_specialize
        if parameter.is_constexpr or (isinstance(value, int) and value == 1 and not count):
            signature[parameter.name], constants[at,] = "constexpr", value
        elif isinstance(value, float):
            signature[parameter.name] = "fp32"
        else:
            tensor = isinstance(value, torch.Tensor)
            signature[parameter.name] = _TYPES[value.dtype] if tensor else "i32" if value < 2**31 else "i64"
            if tensor or (value % 16 == 0 and not count):
                known[at,] = [["tt.divisibility", 16]]
    source = ASTSource(kernel.compiled, signature, constants, known)
    return compile_kernel(source, target=GPUTarget("cuda", capability, 32), options=options)


def attention(dtype: torch.dtype, head_dim: int, group: int, query_len: int) -> list[Launched]:
    """Return the launches of a batch of prompts' chunks, or of decode, on a GPU of 132 multiprocessors."""
    seqs, kv_heads = 4, 2
    q = torch.empty(seqs * query_len, kv_heads * group, head_dim, dtype=dtype)
    cache = torch.empty(2, 64, 16, kv_heads, head_dim, dtype=dtype)
    tables = torch.zeros(seqs, 64, dtype=torch.int32)
    seq_lens, query_lens = (torch.full((seqs,), length, dtype=torch.int32) for length in (1000, query_len))
    with (
        patch.object(triton_launch, "_multiprocessors", lambda _: 132),
        patch.object(triton_launch, "_check_values"),
    ):
        return launches(
            lambda: triton_paged_attention(q, *cache, tables, seq_lens, query_lens, max_query_len=query_len)
        )


def between_products() -> Iterator[Callable[[], object]]:
    """Yield calls of a layer's small kernels and the sampler's, in Qwen3-0.6B's shape."""
    heads, kv_heads, head_dim, vocab, dtype = 16, 8, 128, 151_936, torch.bfloat16
    x, gate_up, logits = (torch.empty(5, size, dtype=dtype) for size in (1024, 6144, vocab))
    weight, norm = torch.empty(1024, dtype=dtype), torch.empty(head_dim, dtype=dtype)
    qkv = torch.empty(5, heads + 2 * kv_heads, head_dim, dtype=dtype)
    caches = torch.empty(2, 64, 16, kv_heads, head_dim, dtype=dtype)
    where, turns = torch.zeros(5, dtype=torch.int32), torch.empty(512, head_dim)
    yield lambda: add_rms_norm(x, None, weight, 1e-6)
    yield lambda: add_rms_norm(x, x.clone(), weight, 1e-6)
    yield lambda: silu_mul(gate_up)
    yield lambda: rotate_and_store(qkv, *caches, where, where, turns)
    yield lambda: rotate_and_store(qkv, *caches, where, where, turns, (norm, norm, 1e-6))
    yield lambda: uniform(torch.zeros(5, dtype=torch.int64), torch.zeros(5, dtype=torch.int64))
    yield lambda: draw_tokens(logits, torch.ones(5), torch.ones(5, dtype=torch.bool), torch.ones(5, 2))


def fits(launched: Launched, capability: int) -> None:
    compiled = compile_for(launched, capability)
    assert compiled.asm["cubin"]
    assert compiled.metadata.shared <= SHARED_KIB[capability] << 10, (launched[0], launched[2], capability)


@pytest.mark.parametrize("capability", SHARED_KIB)
def test_attention_compiles_and_fits(capability: int) -> None:
    for head_dim, group in SHAPES:
        for query_len in (1, 300):
            found = attention(torch.bfloat16, head_dim, group, query_len)
            assert len(found) == 2  # split keys, and put together
            for launched in found:
                fits(launched, capability)
    for launched in attention(torch.float32, 128, 4, 300):
        fits(launched, capability)


@pytest.mark.parametrize("capability", SHARED_KIB)
def test_small_kernels_compile_and_fit(capability: int) -> None:
    seen = set()
    for call in between_products():
        for launched in launches(call):
            seen.add(repr(launched[0]))
            fits(launched, capability)
    assert len(seen) == 6


def test_lesson_03_first_kernel_compiles() -> None:
    q, cache = torch.empty(4, 4, 64), torch.empty(2, 8, 16, 2, 64)
    tables, lens = torch.zeros(4, 8, dtype=torch.int32), torch.ones(4, dtype=torch.int32)
    (launched,) = launches(lambda: naive_paged_attention(q, *cache, tables, lens, lens))
    fits(launched, 90)


def test_what_does_not_fit_is_noticed() -> None:
    """Too much in flight for a small GPU; and a tile that is no power of two, at which the interpreter does not stop."""
    kernel, arguments, options = attention(torch.bfloat16, 128, 2, 300)[0]
    with pytest.raises(AssertionError):
        fits((kernel, arguments, options | {"num_stages": 9}), 89)
    with pytest.raises(CompilationError):
        fits((kernel, arguments | {"TILE": 48}, options), 89)
