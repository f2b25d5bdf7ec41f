"""Greedy decoding of several requests at once, their keys and values in one pool of blocks."""

from collections.abc import Mapping, Sequence

import torch

from course_lib.kv_cache.transformer import Transformer
from course_lib.paged_attention.kv_manager import PagedKVManager
from course_lib.paged_attention.paged_cache import PagedKVCache


def generate_paged(
    model: Transformer,
    cache: PagedKVCache,
    manager: PagedKVManager,
    prompts: Mapping[str, Sequence[int]],
    new_tokens: int,
) -> dict[str, list[int]]:
    """Continue all prompts together, each by the same number of greedy tokens, and keep their blocks.

    It is the smallest loop that uses a block table. It asks for every request's blocks first and gives up where the pool
    is too small; deciding who waits, who runs and who is thrown out is lesson 04.

    Args:
        model: the model.
        cache: the KV tensors.
        manager: the block tables, over a pool of as many blocks as the cache has.
        prompts: the prompt of each request.
        new_tokens: how many tokens to generate for each.

    Returns:
        The new tokens of each request.

    Raises:
        ValueError: the pool has too few blocks.
    """
    todo: dict[str, list[int]] = {}  # tokens of each request that have no keys and values yet
    for request_id, prompt in prompts.items():
        cached = manager.allocate(request_id, prompt)
        if cached is None:
            raise ValueError(f"no blocks left for the prompt of {request_id!r}; make the pool larger")
        todo[request_id] = list(prompt[cached:])
    made: dict[str, list[int]] = {request_id: [] for request_id in prompts}
    for _ in range(new_tokens):
        for request_id, token in step(model, cache, manager, todo).items():
            made[request_id].append(token)
            todo[request_id] = [token]
            if len(made[request_id]) < new_tokens and not manager.append(request_id, [token]):
                raise ValueError(f"no block left for token {manager.length(request_id)} of {request_id!r}")
    return made


@torch.inference_mode()
def step(
    model: Transformer, cache: PagedKVCache, manager: PagedKVManager, todo: Mapping[str, Sequence[int]]
) -> dict[str, int]:
    """Run the model once for tokens of several requests; return the most likely next token of each.

    Args:
        model: the model.
        cache: the KV tensors.
        manager: the block tables, with slots for these tokens.
        todo: each request's last tokens, those without keys and values: a whole prompt, a part of it, or one token.
    """
    query_lens = [len(tokens) for tokens in todo.values()]
    seq_lens = [manager.length(request_id) for request_id in todo]
    cache.begin_step([manager.table(request_id) for request_id in todo], seq_lens, query_lens)
    device = cache.kv.device
    tokens = torch.tensor([token for of_request in todo.values() for token in of_request], device=device)
    positions = torch.cat([torch.arange(end - new, end) for end, new in zip(seq_lens, query_lens, strict=True)])
    hidden = model.hidden_states(tokens, positions.to(device), cache)
    last = (
        torch.tensor(query_lens, device=device).cumsum(0) - 1
    )  # the next token comes from each request's last one alone
    return dict(zip(todo, model.logits(hidden[last]).argmax(-1).tolist(), strict=True))
