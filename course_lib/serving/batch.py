"""One step's tokens, flat: what the scheduler planned, as tensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from operator import is_
from typing import NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from course_lib.paged_attention import AttentionMetadata

KNOWN = -1
_ALIGNED = 4
"""Numbers of 4 bytes in 16: Triton compiles a kernel for tensors that begin at a multiple of 16 bytes, and again for others."""


class Span(NamedTuple):
    """A request's part in a step.

    Attributes:
        tokens: all of its tokens, prompt and output.
        start: the first one to compute; those before have their keys and values in the cache.
        end: behind the last one to compute.
        table: its block table.
        source: the row of the step before that samples the token at end - 1, where that is in flight; else `KNOWN`.
    """

    tokens: Sequence[int]
    start: int
    end: int
    table: Sequence[int]
    source: int = KNOWN


class BlockTableRows:
    """The block tables of a step as one array, kept from step to step: most steps add a few blocks to the same requests."""

    def __init__(self) -> None:
        self._tables: list[Sequence[int]] = []
        self._lengths: list[int] = []
        self._rows = np.zeros((0, 0), dtype=np.int32)

    def update(self, tables: Sequence[Sequence[int]]) -> Int[np.ndarray, "seqs max_blocks"]:
        """Return the tables' rows, shorter ones filled up with 0 or older numbers; valid until the next call.

        Args:
            tables: the block tables. One that was here in the last call and is the same list has only grown.
        """
        lengths = list(map(len, tables))
        width = max(lengths)
        if len(tables) != len(self._tables) or width > self._rows.shape[1] or not all(map(is_, tables, self._tables)):
            self._tables, self._lengths = list(tables), [0] * len(tables)
            # Room to grow, so that it is not made anew at each block.
            self._rows = np.zeros((len(tables), width + max(8, width // 2)), dtype=np.int32)
        if lengths != self._lengths:
            for row, (table, old, new) in enumerate(zip(tables, self._lengths, lengths, strict=True)):
                if old != new:
                    self._rows[row, old:new] = table[old:new]
            self._lengths = lengths
        return self._rows[:, :width]


@dataclass(frozen=True)
class Batch:
    """The tokens of several requests, one request after another, and where they belong.

    Attributes:
        tokens: token ids; of one in flight, anything.
        positions: each one's place in its own sequence.
        metadata: where keys and values lie.
        query_lens: new tokens of each request, on the host.
        seq_lens: keys of each request, those of its new tokens included, on the host.
        sample_rows: rows whose logits are wanted: the last token of each request that has caught up. The next token of a
            request that is still in its prompt is known, and what the LM head would say of it is not computed.
        sources: for each token, which row of the step before samples it; `KNOWN` where it is in `tokens`. None where all are.
        packed: the memory that the tensors are views of.
    """

    tokens: Int[Tensor, " tokens"]
    positions: Int[Tensor, " tokens"]
    metadata: AttentionMetadata
    query_lens: list[int]
    seq_lens: list[int]
    sample_rows: Int[Tensor, " samples"]
    sources: Int[Tensor, " tokens"] | None
    packed: Int[Tensor, " numbers"]

    @classmethod
    def build(
        cls,
        spans: Sequence[Span],
        block_size: int,
        device: torch.device | str = "cpu",
        rows: BlockTableRows | None = None,
    ) -> Self:
        """Make a step's batch: on the host in one go for all requests, then one copy to the device.

        Args:
            spans: the requests' parts.
            block_size: slots in a block.
            device: where the batch is wanted.
            rows: the tables of the step before, where these are likely the same requests.
        """
        tokens, starts, ends, tables, sources = zip(*spans, strict=True)
        first, last = np.array(starts), np.array(ends)
        lens = last - first
        if len(spans) == lens.sum():  # one token each
            owners, positions = np.arange(len(spans)), first
            new = [known[start] for known, start in zip(tokens, starts, strict=True)]
        else:
            owners = np.repeat(np.arange(len(spans)), lens)
            positions = np.arange(len(owners)) - np.repeat(np.cumsum(lens) - lens - first, lens)
            new = list(chain.from_iterable(span.tokens[span.start : span.end] for span in spans))
        in_rows = (rows or BlockTableRows()).update(tables)
        slots = in_rows[owners, positions // block_size].astype(np.int64) * block_size + positions % block_size
        caught_up = last == np.fromiter(map(len, tokens), dtype=np.int64, count=len(spans))
        behind = np.full(len(owners), KNOWN)
        behind[np.cumsum(lens) - 1] = sources
        # In this order, so that what decode has one of for each sequence is one matrix: see `decode_inputs`.
        parts = [np.array(new), positions, slots, last, behind, lens, (np.cumsum(lens) - 1)[caught_up], in_rows.ravel()]
        there, (flat, at, to, seq_lens, source, query_lens, samples, block_tables) = _pack(parts, device)
        metadata = AttentionMetadata(block_tables.view(len(spans), -1), seq_lens, query_lens, to)
        in_flight = any(row != KNOWN for row in sources)
        return cls(flat, at, metadata, lens.tolist(), last.tolist(), samples, source if in_flight else None, there)

    @property
    def is_decode(self) -> bool:
        """Whether every request has one new token."""
        return len(self.tokens) == len(self.seq_lens)

    @property
    def all_sample(self) -> bool:
        """Whether every token's logits are wanted."""
        return len(self.sample_rows) == len(self.tokens)

    @property
    def decode_inputs(self) -> Int[Tensor, "5 seqs"]:
        """A decode batch's tokens, positions, slots, numbers of keys and sources."""
        count = len(self.seq_lens)
        return self.packed[: 5 * (-(-count // _ALIGNED) * _ALIGNED)].view(5, -1)[:, :count]

    def fed(self, previous: Int[Tensor, " rows"] | None) -> Int[Tensor, " tokens"]:
        """Return the tokens, those in flight taken from what the step before sampled."""
        return self.tokens if self.sources is None or previous is None else feed(self.tokens, self.sources, previous)

    def __repr__(self) -> str:
        return f"Batch({len(self.tokens)} tokens of {len(self.seq_lens)} requests, {len(self.sample_rows)} sample)"


def feed(
    tokens: Int[Tensor, " tokens"], sources: Int[Tensor, " tokens"], previous: Int[Tensor, " rows"]
) -> Int[Tensor, " tokens"]:
    """Return the tokens, with those of `previous` that `sources` points to in place of their own."""
    return torch.where(sources == KNOWN, tokens, previous[sources.clamp(min=0)].to(tokens.dtype))


def _pack(parts: Sequence[np.ndarray], device: torch.device | str) -> tuple[Tensor, list[Tensor]]:
    """Return all parts in one tensor on the device, and each as a view of it that begins at a multiple of 16 bytes."""
    lengths = [len(part) for part in parts]
    room = [-(-length // _ALIGNED) * _ALIGNED for length in lengths]
    packed = np.zeros(sum(room), dtype=np.int64)
    for begin, part in zip(np.cumsum(room) - room, parts, strict=True):
        packed[begin : begin + len(part)] = part
    there = torch.from_numpy(packed)
    if torch.device(device).type == "cuda":  # half the bytes, from pinned memory: the host goes on meanwhile
        there = there.int().pin_memory().to(device, non_blocking=True)
    return there, [part[:length] for part, length in zip(there.split(room), lengths, strict=True)]
