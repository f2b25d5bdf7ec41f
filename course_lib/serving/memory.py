"""How many blocks fit: the KV cache gets the memory that weights and a step's activations leave."""

import torch
from torch import Tensor

from course_lib.kv_cache.config import TransformerConfig
from course_lib.serving.fused_model import FusedTransformer

CPU_KV_CACHE_BYTES = 1 << 30
"""The pool's size on a CPU unless told: 1 GiB, which is taken from the system page by page as blocks are first used."""


def bytes_per_block(config: TransformerConfig, block_size: int, dtype: torch.dtype) -> int:
    """Return the bytes of a block: keys and values of its tokens in all layers."""
    return 2 * config.layers * block_size * config.kv_heads * config.head_dim * dtype.itemsize


class _NoAttention:
    """Stands in for the cache in a profile run: what a step allocates beside attention does not depend on what is found."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # noqa: ARG002  the protocol's
        return torch.empty_like(q)


@torch.inference_mode()
def gpu_kv_cache_bytes(
    model: FusedTransformer, gpu_memory_utilization: float, max_num_batched_tokens: int, max_num_seqs: int
) -> int:
    """Return the bytes that the GPU has left for the KV cache, after a run of the largest step has shown its peak.

    As in vLLM, the share is of the whole GPU's memory, and what other processes hold comes off it.

    Args:
        model: on the GPU, its weights loaded.
        gpu_memory_utilization: the share of the GPU's memory that this process may fill.
        max_num_batched_tokens: tokens of the largest step.
        max_num_seqs: most rows that the LM head and the sampler see.

    Raises:
        ValueError: nothing is left.
    """
    device = model.device
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    weights = torch.cuda.memory_allocated(device)
    tokens = torch.zeros(max_num_batched_tokens, dtype=torch.int64, device=device)
    hidden = model.hidden_states(tokens, tokens, _NoAttention())
    logits = model.logits(hidden[:max_num_seqs]).float()
    # The sampler holds the logits, their softmax, their sorted values with indices, and the noise: five to six times fp32.
    del hidden
    scratch = [torch.empty_like(logits) for _ in range(5)]
    activations = torch.cuda.max_memory_allocated(device) - weights
    del tokens, logits, scratch
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    left = int(total * gpu_memory_utilization) - (total - free) - activations
    if left <= 0:
        gib = 1 << 30
        raise ValueError(
            f"no memory is left for the KV cache: of {total / gib:.1f} GiB, {gpu_memory_utilization:.0%} may be used, "
            f"{(total - free) / gib:.1f} GiB are in use and a step takes {activations / gib:.1f} GiB. Raise "
            "gpu_memory_utilization, lower max_num_batched_tokens or max_num_seqs, or end what else runs on this GPU."
        )
    return left
