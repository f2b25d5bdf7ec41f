"""What callers may write as a prompt."""

from collections.abc import Mapping, Sequence
from typing import Any

from course_lib.serving.sampling_params import SamplingParams

Prompt = str | Sequence[int] | Mapping[str, Any]
"""Text, token ids, or vLLM's `{"prompt": text}` or `{"prompt_token_ids": ids}`."""


def as_prompts(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """Return one or several prompts as a list; a list of numbers is one prompt."""
    if isinstance(prompts, str | Mapping):
        return [prompts]
    listed: list[Any] = list(prompts)
    return [listed] if listed and all(isinstance(one, int) for one in listed) else listed


def tokens_of(prompt: Prompt, tokenizer: Any) -> tuple[str | None, list[int]]:
    """Return a prompt's text, where it has one, and its tokens.

    Raises:
        ValueError: it is no prompt.
    """
    text = prompt.get("prompt") if isinstance(prompt, Mapping) else prompt
    tokens = prompt.get("prompt_token_ids") if isinstance(prompt, Mapping) else prompt
    if isinstance(tokens, Sequence) and not isinstance(tokens, str):
        if not all(isinstance(token, int) and not isinstance(token, bool) for token in tokens):
            raise ValueError(f"prompt token ids must be whole numbers; got {_short(tokens)}")
        return (text if isinstance(text, str) else None), list(tokens)
    if isinstance(text, str):
        return text, list(tokenizer.encode(text))
    raise ValueError(
        f'a prompt is text, a list of token ids, {{"prompt": text}} or {{"prompt_token_ids": ids}}; got {_short(prompt)}'
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def one_each(name: str, values: Any, count: int) -> list[Any]:
    """Return a value for each of `count` prompts, from one for all or one each."""
    if isinstance(values, int | SamplingParams):
        return [values] * count
    if len(values) != count:
        raise ValueError(f"{name} has {len(values)} entries for {count} prompts; give one for all, or one each")
    return list(values)
