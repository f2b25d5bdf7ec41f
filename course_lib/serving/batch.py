"""One step's tokens, flat: what the scheduler planned, as tensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from course_lib.paged_attention import AttentionMetadata


@dataclass(frozen=True)
class Span:
    """A request's part in a step.

    Attributes:
        tokens: all of its tokens, prompt and output.
        start: the first one to compute; those before have their keys and values in the cache.
        end: behind the last one to compute.
        table: its block table.
    """

    tokens: Sequence[int]
    start: int
    end: int
    table: Sequence[int]


@dataclass(frozen=True)
class Batch:
    """The tokens of several requests, one request after another, and where they belong.

    Attributes:
        tokens: token ids.
        positions: each one's place in its own sequence.
        metadata: where keys and values lie.
        query_lens: new tokens of each request, on the host.
        seq_lens: keys of each request, those of its new tokens included, on the host.
        sample_rows: rows whose logits are wanted: the last token of each request that has caught up. The next token of a
            request that is still in its prompt is known, and what the LM head would say of it is not computed.
    """

    tokens: Int[Tensor, " tokens"]
    positions: Int[Tensor, " tokens"]
    metadata: AttentionMetadata
    query_lens: list[int]
    seq_lens: list[int]
    sample_rows: Int[Tensor, " samples"]

    @classmethod
    def build(cls, spans: Sequence[Span], block_size: int, device: torch.device | str = "cpu") -> Self:
        """Make a step's batch, on the host in one go for all requests, then copied to the device."""
        query_lens, seq_lens = [span.end - span.start for span in spans], [span.end for span in spans]
        width = max(len(span.table) for span in spans)
        tables = np.array([[*span.table, *[0] * (width - len(span.table))] for span in spans], dtype=np.int32)
        positions = np.concatenate([np.arange(span.start, span.end) for span in spans])
        owners = np.repeat(np.arange(len(spans)), query_lens)
        slots = tables[owners, positions // block_size].astype(np.int64) * block_size + positions % block_size
        caught_up = np.array([span.end == len(span.tokens) for span in spans])
        metadata = AttentionMetadata(
            block_tables=_to(device, tables),
            seq_lens=_to(device, np.array(seq_lens, dtype=np.int32)),
            query_lens=_to(device, np.array(query_lens, dtype=np.int32)),
            slot_mapping=_to(device, slots),
        )
        return cls(
            tokens=_to(device, np.array([token for span in spans for token in span.tokens[span.start : span.end]])),
            positions=_to(device, positions),
            metadata=metadata,
            query_lens=query_lens,
            seq_lens=seq_lens,
            sample_rows=_to(device, (np.cumsum(query_lens) - 1)[caught_up]),
        )

    @property
    def is_decode(self) -> bool:
        """Whether every request has one new token."""
        return len(self.tokens) == len(self.seq_lens)

    def __repr__(self) -> str:
        return f"Batch({len(self.tokens)} tokens of {len(self.seq_lens)} requests, {len(self.sample_rows)} sample)"


def _to(device: torch.device | str, array: np.ndarray) -> Tensor:
    """Copy an array to a device: pinned and asynchronous where that helps, so that the host goes on preparing."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if torch.device(device).type == "cuda" else tensor
