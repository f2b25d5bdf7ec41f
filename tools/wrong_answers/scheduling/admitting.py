# ruff: noqa: ARG001, D103  (what each gets wrong stands in its decorator; a stub's arguments are given)
"""Admission."""

from wrong_answers import wrong


def _blocks(tokens, block_size):
    return -(-tokens // block_size)


@wrong("04.admission", "overtakes", "Goes on behind a request that does not fit.")
def overtakes(waiting, budget, places, free_blocks, block_size):
    plan = {}
    for request in waiting:
        if not budget or len(plan) == places:
            break
        needed = _blocks(request.num_tokens, block_size)
        if needed > free_blocks:
            continue
        plan[request.request_id] = min(request.num_tokens, budget)
        budget -= plan[request.request_id]
        free_blocks -= needed
    return plan


@wrong("04.admission", "first-chunk-fits", "Asks only for the blocks of the first chunk.")
def first_chunk(waiting, budget, places, free_blocks, block_size):
    plan = {}
    for request in waiting:
        new = min(request.num_tokens, budget)
        if not new or len(plan) == places or _blocks(new, block_size) > free_blocks:
            break
        plan[request.request_id] = new
        budget -= new
        free_blocks -= _blocks(new, block_size)
    return plan


@wrong("04.admission", "no-chunks", "Lets a prompt wait until it fits into the budget as a whole.")
def no_chunks(waiting, budget, places, free_blocks, block_size):
    plan = {}
    for request in waiting:
        needed = _blocks(request.num_tokens, block_size)
        if request.num_tokens > budget or len(plan) == places or needed > free_blocks:
            break
        plan[request.request_id] = request.num_tokens
        budget -= request.num_tokens
        free_blocks -= needed
    return plan


@wrong("04.admission", "forgets-places", "Lets in as many as budget and blocks allow.")
def no_places(waiting, budget, places, free_blocks, block_size):
    plan = {}
    for request in waiting:
        needed = _blocks(request.num_tokens, block_size)
        if not budget or needed > free_blocks:
            break
        plan[request.request_id] = min(request.num_tokens, budget)
        budget -= plan[request.request_id]
        free_blocks -= needed
    return plan


@wrong("04.admission", "over-budget", "Looks whether there is a budget, and not how much.")
def over_budget(waiting, budget, places, free_blocks, block_size):
    plan = {}
    for request in waiting:
        needed = _blocks(request.num_tokens, block_size)
        if budget <= 0 or len(plan) == places or needed > free_blocks:
            break
        plan[request.request_id] = request.num_tokens
        budget -= request.num_tokens
        free_blocks -= needed
    return plan


@wrong("04.admission", "blocks-given-twice", "Does not count the blocks of those who begin.")
def blocks_twice(waiting, budget, places, free_blocks, block_size):
    plan = {}
    for request in waiting:
        if not budget or len(plan) == places or _blocks(request.num_tokens, block_size) > free_blocks:
            break
        plan[request.request_id] = min(request.num_tokens, budget)
        budget -= plan[request.request_id]
    return plan


@wrong("04.admission", "rounds-down", "Counts full blocks only.")
def rounds_down(waiting, budget, places, free_blocks, block_size):
    plan = {}
    for request in waiting:
        needed = request.num_tokens // block_size
        if not budget or len(plan) == places or needed > free_blocks:
            break
        plan[request.request_id] = min(request.num_tokens, budget)
        budget -= plan[request.request_id]
        free_blocks -= needed
    return plan


@wrong("04.admission", "begins-with-nothing", "Goes on when the budget is used up.")
def zeros(waiting, budget, places, free_blocks, block_size):
    plan = {}
    for request in waiting[:places]:
        needed = _blocks(request.num_tokens, block_size)
        if needed > free_blocks:
            break
        plan[request.request_id] = min(request.num_tokens, budget)
        budget -= plan[request.request_id]
        free_blocks -= needed
    return plan


@wrong("04.admission", "shortest-first", "Lets short prompts begin first.")
def shortest(waiting, budget, places, free_blocks, block_size):
    plan = {}
    for request in sorted(waiting, key=lambda request: request.num_tokens):
        needed = _blocks(request.num_tokens, block_size)
        if not budget or len(plan) == places or needed > free_blocks:
            break
        plan[request.request_id] = min(request.num_tokens, budget)
        budget -= plan[request.request_id]
        free_blocks -= needed
    return plan
