"""Decode as one launch: a step's hundreds of kernels, recorded once per batch size and replayed."""

import torch
from jaxtyping import Float
from torch import Tensor

from course_lib.paged_attention import AttentionMetadata
from course_lib.serving.batch import Batch
from course_lib.serving.fused_model import FusedTransformer
from course_lib.serving.gpu_cache import GPUPagedCache

MAX_GRAPH_SEQS = 512


class DecodeGraphs:
    """CUDA graphs of a step in which each sequence has one new token.

    A small model's decode step is hundreds of kernels of a few microseconds, and the host can't launch them as fast as the
    GPU does them. A graph is their launches recorded; its replay is one launch. What it records are addresses and shapes, so
    inputs are copied into fixed tensors, and a batch is padded to the next recorded size. Padding has no keys, and writes
    its own key to the cache's last block, which no request has.

    Args:
        model: what to record.
        cache: with one block more than the pool.
        max_num_seqs: largest batch of requests.
        max_model_len: longest sequence.
    """

    def __init__(self, model: FusedTransformer, cache: GPUPagedCache, max_num_seqs: int, max_model_len: int):
        self.model, self.cache, self.max_model_len = model, cache, max_model_len
        largest = min(max_num_seqs, MAX_GRAPH_SEQS)
        self.sizes = sorted({*(size for size in (1, 2, 4, 8) if size < largest), *range(16, largest, 16), largest})
        self._trash = (cache.kv.shape[2] - 1) * cache.block_size
        width = -(-max_model_len // cache.block_size)

        def integers(*shape: int, dtype: torch.dtype = torch.int64, value: int = 0) -> Tensor:
            return torch.full(shape, value, dtype=dtype, device=model.device)

        self.tokens, self.positions = integers(largest), integers(largest)
        self.slots = integers(largest, value=self._trash)
        self.tables = integers(largest, width, dtype=torch.int32)
        self.seq_lens = integers(largest, dtype=torch.int32)
        self.query_lens = integers(largest, dtype=torch.int32, value=1)
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self.capture()

    @torch.inference_mode()
    def capture(self) -> None:
        """Record every size, the largest first: the smaller ones then do with its memory."""
        pool = None
        for size in reversed(self.sizes):
            self._begin(size)
            self._hidden(size)  # compiles kernels and lets libraries make their workspaces, which must not be recorded
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                hidden = self._hidden(size)
            pool = pool or graph.pool()
            self._graphs[size] = graph, hidden

    def fits(self, batch: Batch) -> bool:
        """Whether there is a graph for this batch."""
        return batch.is_decode and len(batch.seq_lens) <= self.sizes[-1]

    def hidden_states(self, batch: Batch) -> Float[Tensor, "tokens hidden"]:
        """Run a decode batch. The result is overwritten by the next call."""
        count = len(batch.seq_lens)
        size = next(size for size in self.sizes if size >= count)
        step = batch.metadata
        self.tokens[:count], self.positions[:count] = batch.tokens, batch.positions
        self.slots[:count], self.slots[count:size] = step.slot_mapping, self._trash
        self.tables[:count, : step.block_tables.shape[1]] = step.block_tables
        self.seq_lens[:count], self.seq_lens[count:size] = step.seq_lens, 0
        graph, hidden = self._graphs[size]
        graph.replay()
        return hidden[:count]

    def _begin(self, size: int) -> None:
        """Point the cache at the fixed tensors, with lengths as long as they can get."""
        metadata = AttentionMetadata(
            self.tables[:size], self.seq_lens[:size], self.query_lens[:size], self.slots[:size]
        )
        self.cache.begin(metadata, [1], [self.max_model_len])

    def _hidden(self, size: int) -> Tensor:
        return self.model.hidden_states(self.tokens[:size], self.positions[:size], self.cache)

    def __repr__(self) -> str:
        return f"DecodeGraphs(batches of {', '.join(map(str, self.sizes))})"
