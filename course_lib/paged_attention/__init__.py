"""Blocks, block tables, prefix caching, and attention through a block table."""

from course_lib.paged_attention.attention import paged_attention
from course_lib.paged_attention.block_pool import Block, BlockPool
from course_lib.paged_attention.block_table import num_blocks_for, slot, slot_mapping
from course_lib.paged_attention.copy_on_write import ForkingKVManager
from course_lib.paged_attention.decoding import generate_paged
from course_lib.paged_attention.kv_manager import PagedKVManager
from course_lib.paged_attention.paged_cache import AttentionMetadata, PagedKVCache
from course_lib.paged_attention.prefix_cache import BlockHash, block_hash, block_hashes
from course_lib.paged_attention.snapshot import BlockView, PoolSnapshot

__all__ = [
    "AttentionMetadata",
    "Block",
    "BlockHash",
    "BlockPool",
    "BlockView",
    "ForkingKVManager",
    "PagedKVCache",
    "PagedKVManager",
    "PoolSnapshot",
    "block_hash",
    "block_hashes",
    "generate_paged",
    "num_blocks_for",
    "paged_attention",
    "slot",
    "slot_mapping",
]
