"""Conversations as tokens: what the chat template writes, cut where the assistant begins to speak."""

from collections.abc import Mapping, Sequence
from typing import Any

Message = Mapping[str, str]
"""`{"role": "user", "content": "What is 2+3?"}`."""

Conversation = Sequence[Message]
"""Messages in the order in which they were said."""


def render(tokenizer: Any, conversation: Conversation, **options: Any) -> str:
    """Return the conversation as the tokenizer's chat template writes it.

    Raises:
        ValueError: the tokenizer has no chat template, or the template refuses the conversation.
    """
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise ValueError("the tokenizer has no chat template; take a model that was tuned to chat, such as 'smollm2'.")
    try:
        text: str = tokenizer.apply_chat_template(
            [dict(message) for message in conversation], tokenize=False, **options
        )
    except TemplateError as error:
        raise ValueError(f"the chat template refuses the conversation: {error}") from error
    return text


def conversation_ids(tokenizer: Any, prompt: str, answer: str) -> list[int]:
    """Return the tokens of a user's message and its answer: what a reward model scores.

    Tokens and not text: a tokenizer that adds a begin token would put a second one before the template's.

    Raises:
        ValueError: the tokenizer has no chat template, or the template refuses the conversation.
    """
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    ids: list[int] = tokenizer(render(tokenizer, messages), add_special_tokens=False).input_ids
    return ids


def split_last_turn(tokenizer: Any, conversation: Conversation) -> tuple[list[int], list[int]]:
    """Return the token ids of a conversation before its last turn, the assistant's, and of that turn with its end token.

    The rendered text is tokenized once, as a whole, and cut at a token: text that is cut first can give other tokens at
    the cut. A token over the cut (a line break that merges with the answer's first) is the turn's, as in transformers'
    assistant mask. White space that the template writes after the end token is left out: nobody has to learn it, because
    generation has stopped.

    Raises:
        ValueError: the tokenizer gives no offsets, or the template does not fit: it changes what came before the answer, or
            ends the turn without a token that says so.
    """
    if not tokenizer.is_fast:
        raise ValueError(f"{type(tokenizer).__name__} gives no offsets; load the fast tokenizer (AutoTokenizer does).")
    before = render(tokenizer, conversation[:-1], add_generation_prompt=True)
    text = render(tokenizer, conversation)
    if not text.startswith(before):
        raise ValueError(
            "the chat template writes the turns before the answer in another way once it is there, so the prompt that"
            f" generation sees is not a part of the whole: {before[-40:]!r} is not where it was."
        )
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = encoded.input_ids, encoded.offset_mapping
    start = sum(end <= len(before) for _, end in offsets)
    stop = sum(begin < len(text.rstrip()) for begin, _ in offsets)
    if ids[stop - 1] not in tokenizer.added_tokens_decoder:
        raise ValueError(
            f"the chat template ends the assistant's turn with {text[-10:]!r}, which is no special token: a policy that is"
            " trained on it would not learn to stop. Take a model whose template ends a turn with a token of its own."
        )
    return ids[:start], ids[start:stop]
