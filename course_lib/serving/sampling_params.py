"""How to choose a request's tokens, and when to stop; names and defaults are those of vLLM's `SamplingParams`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

GREEDY_BELOW = 1e-5
"""A temperature below this is greedy, as in vLLM."""


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """What a request asks of the sampler.

    Unlike vLLM's, it can be made with wrong values. They are an error of the request that comes with them (see `check`), so
    that a wrong one among many does not keep the others from running.

    Attributes:
        n: samples of the prompt; each is a request of its own, and they share the prompt's blocks.
        temperature: logits are divided by it; 0 takes the most likely token.
        top_p: sample among the fewest tokens whose probabilities sum to this or more; 1 is off.
        top_k: sample among this many tokens; 0 or -1 is off.
        min_p: sample among tokens that are at least this share as likely as the most likely one; 0 is off.
        seed: makes the samples repeatable, whatever else is in the batch; sample i of n has seed + i.
        stop: strings that end the output, which does not contain them unless `include_stop_str_in_output`.
        stop_token_ids: tokens that end the output, as its last token.
        ignore_eos: whether to go on after the end-of-sequence token.
        max_tokens: tokens to generate at most; None is up to the model's length.
        min_tokens: tokens before which nothing stops but a length.
        logprobs: how many most likely tokens to report beside the sampled one, with their log probabilities; None reports none.
        detokenize: whether to make text.
        skip_special_tokens: whether to leave special tokens out of the text.
        include_stop_str_in_output: whether the text keeps what stopped it.
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: str | Sequence[str] | None = None
    stop_token_ids: Sequence[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False

    @property
    def greedy(self) -> bool:
        """Whether chance has no part in it."""
        return self.temperature < GREEDY_BELOW

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """`stop` as a tuple."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def check(self, vocab: int) -> None:
        """Raise one error that says all that is wrong.

        Args:
            vocab: token ids of the model.

        Raises:
            ValueError: a value is out of its range, or of the wrong type.
        """
        wrong = [
            f"{name}={getattr(self, name)!r}; expected {expected}"
            for name, expected, holds in self._rules(vocab)
            if not holds
        ]
        if wrong:
            raise ValueError(f"SamplingParams: {' | '.join(wrong)}")

    def _rules(self, vocab: int) -> list[tuple[str, str, bool]]:
        """What must hold, as (attribute, what was expected, whether it holds)."""
        return [
            ("n", "a whole number, 1 or more", _whole(self.n, 1)),
            ("temperature", "0 (greedy) or more", _number(self.temperature, 0)),
            ("top_p", "more than 0, at most 1", _number(self.top_p, 0, 1) and self.top_p > 0),
            ("top_k", "1 or more, or 0 or -1 for all tokens", _whole(self.top_k, -1)),
            ("min_p", "0 to 1", _number(self.min_p, 0, 1)),
            ("seed", "a whole number from 0, or None", self.seed is None or _whole(self.seed, 0)),
            ("stop", "a string or several, none of them empty, or None", _strings(self.stop)),
            ("stop_token_ids", f"token ids from 0 to {vocab - 1}, or None", _token_ids(self.stop_token_ids, vocab)),
            ("max_tokens", "1 or more, or None", self.max_tokens is None or _whole(self.max_tokens, 1)),
            ("min_tokens", "0 to max_tokens", _whole(self.min_tokens, 0, self.max_tokens)),
            ("logprobs", f"0 to {vocab}, or None", self.logprobs is None or _whole(self.logprobs, 0, vocab)),
            (
                "stop",
                "none where detokenize=False, for without text no string can be found",
                self.detokenize or not self.stop,
            ),
        ]

    def __repr__(self) -> str:
        changed = (f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if getattr(self, f.name) != f.default)
        return f"SamplingParams({', '.join(changed)})"


def _whole(value: Any, low: int, high: Any = None) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and _number(value, low, high)


def _number(value: Any, low: float, high: Any = None) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return False
    return low <= value and (not isinstance(high, int | float) or value <= high)


def _strings(value: Any) -> bool:
    if value is None or isinstance(value, str):
        return value != ""
    return isinstance(value, Sequence) and all(isinstance(one, str) and one for one in value)


def _token_ids(value: Any, vocab: int) -> bool:
    return value is None or (
        isinstance(value, Sequence | set | frozenset) and all(_whole(t, 0, vocab - 1) for t in value)
    )
