"""How many requests fit: the KV pool's size, predicted from memory and model, and read from a live engine."""

from dataclasses import dataclass, field
from typing import Any

from course_lib.kv_cache import ModelShape, kv_bytes_per_token, weight_bytes
from course_lib.paged_attention.block_table import num_blocks_for
from course_lib.serving.memory import bytes_per_block
from course_lib.serving.vllm_engine import is_vllm, vllm_scheduler


@dataclass(frozen=True)
class KVPool:
    """The KV cache as its blocks.

    Attributes:
        num_blocks: how many there are.
        block_size: tokens in a block.
        bytes_per_block: keys and values of a block's tokens, over all layers.
        null_block: whether one of them is never handed out, as in vLLM; two pools that differ in this alone are equal.

    Raises:
        ValueError: a size is below 1.
    """

    num_blocks: int
    block_size: int
    bytes_per_block: int
    null_block: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("num_blocks", "block_size", "bytes_per_block"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 1 or more")

    @property
    def tokens(self) -> int:
        """Tokens that all blocks hold."""
        return self.num_blocks * self.block_size

    @property
    def bytes(self) -> int:
        """Bytes that all blocks take."""
        return self.num_blocks * self.bytes_per_block

    def requests(self, tokens_each: int) -> int:
        """Return how many requests fit at once.

        Each has blocks of its own, and its last one is rarely full: that is why this is not `tokens // tokens_each`. Blocks
        that requests share through the prefix cache are not counted on.

        Args:
            tokens_each: tokens whose keys and values a request keeps: prompt and output but for the output's last token,
                which nobody attends to.

        Raises:
            ValueError: below 1.
        """
        if tokens_each < 1:
            raise ValueError(f"tokens_each is {tokens_each}; expected 1 or more")
        return (self.num_blocks - self.null_block) // num_blocks_for(tokens_each, self.block_size)

    def __repr__(self) -> str:
        return (
            f"KVPool({self.num_blocks:,} blocks of {self.block_size} tokens, {self.tokens:,} tokens, "
            f"{self.bytes / 2**20:,.1f} MiB)"
        )


def predict_pool(shape: ModelShape, memory_bytes: int, block_size: int, bytes_per_number: float = 2) -> KVPool:
    """Return the pool that an engine makes of this memory: as many whole blocks as fit.

    A block holds the keys and values of `block_size` tokens in every layer: 2 * layers * kv_heads * head_dim numbers a token.
    vLLM calls a layer's part of it a page (`page_size_bytes` in vllm/v1/kv_cache_interface.py), and divides rounding down
    (`get_kv_cache_config_from_groups` in vllm/v1/core/kv_cache_utils.py).

    Args:
        shape: of the model.
        memory_bytes: memory for keys and values: `kv_cache_memory_bytes`, or what `gpu_kv_bytes` gives.
        block_size: tokens in a block.
        bytes_per_number: of a key or a value: 2 in bf16, 4 in fp32, 1 in fp8.

    Raises:
        ValueError: not one block fits.
    """
    per_block = int(block_size * kv_bytes_per_token(shape, 1) * bytes_per_number)
    if per_block < 1 or memory_bytes < per_block:
        raise ValueError(
            f"not one block fits: {int(memory_bytes):,} bytes for keys and values, and a block of {block_size} tokens of "
            f"{shape.name} takes {per_block:,}. Give more memory, or lower block_size (at least 1)."
        )
    return KVPool(int(memory_bytes) // per_block, block_size, per_block)


def gpu_kv_bytes(
    shape: ModelShape,
    gpu_bytes: int,
    utilization: float,
    activation_bytes: int,
    non_torch_bytes: int = 0,
    bytes_per_number: float = 2,
) -> int:
    """Return the bytes that a GPU has left for keys and values.

    vLLM's share is `gpu_memory_utilization` of the whole memory, not of what is free. From it come off (see
    `determine_available_memory` in vllm/v1/worker/gpu_worker.py):

        weights       what loading the model took
        activations   the peak of a profile run: one step of max_num_batched_tokens tokens and max_num_seqs samples, and,
                      from vLLM 0.21 on, an estimate of what the CUDA graphs will take
        non-torch     what the process holds outside torch's allocator: CUDA context, NCCL buffers, cuBLAS workspaces

    Only the first can be known without running the model. The other two are in vLLM's log at level INFO or DEBUG.

    Args:
        shape: of the model.
        gpu_bytes: the GPU's whole memory.
        utilization: `gpu_memory_utilization`, more than 0 and at most 1.
        activation_bytes: peak of a step's activations, CUDA graphs included.
        non_torch_bytes: what lies outside torch's allocator.
        bytes_per_number: of a weight.

    Raises:
        ValueError: nothing is left, or `utilization` is out of its range.
    """
    if not 0 < utilization <= 1:
        raise ValueError(f"utilization is {utilization}; expected more than 0, at most 1")
    weights = int(weight_bytes(shape, 1) * bytes_per_number)
    left = int(gpu_bytes * utilization) - weights - activation_bytes - non_torch_bytes
    if left <= 0:
        gib = 1 << 30
        raise ValueError(
            f"nothing is left for keys and values: {utilization:.0%} of {gpu_bytes / gib:.1f} GiB, less "
            f"{weights / gib:.1f} GiB of weights and {(activation_bytes + non_torch_bytes) / gib:.1f} GiB of activations and "
            "other memory. Raise utilization, lower max_num_batched_tokens, or take a smaller model."
        )
    return left


def read_pool(llm: Any) -> KVPool:
    """Return the pool of a live engine, vLLM's (in this process) or ours.

    Raises:
        ValueError: vLLM's scheduler is out of reach, or its model has several kinds of KV cache.
    """
    if is_vllm(llm):
        config = vllm_scheduler(llm).kv_cache_manager.kv_cache_config
        if len(config.kv_cache_groups) != 1:
            raise ValueError(
                "this model has several KV cache groups; a KVPool is of one kind of block, of full attention"
            )
        group = config.kv_cache_groups[0]
        spec = group.kv_cache_spec
        size = spec.page_size_bytes * len(group.layer_names)
        return KVPool(config.num_blocks, spec.block_size, size, null_block=True)
    runner, manager = llm.llm_engine.runner, llm.llm_engine.scheduler.kv_manager
    size = bytes_per_block(runner.model.config, runner.block_size, runner.model.dtype)
    return KVPool(len(manager.pool.blocks), manager.block_size, size)
