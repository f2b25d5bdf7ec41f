# ruff: noqa: ARG001, D103  (what each gets wrong stands in its decorator; a stub's arguments are given)
"""Which tokens the policy said."""

import torch

from wrong_answers import wrong


def _places(ids):
    return torch.arange(ids.shape[1]).expand(ids.shape)


def _ended(ids, prompt_width, eos_id):
    """How many ends of the response stand before a place."""
    ends = ((ids == eos_id) & (_places(ids) >= prompt_width)).long()
    return ends.cumsum(1) - ends


@wrong("07.response_mask", "masked-by-value", "Takes every end token for padding.")
def by_value(ids, prompt_width, eos_id):
    return (_places(ids) >= prompt_width) & (ids != eos_id)


@wrong("07.response_mask", "counts-padding", "Takes all columns of the responses.")
def all_columns(ids, prompt_width, eos_id):
    return _places(ids) >= prompt_width


@wrong("07.response_mask", "end-of-the-prompt", "Looks for the first end token of the row.")
def end_of_prompt(ids, prompt_width, eos_id):
    ends = (ids == eos_id).long()
    return (_places(ids) >= prompt_width) & (ends.cumsum(1) - ends == 0)


@wrong("07.response_mask", "argmax-of-nothing", "Asks argmax for the end, and some responses have none.")
def argmax(ids, prompt_width, eos_id):
    end = prompt_width + (ids[:, prompt_width:] == eos_id).long().argmax(1)
    return (_places(ids) >= prompt_width) & (_places(ids) <= end[:, None])


@wrong("07.response_mask", "prompt-too", "Forgets to leave out the prompt.")
def prompt_too(ids, prompt_width, eos_id):
    return _ended(ids, prompt_width, eos_id) == 0


@wrong("07.response_mask", "starts-early", "Starts at the prompt's last token, whose logits predict the response.")
def early(ids, prompt_width, eos_id):
    return (_places(ids) >= prompt_width - 1) & (_ended(ids, prompt_width, eos_id) == 0)


@wrong("07.response_mask", "starts-late", "Starts at the response's second token.")
def late(ids, prompt_width, eos_id):
    return (_places(ids) > prompt_width) & (_ended(ids, prompt_width, eos_id) == 0)


@wrong("07.response_mask", "one-length-for-all", "Cuts all rows where the first one ends.")
def first_row(ids, prompt_width, eos_id):
    mask = (_places(ids) >= prompt_width) & (_ended(ids, prompt_width, eos_id) == 0)
    return mask[:1].expand(mask.shape).clone()


@wrong("07.response_mask", "no-bool", "Returns ones and zeros.")
def numbers(ids, prompt_width, eos_id):
    return ((_places(ids) >= prompt_width) & (_ended(ids, prompt_width, eos_id) == 0)).long()
