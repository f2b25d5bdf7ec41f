"""What a block is called in the prefix cache: the hash of its tokens and of everything before them."""

from array import array
from collections.abc import Sequence
from hashlib import sha256

BlockHash = bytes
"""32 bytes that stand for a full block's tokens and all tokens before them."""

ROOT = b""
"""The parent of a sequence's first block."""


def block_hash(parent: BlockHash, tokens: Sequence[int]) -> BlockHash:
    """Return the hash of a full block, given its predecessor's hash and its own tokens.

    The parent has to be in it: a token's key and value depend on all tokens before it, so equal tokens after different
    beginnings have different keys and values. The hash has to be cryptographic: whoever could make two prompts collide
    would be served from another's cache. vLLM hashes the same chain with SHA-256 (`hash_block_tokens` in
    vllm/v1/core/kv_cache_utils.py), with further keys for images, adapters and tenants.
    """
    return sha256(parent + array("q", tokens).tobytes()).digest()


def block_hashes(tokens: Sequence[int], block_size: int, known: Sequence[BlockHash] = ()) -> list[BlockHash]:
    """Return the hash chain of a sequence: one hash for each full block. A block that is not full yet has none.

    Args:
        tokens: the sequence from its first token.
        block_size: slots in a block.
        known: the first hashes of the chain, where they were computed before.

    Raises:
        ValueError: blocks without slots.
    """
    if block_size < 1:
        raise ValueError(f"block_size is {block_size}; expected 1 or more (vLLM's default is 16)")
    hashes = list(known)
    for end in range((len(hashes) + 1) * block_size, len(tokens) + 1, block_size):
        hashes.append(block_hash(hashes[-1] if hashes else ROOT, tokens[end - block_size : end]))
    return hashes
