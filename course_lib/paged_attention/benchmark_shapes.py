"""The batches that the kernel is measured on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from course_lib.paged_attention.triton_launch import Launch, choose_launch


@dataclass(frozen=True)
class BatchShape:
    """A batch: a model's attention shape, and each sequence's keys and new tokens."""

    name: str
    heads: int
    kv_heads: int
    head_dim: int
    seq_lens: tuple[int, ...]
    query_lens: tuple[int, ...]
    block_size: int = 16

    def bytes_moved(self, itemsize: int) -> int:
        """Return the bytes that any kernel moves: each key and value once, each query and each result once."""
        cache = 2 * sum(self.seq_lens) * self.kv_heads
        return (cache + 2 * sum(self.query_lens) * self.heads) * self.head_dim * itemsize

    def flops(self) -> int:
        """Return the floating-point operations of both products, those that causality leaves out not counted."""
        pairs = sum(new * keys - new * (new - 1) // 2 for keys, new in zip(self.seq_lens, self.query_lens, strict=True))
        return 4 * pairs * self.heads * self.head_dim

    def arguments(self, dtype: torch.dtype, device: str, seed: int = 0) -> dict[str, Any]:
        """Return random arguments of `paged_attention`, whose blocks lie all over the pool."""
        generator = torch.Generator(device).manual_seed(seed)
        blocks = [-(-keys // self.block_size) for keys in self.seq_lens]
        owners = torch.randperm(sum(blocks), generator=generator, device=device, dtype=torch.int32).split(blocks)
        tables = torch.nn.utils.rnn.pad_sequence(owners, batch_first=True)
        cache = (sum(blocks), self.block_size, self.kv_heads, self.head_dim)
        queries = (sum(self.query_lens), self.heads, self.head_dim)
        q, keys, values = (
            torch.randn(size, generator=generator, device=device, dtype=dtype) for size in (queries, cache, cache)
        )
        seq_lens, query_lens = (
            torch.tensor(lens, dtype=torch.int32, device=device) for lens in (self.seq_lens, self.query_lens)
        )
        return {"q": q, "key_cache": keys, "value_cache": values} | {
            "block_tables": tables, "seq_lens": seq_lens, "query_lens": query_lens
        }  # fmt: skip

    def hints(self) -> dict[str, Any]:
        """Return what an engine's host knows of the batch."""
        return {"max_query_len": max(self.query_lens), "max_seq_len": max(self.seq_lens)}

    def launch(self, arguments: Mapping[str, Any]) -> Launch:
        """Return the launch that the kernel chooses."""
        return choose_launch(arguments["q"], arguments["key_cache"], arguments["block_tables"], **self.hints())


SHAPES = (
    BatchShape("Qwen3-0.6B, decode", 16, 8, 128, (1000,) * 256, (1,) * 256),
    BatchShape("Llama-3.1-8B, decode", 32, 8, 128, (4096,) * 32, (1,) * 32),
    BatchShape("SmolLM2-135M, decode", 9, 3, 64, (512,) * 64, (1,) * 64),
    BatchShape("Llama-3.1-8B, one long decode", 32, 8, 128, (32768,), (1,)),
    BatchShape("Llama-3.1-8B, chunks of prompts", 32, 8, 128, (2560,) * 4, (512,) * 4),
    BatchShape("Qwen3-0.6B, 63 decodes and a chunk", 16, 8, 128, (1000,) * 64, (1,) * 63 + (512,)),
)
SMALL = (
    BatchShape("small, decode", 4, 2, 16, (40, 40), (1, 1)),
    BatchShape("small, chunks", 3, 1, 16, (21, 21), (5, 5)),
    BatchShape("small, mixed", 4, 1, 16, (33, 9), (1, 9)),
)
