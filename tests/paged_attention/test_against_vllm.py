"""Random traces through vLLM's own `BlockPool` and `KVCacheManager`, and through ours: every number and every order is equal."""

import random
from collections import Counter
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from course_lib.paged_attention import BlockPool, PagedKVManager, block_hashes

pytestmark = pytest.mark.slow  # vLLM's import

BLOCK_SIZE, NUM_BLOCKS, TRACES = 4, 12, 1000


@pytest.fixture(scope="module")
def vllm() -> SimpleNamespace:
    from course_lib import machine

    machine.prepare()
    from vllm.sampling_params import SamplingParams
    from vllm.utils.hashing import sha256
    from vllm.v1.core.block_pool import BlockPool as VLLMBlockPool
    from vllm.v1.core.kv_cache_manager import KVCacheManager
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
    from vllm.v1.request import Request

    init_none_hash(sha256)
    spec = FullAttentionSpec(block_size=BLOCK_SIZE, num_kv_heads=1, head_size=1, dtype=torch.float32)
    config = KVCacheConfig(NUM_BLOCKS, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)])

    def request(name: str, tokens: list[int]) -> Any:
        return Request(
            request_id=name,
            prompt_token_ids=tokens,
            pooling_params=None,
            sampling_params=SamplingParams(max_tokens=99, ignore_eos=True),
            block_hasher=get_request_block_hasher(BLOCK_SIZE, sha256),
        )

    def manager(caching: bool) -> Any:
        return KVCacheManager(
            config,
            max_model_len=256,
            scheduler_block_size=BLOCK_SIZE,
            hash_block_size=BLOCK_SIZE,
            enable_caching=caching,
        )

    def pool(caching: bool) -> Any:
        return VLLMBlockPool(NUM_BLOCKS, caching, BLOCK_SIZE)

    return SimpleNamespace(request=request, manager=manager, pool=pool)


def state(pool: Any, theirs: bool) -> dict[str, Any]:
    """What can be seen of a pool. Hashes differ in their bytes, so each is named by the first block that has it."""
    names: dict[bytes, int] = {}
    free = [block.block_id for block in pool.free_block_queue.get_all_free_blocks()] if theirs else pool.free_list
    return {
        "free list": free,
        "reference counts": [block.ref_cnt for block in pool.blocks][1:],  # nobody counts the null block's
        "hashes": [
            None if block.block_hash is None else names.setdefault(block.block_hash, block.block_id)
            for block in pool.blocks
        ],
    }


@pytest.mark.parametrize("caching", [True, False])
def test_pool_keeps_vllms_free_list(vllm: SimpleNamespace, caching: bool) -> None:
    evicted = hits = 0
    for seed in range(TRACES):
        chance = random.Random(seed)
        theirs, ours = vllm.pool(caching), BlockPool(NUM_BLOCKS, caching, null_block=True)
        held: list[list[int]] = []
        for number in range(60):
            action = chance.choice(["take", "take", "cache", "free", "free", "look up"])
            if action == "take" and ours.num_free_blocks:
                count = chance.randint(1, ours.num_free_blocks)
                evicted += sum(ours.blocks[block_id].block_hash is not None for block_id in ours.free_list[:count])
                taken = [block.block_id for block in ours.get_new_blocks(count)]
                assert taken == [block.block_id for block in theirs.get_new_blocks(count)], (seed, number)
                held.append(taken)
            elif action == "cache" and held:
                table = [block_id for block_id in chance.choice(held) if ours.blocks[block_id].block_hash is None]
                hashes = [bytes([chance.randrange(6)]) * 32 for _ in table]
                request = SimpleNamespace(block_hashes=hashes)
                if caching:  # vLLM's manager does not call it without
                    theirs.cache_full_blocks(request, [theirs.blocks[i] for i in table], 0, len(table), BLOCK_SIZE, 0)
                ours.cache_full_blocks([ours.blocks[i] for i in table], hashes)
            elif action == "look up":
                wanted = bytes([chance.randrange(6)]) * 32
                found, their_found = ours.get_cached_block(wanted), theirs.get_cached_block(wanted, [0])
                assert (found and found.block_id) == (their_found and their_found[0].block_id), (seed, number)
                if found and not any(found.block_id in table for table in held):
                    hits += 1
                    ours.touch([found])
                    theirs.touch(their_found)
                    held.append([found.block_id])
            elif action == "free" and held:
                table = held.pop(chance.randrange(len(held)))
                chance.shuffle(table)
                ours.free_blocks([ours.blocks[i] for i in table])
                theirs.free_blocks([theirs.blocks[i] for i in table])
            assert state(ours, theirs=False) == state(theirs, theirs=True), (seed, number, action)
    assert not caching or min(evicted, hits) > TRACES


@pytest.mark.parametrize("caching", [True, False])
def test_manager_gives_vllms_blocks(vllm: SimpleNamespace, caching: bool) -> None:
    seen: Counter[str] = Counter()
    for seed in range(TRACES):
        trace = Trace(vllm, caching, seed)
        for _ in range(50):
            seen[trace.act()] += 1
            trace.compare()
        seen["hit"] += trace.hits
        seen["shared"] += trace.shared
    # Else the traces prove little.
    exercised = ["refused", "preempted", "hit", "shared", "reset"] if caching else ["refused", "preempted"]
    assert all(seen[what] > TRACES / 10 for what in exercised), seen


class Trace:
    """The same requests through vLLM's manager and ours, as a scheduler could drive them: in chunks, with preemptions."""

    def __init__(self, vllm: SimpleNamespace, caching: bool, seed: int):
        self.vllm, self.seed, self.chance = vllm, seed, random.Random(seed)
        self.theirs = vllm.manager(caching)
        self.ours = PagedKVManager(NUM_BLOCKS, BLOCK_SIZE, caching, partial(BlockPool, null_block=True))
        self.waiting: list[Any] = []
        self.running: list[Any] = []
        self.started = self.hits = self.shared = 0
        self.action = ""

    def act(self) -> str:
        action = self.chance.choice(
            ["arrive", "start", "start", "go on", "go on", "go on", "finish", "preempt", "reset"]
        )
        self.action = action
        if action == "arrive":
            # Few tokens and few beginnings, so that prefixes meet.
            tokens = [self.chance.randrange(2)] * self.chance.randrange(17) + [7, 8] * self.chance.randrange(5) + [9]
            self.started += 1
            self.waiting.append(self.vllm.request(f"r{self.started}", tokens))
        elif action == "start" and self.waiting:
            self.start(self.waiting.pop(self.chance.randrange(len(self.waiting))))
        elif action == "go on" and self.running:
            self.go_on(self.chance.choice(self.running))
        elif action in ("finish", "preempt") and self.running:
            request = self.running.pop(self.chance.randrange(len(self.running)))
            self.theirs.free(request)
            self.ours.free(request.request_id)
            if action == "preempt":
                self.action = "preempted"
                request.num_computed_tokens = 0
                self.waiting.append(request)
        elif action == "reset" and not self.running:
            assert self.ours.pool.reset_prefix_cache() and self.theirs.reset_prefix_cache()
        return self.action

    def start(self, request: Any) -> None:
        hashes = block_hashes(request.all_token_ids, BLOCK_SIZE) if self.ours.enable_caching else []
        found, hit, _ = self.theirs.get_computed_blocks(request)
        computed = self.ours.get_computed_blocks(hashes, request.num_tokens)
        assert [block.block_id for block in computed] == found.get_block_ids()[0], self.seed
        assert len(computed) * BLOCK_SIZE == hit
        chunk = self.chance.randint(1, request.num_tokens - hit)
        self.shared += sum(block.ref_cnt > 0 for block in computed)
        if self.allocate(request, hit + chunk, hashes, computed, (chunk, hit, found)):
            self.hits += len(computed)
            self.running.append(request)
        else:
            self.waiting.append(request)

    def go_on(self, request: Any) -> None:
        if request.num_computed_tokens == request.num_tokens:
            request.append_output_token_ids([self.chance.randrange(2) for _ in range(self.chance.randint(1, 3))])
        chunk = self.chance.randint(1, request.num_tokens - request.num_computed_tokens)
        hashes = block_hashes(request.all_token_ids, BLOCK_SIZE)
        self.allocate(request, request.num_computed_tokens + chunk, hashes, [], (chunk,))

    def allocate(self, request: Any, tokens: int, hashes: Any, computed: Any, their_arguments: Any) -> bool:
        their_new = self.theirs.allocate_slots(request, *their_arguments)
        free = self.ours.pool.num_free_blocks
        needed = self.ours.num_blocks_needed(request.request_id, tokens, computed)
        new = self.ours.allocate_slots(request.request_id, tokens, hashes, computed)
        assert (new is None) == (their_new is None) == (needed > free), self.seed
        if new is None:
            self.action = "refused"
            return False
        assert [block.block_id for block in new] == their_new.get_block_ids()[0], self.seed
        request.num_computed_tokens = tokens
        return True

    def compare(self) -> None:
        assert state(self.ours.pool, theirs=False) == state(self.theirs.block_pool, theirs=True), (
            self.seed,
            self.action,
        )
        for request in self.running:
            assert self.ours.table(request.request_id) == self.theirs.get_block_ids(request.request_id)[0], self.seed
