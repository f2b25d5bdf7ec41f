"""Decode as one launch: a step's hundreds of kernels, recorded once per batch size and replayed."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from course_lib.paged_attention import AttentionMetadata
from course_lib.serving.batch import KNOWN, Batch, feed
from course_lib.serving.fused_model import FusedTransformer
from course_lib.serving.gpu_cache import GPUPagedCache
from course_lib.serving.gpu_model import HiddenStates

MAX_GRAPH_SEQS = 512


class DecodeGraphs:
    """CUDA graphs of a step in which each sequence has one new token.

    A small model's decode step is hundreds of kernels of a few microseconds, and the host can't launch them as fast as the
    GPU does them. A graph is their launches recorded; its replay is one launch. What it records are addresses and shapes, so
    inputs are copied into fixed tensors, and a batch is padded to the next recorded size. Padding has no keys, and writes
    its own key to the cache's last block, which no request has.

    Args:
        model: what to record, with its LM head.
        layers: the model's layers, as they are to be run.
        cache: with one block more than the pool.
        max_num_seqs: largest batch of requests.
        max_model_len: longest sequence.
    """

    def __init__(
        self,
        model: FusedTransformer,
        layers: HiddenStates,
        cache: GPUPagedCache,
        max_num_seqs: int,
        max_model_len: int,
    ):
        self.model, self.layers, self.cache, self.max_model_len = model, layers, cache, max_model_len
        largest = min(max_num_seqs, MAX_GRAPH_SEQS)
        self.sizes = sorted({*(size for size in (1, 2, 4, 8) if size < largest), *range(16, largest, 16), largest})
        self._trash = (cache.kv.shape[2] - 1) * cache.block_size
        width = -(-max_model_len // cache.block_size)

        def integers(*shape: int, value: int = 0) -> Tensor:
            return torch.full(shape, value, dtype=torch.int32, device=model.device)

        # One tensor for all that there is one of for each sequence: it is filled by one copy.
        self._inputs = integers(5, largest)
        self._idle = torch.tensor([[0], [0], [self._trash], [0], [KNOWN]], dtype=torch.int32, device=model.device)
        self._inputs[:] = self._idle
        self.tables = integers(largest, width)
        self.query_lens = integers(largest, value=1)
        self.previous = torch.zeros(max_num_seqs, dtype=torch.int64, device=model.device)
        # All sizes write their logits here: a tensor each would be gigabytes.
        self.logits = torch.empty((largest, model.config.vocab), dtype=model.dtype, device=model.device)
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self.capture()

    @torch.inference_mode()
    def capture(self) -> None:
        """Record every size, the largest first: the smaller ones then do with its memory."""
        pool = None
        for size in reversed(self.sizes):
            self._begin(size)
            self._run(size)  # compiles kernels and lets libraries make their workspaces, which must not be recorded
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                self._run(size)
            pool = pool or graph.pool()
            self._graphs[size] = graph

    def fits(self, batch: Batch) -> bool:
        """Whether there is a graph for this batch."""
        return batch.is_decode and batch.all_sample and len(batch.seq_lens) <= self.sizes[-1]

    def run(self, batch: Batch, previous: Int[Tensor, " rows"] | None) -> Float[Tensor, "rows vocab"]:
        """Return a decode batch's logits, which the next call overwrites.

        Args:
            batch: for which `fits` is true.
            previous: what the step before sampled, where the batch has tokens in flight.
        """
        count = len(batch.seq_lens)
        size = next(size for size in self.sizes if size >= count)
        step = batch.metadata
        self._inputs[:, :count] = batch.decode_inputs
        if count < size:
            self._inputs[:, count:size] = self._idle
        if batch.sources is not None and previous is not None:
            self.previous[: len(previous)] = previous
        self.tables[:count, : step.block_tables.shape[1]] = step.block_tables
        self._graphs[size].replay()
        return self.logits[:count]

    def _begin(self, size: int) -> None:
        """Point the cache at the fixed tensors, with lengths as long as they can get."""
        _, _, slots, seq_lens, _ = self._inputs[:, :size]
        metadata = AttentionMetadata(self.tables[:size], seq_lens, self.query_lens[:size], slots)
        self.cache.begin(metadata, [1], [self.max_model_len])

    def _run(self, size: int) -> None:
        tokens, positions, _, _, sources = self._inputs[:, :size]
        hidden = self.layers(feed(tokens, sources, self.previous), positions, self.cache)
        self.model.logits_into(self.logits[:size], hidden)

    def __repr__(self) -> str:
        return f"DecodeGraphs(batches of {', '.join(map(str, self.sizes))})"
