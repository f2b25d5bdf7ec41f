"""How the kernel's work is cut up, decided on the host from shapes alone."""

from dataclasses import dataclass
from functools import cache

import torch
import triton
from torch import Tensor

from course_lib.paged_attention.attention import check_shapes

PROGRAMS_PER_MULTIPROCESSOR = 8
MIN_KEYS_PER_SPLIT = 128
MAX_SPLITS = 64
_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True)
class Launch:
    """How `triton_paged_attention` cuts up its work.

    Attributes:
        rows: query tokens times heads of a group in one tile; a power of two, at least 16 and at least the group.
        tile: keys read at once; a power of two, at least 16. Independent of the block size.
        splits: programs among which each sequence's keys are divided.
        span: fewest keys of a split; a multiple of the tile. A sequence with fewer than `splits` times as many leaves some idle.
        warps: groups of 32 threads in a program.
        stages: depth of Triton's software pipeline, which fetches the next tiles while one is computed.
    """

    rows: int = 16
    tile: int = 32
    splits: int = 1
    span: int = 128
    warps: int = 4
    stages: int = 5


def choose_launch(
    q: Tensor, key_cache: Tensor, block_tables: Tensor, max_query_len: int | None = None, max_seq_len: int | None = None
) -> Launch:
    """Return a launch for these shapes; nothing is read from the tensors, so the GPU need not be waited for.

    Args:
        q: queries, [tokens, heads, head_dim].
        key_cache: keys, [num_blocks, block_size, kv_heads, head_dim].
        block_tables: [seqs, max_blocks].
        max_query_len: the longest number of new tokens, where it is known.
        max_seq_len: the longest number of keys, where it is known; else what a table can hold.
    """
    tokens, heads, head_dim = q.shape
    block_size, kv_heads = key_cache.shape[1:3]
    seqs, group = len(block_tables), heads // kv_heads
    longest = tokens - seqs + 1 if max_query_len is None else max_query_len
    # Decode is bound by reading keys: the smallest tile of queries that tl.dot takes. A chunk of a prompt is bound by
    # computing: 64 rows, from which on a Hopper GPU's tensor cores run at full speed, share each read of a key. fp32 has no
    # tensor cores that keep its precision, and 64 rows of it do not fit in the registers.
    most = 64 if q.element_size() == 2 else 16
    rows = max(16, min(most, triton.next_power_of_2(max(1, longest) * group)), triton.next_power_of_2(group))
    # A key's address needs the table's entry first, so a tile in flight takes two of Triton's stages: 3 fetch one tile ahead,
    # 5 two. All of it has to fit in a multiprocessor's shared memory, several times where programs are small. Measured on an
    # H200 (`benchmark --tune`): small programs are best with 2 warps and one tile ahead, large ones with 4 and two. Wide keys
    # and many rows at once would not fit in the 99 KiB of a smaller GPU with two.
    wide = head_dim * q.element_size() > 256  # bytes of a key
    decode = rows == 16
    tile, warps, stages = (32, 4, 5 if decode else 3) if wide else (64, 2, 3) if decode else (64, 4, 5)
    programs = (tokens // (rows // group) + seqs if longest > 1 else seqs) * kv_heads
    keys = block_tables.shape[1] * block_size if max_seq_len is None else max_seq_len
    splits = choose_splits(programs, keys, _multiprocessors(q.device))
    return Launch(rows, tile, splits, warps=warps, stages=stages)


def choose_splits(programs: int, keys: int, multiprocessors: int) -> int:
    """Return into how many parts to split each sequence's keys.

    With enough programs to fill the GPU, one: splitting costs a second kernel. A few long sequences leave most of the GPU
    idle, so they are split until it is full, but not into parts that are too small to be worth a program. Full is more than
    one program for each place: sequences differ in length, and the last one to end has a multiprocessor for itself.

    Args:
        programs: programs without splits.
        keys: keys of the longest sequence.
        multiprocessors: of the GPU.
    """
    wanted = round(multiprocessors * PROGRAMS_PER_MULTIPROCESSOR / max(1, programs))
    return max(1, min(wanted, keys // MIN_KEYS_PER_SPLIT, MAX_SPLITS))


def check_arguments(
    q: Tensor, key_cache: Tensor, value_cache: Tensor, block_tables: Tensor, seq_lens: Tensor, query_lens: Tensor
) -> None:
    """Check what the host knows without asking the GPU, and on a CPU the values too.

    Raises:
        ValueError: something does not fit; the message says what, and what was expected.
    """
    check_shapes(q, key_cache, value_cache, block_tables, seq_lens, query_lens)
    if q.dtype not in _DTYPES or not q.dtype == key_cache.dtype == value_cache.dtype:
        raise ValueError(
            f"q is {q.dtype}, the caches {key_cache.dtype} and {value_cache.dtype}; expected float16, bfloat16 or float32, "
            "the same for all: convert q, since the caches are what is large"
        )
    tensors = (q, key_cache, value_cache, block_tables, seq_lens, query_lens)
    if len({tensor.device for tensor in tensors}) > 1:
        raise ValueError(
            f"the tensors are on {[str(tensor.device) for tensor in tensors]}; expected one device for all"
        )
    scattered = any(tensor.stride(-1) != 1 and tensor.shape[-1] > 1 for tensor in tensors)
    if scattered or key_cache.stride() != value_cache.stride():
        raise ValueError(
            f"strides are {q.stride()} for q, {key_cache.stride()} and {value_cache.stride()} for the caches; expected the "
            "same for both caches, and a contiguous last dimension everywhere: call .contiguous() on what has none"
        )
    if not q.is_cuda:
        _check_values(q, key_cache, block_tables, seq_lens, query_lens)


def _check_values(q: Tensor, key_cache: Tensor, block_tables: Tensor, seq_lens: Tensor, query_lens: Tensor) -> None:
    if int(query_lens.sum()) != len(q) or bool((query_lens < 0).any()):
        raise ValueError(f"query_lens {query_lens.tolist()} do not add up to q's {len(q)} tokens")
    slots = block_tables.shape[1] * key_cache.shape[1]
    if bool((seq_lens > slots).any()):
        raise ValueError(f"seq_lens go up to {int(seq_lens.max())}, but a block table reaches {slots} slots; widen it")
    held = torch.arange(block_tables.shape[1]) * key_cache.shape[1] < seq_lens[:, None]
    wrong = block_tables[held & ((block_tables < 0) | (block_tables >= len(key_cache)))]
    if len(wrong):
        raise ValueError(f"a block table names block {int(wrong[0])}; expected 0 to {len(key_cache) - 1}")


@cache
def _multiprocessors(device: torch.device) -> int:
    # The interpreter runs one program at a time: it gains nothing from splits.
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 0
