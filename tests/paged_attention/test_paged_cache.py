"""A model through a block table gives the tokens that it gives through one piece of memory."""

import math

import pytest
import torch

from course_lib.kv_cache.decoding import generate_with_cache
from course_lib.kv_cache.transformer import Transformer
from course_lib.models import load_policy
from course_lib.paged_attention import ForkingKVManager, PagedKVCache, PagedKVManager, generate_paged
from course_lib.paged_attention.decoding import step


@pytest.fixture(scope="module")
def model() -> Transformer:
    return Transformer.load(load_policy("tiny"))


def prompts(*lengths: int) -> dict[str, list[int]]:
    generator = torch.Generator().manual_seed(sum(lengths))
    return {f"r{number}": torch.randint(3, 512, (n,), generator=generator).tolist() for number, n in enumerate(lengths)}


def poisoned(model: Transformer, num_blocks: int, block_size: int) -> PagedKVCache:
    """A cache in which whoever reads a slot that was never written gets NaN."""
    cache = PagedKVCache.for_model(model, num_blocks, block_size)
    cache.kv.fill_(math.nan)
    return cache


@pytest.mark.parametrize("block_size", [1, 4, 16])
@pytest.mark.parametrize("caching", [True, False])
def test_same_tokens_as_the_contiguous_cache(model: Transformer, block_size: int, caching: bool) -> None:
    requests = prompts(5, 1, 23, 16)
    requests["same"] = requests["r2"]  # in the same step as its twin
    requests["longer"] = [*requests["r3"], 7, 8, 9]
    manager = PagedKVManager(400 // block_size, block_size, caching)
    made = generate_paged(model, poisoned(model, 400 // block_size, block_size), manager, requests, 12)
    assert made == {name: generate_with_cache(model, prompt, 12) for name, prompt in requests.items()}
    shared = sum(block.ref_cnt > 1 for block in manager.pool.blocks)
    assert bool(shared) == caching


def test_a_later_request_reads_what_an_earlier_one_left(model: Transformer) -> None:
    (first,) = prompts(21).values()
    manager, cache = PagedKVManager(12, 4), poisoned(model, 12, 4)
    generate_paged(model, cache, manager, {"A": first}, 6)
    manager.free("A")
    second = [*first[:17], 4, 4, 4]
    assert manager.get_computed_blocks(manager_hashes(second), len(second))
    assert generate_paged(model, cache, manager, {"B": second}, 6)["B"] == generate_with_cache(model, second, 6)


def manager_hashes(tokens: list[int]) -> list[bytes]:
    from course_lib.paged_attention import block_hashes

    return block_hashes(tokens, 4)


def test_a_prompt_in_chunks_is_the_same_prompt(model: Transformer) -> None:
    (prompt,) = prompts(19).values()
    manager, cache = PagedKVManager(8, 4), poisoned(model, 8, 4)
    manager.allocate("A", prompt[:7])
    step(model, cache, manager, {"A": prompt[:7]})
    manager.append("A", prompt[7:16])
    step(model, cache, manager, {"A": prompt[7:16]})
    manager.append("A", prompt[16:])
    assert step(model, cache, manager, {"A": prompt[16:]})["A"] == generate_with_cache(model, prompt, 1)[0]


def test_forks_go_on_from_copied_blocks(model: Transformer) -> None:
    (prompt,) = prompts(10).values()
    manager, cache = ForkingKVManager(12, 4), poisoned(model, 12, 4)
    manager.allocate("A", prompt)
    step(model, cache, manager, {"A": prompt})
    manager.fork("A", "B")
    for name, token in (("A", 5), ("B", 6)):
        manager.append(name, [token])
    cache.copy_blocks(manager.take_copies())
    made = step(model, cache, manager, {"A": [5], "B": [6]})
    assert made == {name: generate_with_cache(model, [*prompt, token], 1)[0] for name, token in (("A", 5), ("B", 6))}


def test_a_pool_that_is_too_small_is_refused(model: Transformer) -> None:
    cache = PagedKVCache.for_model(model, 2, 4)
    with pytest.raises(ValueError, match="no blocks left for the prompt of 'r1'"):
        generate_paged(model, cache, PagedKVManager(2, 4), prompts(6, 6), 3)
    with pytest.raises(ValueError, match="no block left for token 8 of 'r0'"):
        generate_paged(model, cache, PagedKVManager(2, 4), prompts(6), 9)


def test_a_step_has_to_be_begun(model: Transformer) -> None:
    cache = PagedKVCache(2, 3, 4, 2, 8)
    q, kv = torch.zeros(3, 2, 8), torch.zeros(3, 2, 8)
    with pytest.raises(ValueError, match="no step was begun"):
        cache.attend(0, q, kv, kv)
    cache.begin_step([[0]], [2], [2])
    with pytest.raises(ValueError, match="keys of 3 tokens came, but the step begun has 2"):
        cache.attend(0, q, kv, kv)
    with pytest.raises(ValueError, match="position 4 is not in the table"):
        cache.begin_step([[0]], [5], [1])
    assert (
        repr(cache) == "PagedKVCache(2 layers, 3 blocks of 4 slots, 2 KV heads of 8, 0.0 MiB of torch.float32 on cpu)"
    )


@pytest.mark.slow
def test_smollm2_through_a_block_table() -> None:
    model = Transformer.load(load_policy("smollm2"))
    requests = prompts(40, 7, 65)
    made = generate_paged(model, poisoned(model, 20, 16), PagedKVManager(20, 16), requests, 16)
    assert made == {name: generate_with_cache(model, prompt, 16) for name, prompt in requests.items()}
