"""From tokens to text, as they come: never half a character, never a part of what will turn out to stop the output."""

from collections.abc import Sequence
from typing import Any

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class Detokenizer:
    """Makes a request's text from its tokens, one at a time.

    A byte-level token may end within a character's UTF-8 bytes; decoders write a replacement character for such a rest. So
    a replacement character at the end waits for the next token, and one before the end is final. Some decoders drop the
    space before the first token they see, so a token is decoded after those before it, not alone. The text is in the end
    what the tokenizer makes of all tokens at once.

    Args:
        tokenizer: a transformers tokenizer.
        stop: strings that end the output.
        include_stop: whether the text keeps the string that ended it.
        skip_special_tokens: whether to leave special tokens out.
        min_tokens: tokens before which no string ends the output.
    """

    def __init__(
        self,
        tokenizer: Any,
        stop: Sequence[str] = (),
        include_stop: bool = False,
        skip_special_tokens: bool = True,
        min_tokens: int = 0,
    ):
        self._tokenizer, self._stop, self._include_stop = tokenizer, tuple(stop), include_stop
        self._skip, self._min_tokens = skip_special_tokens, min_tokens
        self._window: list[int] = []  # the tokens to decode: some that are done, then those that are not
        self._emitted = 0  # characters of the window's text that are in `text`
        self._num_tokens = 0
        self._finished = False
        self.text = ""

    def add(self, token: int) -> str | None:
        """Take in a token, and return the stop string that it completes, if it does."""
        self._num_tokens += 1
        self._window.append(token)
        text = self._decode(self._window)
        stable = text.removesuffix(_INCOMPLETE)
        before = len(self.text)
        self.text += stable[self._emitted :]
        self._emitted = max(self._emitted, len(stable))
        if stable == text and len(self._window) > 2 * _CONTEXT:
            self._window = self._window[-_CONTEXT:]
            self._emitted = len(self._decode(self._window))
        return self._find_stop(before) if self._num_tokens > self._min_tokens else None

    def finish(self) -> None:
        """Say that no token follows: what was held back is text now."""
        if not self._finished:
            self.text += self._decode(self._window)[self._emitted :]
            self._finished = True

    @property
    def visible(self) -> str:
        """The text that can be shown now: the end, which may be the beginning of a stop string, only when finished."""
        if self._finished:
            return self.text
        held = max((_overlap(self.text, stop) for stop in self._stop), default=0)
        return self.text[: len(self.text) - held]

    def __repr__(self) -> str:
        return f"Detokenizer({self._num_tokens} tokens, {self.visible[-40:]!r})"

    def _find_stop(self, before: int) -> str | None:
        """Cut the text at the stop string that is complete first, of those that end after its first `before` characters."""
        found = [(self.text.find(stop, max(0, before - len(stop) + 1)), stop) for stop in self._stop]
        complete = [(at, stop) for at, stop in found if at >= 0]
        if not complete:
            return None
        # Of two that end together the one that was named first, as in vLLM (`check_stop_strings`).
        at, stop = min(complete, key=lambda place: place[0] + len(place[1]))
        self.text = self.text[: at + (len(stop) if self._include_stop else 0)]
        self._finished = True
        return stop

    def decode(self, tokens: list[int]) -> str:
        """Return what the tokenizer makes of these tokens alone, special ones included."""
        return str(self._tokenizer.decode(tokens))

    def _decode(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=self._skip)) if tokens else ""


_CONTEXT = 4
"""Tokens that are decoded again before a new one."""


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the text's end are the beginning of `stop`, but not all of it."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
