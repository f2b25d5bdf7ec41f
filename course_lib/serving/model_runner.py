"""The model, its weights and its KV cache on one device: a batch goes in, logits come out."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from course_lib.kv_cache.transformer import Transformer
from course_lib.serving.batch import Batch, BlockTableRows, Span
from course_lib.serving.cpu_cache import CPUPagedCache
from course_lib.serving.fused_model import FusedTransformer
from course_lib.serving.memory import CPU_KV_CACHE_BYTES, bytes_per_block, gpu_kv_cache_bytes

if TYPE_CHECKING:  # Triton is imported where there is a GPU
    from course_lib.serving.cuda_graphs import DecodeGraphs
    from course_lib.serving.gpu_cache import GPUPagedCache
    from course_lib.serving.gpu_model import HiddenStates

GPUKernels = Literal["naive", "paged", "fused"]


class Computed(NamedTuple):
    """What a step has computed.

    Attributes:
        logits: of each request that has caught up, in order; the next step may overwrite them.
        positions: of the tokens that they come from.
    """

    logits: Float[Tensor, "samples vocab"]
    positions: Int[Tensor, " samples"]


class ModelRunner:
    """Runs batches. First load, then give it a cache, whose size is known only when the weights are there.

    Args:
        folder: a Hugging Face model folder.
        dtype: of weights, keys and values.
        device: `cpu` or `cuda`.
        block_size: slots in a block.
    """

    def __init__(self, folder: Path, dtype: torch.dtype, device: str, block_size: int):
        self.model = FusedTransformer(Transformer.load(folder, dtype, device))
        self.block_size = block_size
        self.cache: CPUPagedCache | GPUPagedCache | None = None
        self._graphs: DecodeGraphs | None = None
        self._layers: HiddenStates = self.model.hidden_states
        self._rows = BlockTableRows()

    @property
    def on_gpu(self) -> bool:
        """Whether the weights are on a GPU."""
        return self.model.device.type == "cuda"

    def blocks_that_fit(
        self,
        kv_cache_memory_bytes: int | None,
        gpu_memory_utilization: float,
        max_num_batched_tokens: int,
        max_num_seqs: int,
    ) -> int:
        """Return how many blocks these bytes hold, or where None is given, the memory that is left.

        Raises:
            ValueError: not one.
        """
        size = bytes_per_block(self.model.config, self.block_size, self.model.dtype)
        if kv_cache_memory_bytes is None:
            kv_cache_memory_bytes = CPU_KV_CACHE_BYTES
            if self.on_gpu:
                kv_cache_memory_bytes = gpu_kv_cache_bytes(
                    self.model, gpu_memory_utilization, max_num_batched_tokens, max_num_seqs
                )
        if kv_cache_memory_bytes < size:
            raise ValueError(
                f"the KV cache has {kv_cache_memory_bytes} bytes, and a block of {self.block_size} tokens takes {size}; "
                "raise kv_cache_memory_bytes or lower block_size"
            )
        return kv_cache_memory_bytes // size

    def make_cache(
        self, num_blocks: int, max_num_seqs: int, max_model_len: int, use_graphs: bool, kernels: GPUKernels = "fused"
    ) -> None:
        """Reserve the KV cache, and on a GPU record decode's CUDA graphs if these are wanted.

        Raises:
            ValueError: graphs of the naive kernel, which can't be recorded.
        """
        config = self.model.config
        size = (self.block_size, config.kv_heads, config.head_dim, self.model.dtype, self.model.device)
        if not self.on_gpu:
            self.cache = CPUPagedCache(config.layers, num_blocks, *size)
            return
        from course_lib.serving import cuda_graphs, gpu_cache, gpu_model

        naive = kernels == "naive"
        if naive and use_graphs:
            raise ValueError(
                "gpu_kernels='naive' asks the GPU, which no graph can hold: give enforce_eager=True with it."
            )
        # One block more than the pool has: what pads a graph's batch writes there.
        self.cache = gpu_cache.GPUPagedCache(config.layers, num_blocks + 1, *size, naive=naive)
        if kernels == "fused":
            self._layers = gpu_model.GPUTransformer(self.model, max_model_len)
        if use_graphs:
            self._graphs = cuda_graphs.DecodeGraphs(self.model, self._layers, self.cache, max_num_seqs, max_model_len)

    @torch.inference_mode()
    def run(self, spans: Sequence[Span], previous: Int[Tensor, " rows"] | None = None) -> Computed:
        """Compute the tokens of a step. On a GPU this launches the work, and does not wait for it.

        Args:
            spans: the requests' parts in it.
            previous: what the step before sampled, where some of the tokens are in flight.
        """
        if self.cache is None:
            raise RuntimeError("there is no KV cache yet; call make_cache first")
        batch = Batch.build(spans, self.block_size, self.model.device, self._rows)
        if self._graphs is not None and self._graphs.fits(batch):
            return Computed(self._graphs.run(batch, previous), batch.positions)
        self.cache.begin(batch.metadata, batch.query_lens, batch.seq_lens)
        hidden = self._layers(batch.fed(previous), batch.positions, self.cache)
        return Computed(self.model.logits(hidden[batch.sample_rows]), batch.positions[batch.sample_rows])

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Copy weights in, in place: CUDA graphs go on with the new ones. See `Transformer.load_weights`."""
        self.model.load_weights(weights)

    def __repr__(self) -> str:
        graphs = f", {self._graphs}" if self._graphs is not None else ""
        return f"ModelRunner({self.model.model}, {self.cache}{graphs})"
