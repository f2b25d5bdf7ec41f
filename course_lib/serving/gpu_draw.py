# ruff: noqa: N803  (Triton's convention: what is known when the kernel compiles has a name in capitals)
# mypy: allow-untyped-defs, allow-incomplete-defs
"""One token for each row of logits, in one look at them: what sampling is where all there is to it is a temperature.

Noise for each of 150,000 logits, as in the race of `Sampler`, costs more than reading them. Here a row takes two random
numbers. The vocabulary is cut into chunks, and a first kernel sums each chunk's exponentials. A second one draws a chunk by its
share of the sum, and then a token of that chunk by its share of the chunk's. Two draws, because 24 random bits can't hit a
token of probability 1e-8 among all, and do hit it among 1,024.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float, Int
from torch import Tensor

from course_lib.paged_attention.triton_kernel import Kernel

CHUNK = 1024
_BLOCK = 256


@Kernel
def _sum_chunks(
    largest_ptr, sum_ptr, best_ptr, logits_ptr, factor_ptr, num_vocab, num_chunks, row_stride, CHUNK: tl.constexpr
):  # fmt: skip
    row, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    token = chunk * CHUNK + tl.arange(0, CHUNK)
    x = tl.load(logits_ptr + row * row_stride + token, mask=token < num_vocab, other=-float("inf")).to(tl.float32)
    x = x * tl.load(factor_ptr + row)
    largest = tl.max(x, 0)
    shift = tl.where(largest == -float("inf"), 0.0, largest)  # -inf - -inf would be NaN
    at = row * num_chunks + chunk
    tl.store(largest_ptr + at, largest)
    tl.store(sum_ptr + at, tl.sum(tl.exp(x - shift), 0))
    tl.store(best_ptr + at, -tl.max(tl.where(x == largest, -token, -num_vocab), 0))


@Kernel
def _draw(
    token_ptr, logprob_ptr, logits_ptr, largest_ptr, sum_ptr, best_ptr, factor_ptr, greedy_ptr, chance_ptr,
    num_vocab, num_chunks, row_stride, CHUNK: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    index = tl.arange(0, CHUNKS)
    there = index < num_chunks
    largest = tl.load(largest_ptr + row * num_chunks + index, mask=there, other=-float("inf"))
    top = tl.max(largest, 0)
    mass = tl.load(sum_ptr + row * num_chunks + index, mask=there, other=0.0) * tl.exp(largest - top)
    total = tl.sum(mass, 0)
    # The chunk that the first random number falls into: the last one that begins before it.
    begins = tl.cumsum(mass, 0) - mass
    chunk = tl.max(tl.where((begins <= tl.load(chance_ptr + 2 * row) * total) & (mass > 0.0), index, 0), 0)
    # And the token in it, by the second one.
    token = chunk * CHUNK + tl.arange(0, CHUNK)
    x = tl.load(logits_ptr + row * row_stride + token, mask=token < num_vocab, other=-float("inf")).to(tl.float32)
    factor = tl.load(factor_ptr + row)
    weight = tl.exp(x * factor - tl.max(x * factor, 0))
    place = tl.load(chance_ptr + 2 * row + 1) * tl.sum(weight, 0)
    drawn = tl.max(tl.where((tl.cumsum(weight, 0) - weight <= place) & (weight > 0.0), token, 0), 0)
    first = -tl.max(tl.where(largest == top, -index, -num_chunks), 0)  # the chunk of the most likely token
    likeliest = tl.load(best_ptr + row * num_chunks + first)
    chosen = tl.where(tl.load(greedy_ptr + row) != 0, likeliest, drawn)
    logit = tl.load(logits_ptr + row * row_stride + chosen).to(tl.float32) * factor
    tl.store(token_ptr + row, chosen)
    tl.store(logprob_ptr + row, logit - top - tl.log(total))


@Kernel
def _uniform(out_ptr, key_ptr, position_ptr, num_rows, BLOCK: tl.constexpr):
    # SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), of a key and a counter: any number of a row's sequence, without the
    # ones before it.
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = at // 2
    there = row < num_rows
    key = tl.load(key_ptr + row, mask=there, other=0).to(tl.uint64)
    count = tl.load(position_ptr + row, mask=there, other=0).to(tl.uint64) * 2 + (at % 2).to(tl.uint64) + 1
    bits = key + count * 0x9E3779B97F4A7C15
    bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9
    bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB
    bits = bits ^ (bits >> 31)
    tl.store(out_ptr + at, (bits >> 40).to(tl.float32) * (1.0 / 16777216.0), mask=there)


def uniform(keys: Int[Tensor, " rows"], positions: Int[Tensor, " rows"]) -> Float[Tensor, "rows 2"]:
    """Return two random numbers in [0, 1) for each row: the same for the same key and position.

    Args:
        keys: a number for each row's sequence, int64.
        positions: where the row is in its sequence.
    """
    chance = torch.empty((len(keys), 2), device=keys.device)
    _uniform[(triton.cdiv(2 * len(keys), _BLOCK),)](chance, keys, positions, len(keys), BLOCK=_BLOCK)
    return chance


def draw_tokens(
    logits: Float[Tensor, "rows vocab"],
    factors: Float[Tensor, " rows"],
    greedy: Bool[Tensor, " rows"],
    chance: Float[Tensor, "rows 2"],
) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"]]:
    """Return a token for each row, and its logprob after the temperature, in nats.

    Args:
        logits: of any dtype; the last dimension is contiguous.
        factors: what each row's logits are multiplied by, in fp32: 1 / temperature.
        greedy: rows that take the most likely token instead.
        chance: two numbers in [0, 1) for each row.
    """
    rows, vocab = logits.shape
    chunks = triton.cdiv(vocab, CHUNK)
    largest, sums = torch.empty((2, rows, chunks), device=logits.device)
    best = torch.empty((rows, chunks), dtype=torch.int32, device=logits.device)
    _sum_chunks[(rows, chunks)](
        largest, sums, best, logits, factors, vocab, chunks, logits.stride(0), CHUNK=CHUNK, num_warps=4
    )
    tokens = torch.empty(rows, dtype=torch.int64, device=logits.device)
    logprobs = torch.empty(rows, device=logits.device)
    _draw[(rows,)](
        tokens, logprobs, logits, largest, sums, best, factors, greedy, chance,
        vocab, chunks, logits.stride(0), CHUNK=CHUNK, CHUNKS=triton.next_power_of_2(chunks), num_warps=4,
    )  # fmt: skip
    return tokens, logprobs
