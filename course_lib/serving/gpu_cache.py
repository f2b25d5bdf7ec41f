"""Paged attention for a GPU: lesson 03's Triton kernel."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from jaxtyping import Int
from torch import Tensor

from course_lib.paged_attention import AttentionMetadata, PagedKVCache
from course_lib.paged_attention.triton_attention import triton_paged_attention
from course_lib.paged_attention.triton_naive import naive_paged_attention


class GPUPagedCache(PagedKVCache):
    """A `PagedKVCache` whose attention is the Triton kernel, told by the host what it would else have to ask the GPU.

    Args:
        naive: take the first kernel of lesson 03's ladder instead, for comparison; it asks the GPU, and no graph can hold it.
        size: `PagedKVCache`'s arguments.
    """

    def __init__(self, *size: Any, naive: bool = False):
        super().__init__(*size)
        self._naive = naive

    def begin(self, metadata: AttentionMetadata, query_lens: Sequence[int], seq_lens: Sequence[int]) -> None:
        """Plan the next step.

        Args:
            metadata: where its tokens lie.
            query_lens: new tokens of each sequence; only the largest matters.
            seq_lens: keys of each sequence, those of its new tokens included, or more; only the largest matters.
        """
        self.metadata = metadata
        self.attention = (
            naive_paged_attention
            if self._naive
            else partial(triton_paged_attention, max_query_len=max(query_lens), max_seq_len=max(seq_lens))
        )

    @property
    def slots(self) -> Int[Tensor, " tokens"]:
        """Where the step's keys and values are to be written."""
        assert self.metadata is not None
        return self.metadata.slot_mapping
