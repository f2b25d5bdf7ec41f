# ruff: noqa: ARG001, D103  (what each gets wrong stands in its decorator; a stub's arguments are given)
"""What the running requests compute."""

from wrong_answers import wrong


@wrong("04.catch_up", "one-token-each", "Knows decoding only.")
def one_each(requests, budget):
    plan = {}
    for request in requests:
        if budget and request.num_computed_tokens < request.num_tokens:
            plan[request.request_id] = 1
            budget -= 1
    return plan


@wrong("04.catch_up", "no-budget", "Lets everybody catch up, whatever it takes.")
def no_budget(requests, budget):
    plan = {}
    for request in requests:
        new = request.num_tokens - request.num_computed_tokens
        if new:
            plan[request.request_id] = new
    return plan


@wrong("04.catch_up", "whole-or-nothing", "Computes a prompt as a whole or not at all.")
def whole(requests, budget):
    plan = {}
    for request in requests:
        new = request.num_tokens - request.num_computed_tokens
        if 0 < new <= budget:
            plan[request.request_id] = new
            budget -= new
    return plan


@wrong("04.catch_up", "stops-at-what-does-not-fit", "Ends the plan at the first prompt that does not fit as a whole.")
def stops(requests, budget):
    plan = {}
    for request in requests:
        new = request.num_tokens - request.num_computed_tokens
        if new > budget:
            break
        if new:
            plan[request.request_id] = new
            budget -= new
    return plan


@wrong("04.catch_up", "shortest-first", "Plans those first who are least behind.")
def shortest(requests, budget):
    plan = {}
    for request in sorted(requests, key=lambda request: request.num_tokens - request.num_computed_tokens):
        new = min(request.num_tokens - request.num_computed_tokens, budget)
        if new:
            plan[request.request_id] = new
            budget -= new
    return plan


@wrong("04.catch_up", "prompts-only", "Forgets that a generated token has to be computed, too.")
def prompts_only(requests, budget):
    plan = {}
    for request in requests:
        new = min(request.num_prompt_tokens - request.num_computed_tokens, budget)
        if new > 0:
            plan[request.request_id] = new
            budget -= new
    return plan


@wrong("04.catch_up", "plans-nothing-for-somebody", "Keeps requests in the plan that compute nothing.")
def zeros(requests, budget):
    plan = {}
    for request in requests:
        plan[request.request_id] = min(request.num_tokens - request.num_computed_tokens, budget)
        budget -= plan[request.request_id]
    return plan


@wrong("04.catch_up", "stops-at-a-zero", "Ends the plan at a request that is not behind.")
def stops_at_zero(requests, budget):
    plan = {}
    for request in requests:
        new = min(request.num_tokens - request.num_computed_tokens, budget)
        if not new:
            break
        plan[request.request_id] = new
        budget -= new
    return plan


@wrong("04.catch_up", "equal-shares", "Gives everybody the same share of the budget.")
def shares(requests, budget):
    share = budget // max(1, len(requests))
    plan = {request.request_id: min(request.num_tokens - request.num_computed_tokens, share) for request in requests}
    return {name: new for name, new in plan.items() if new}


@wrong("04.catch_up", "changes-the-requests", "Counts the tokens as computed while it plans.")
def counts_them(requests, budget):
    plan = {}
    for request in requests:
        new = min(request.num_tokens - request.num_computed_tokens, budget)
        if new:
            plan[request.request_id] = new
            request.num_computed_tokens += new
            budget -= new
    return plan
