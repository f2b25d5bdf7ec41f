"""The decoding loop with a cache, watched: which tokens at which positions into which cache, at each step."""

from dataclasses import dataclass
from functools import cache

import torch
from hypothesis import strategies as st
from torch import Tensor

from course_lib.grading.exercise import Answer, Exercise, WrongAnswer
from course_lib.grading.judge import call, for_all
from course_lib.kv_cache import KVCache, NoCache, Transformer, TransformerConfig, generate_without_cache
from course_lib.viz.tables import Table

_CONFIG = TransformerConfig(97, 32, 2, 4, 2, 8, 64, 1e-6, {"rope_theta": 100.0})
_PROMPT = st.lists(st.integers(0, 96), min_size=2, max_size=7)
_COUNT = st.integers(2, 6)

decoding = Exercise("01.decoding", "generate", "Decoding with a cache", difficulty=3, importance=5, minutes=20)


@dataclass(frozen=True)
class _Call:
    tokens: list[int]
    positions: list[int]
    cache: KVCache


class _Watched(Transformer):
    """A small random model that notes what it is given."""

    def __init__(self) -> None:
        super().__init__(_CONFIG)
        self.calls: list[_Call] = []

    def hidden_states(self, tokens: Tensor, positions: Tensor, cache: KVCache) -> Tensor:
        self.calls.append(_Call(tokens.tolist(), positions.tolist(), cache))
        return super().hidden_states(tokens, positions, cache)


@decoding.part(4, "the tokens are those that decoding without a cache gives")
def _same_tokens(answer: Answer) -> None:
    def test(prompt: list[int], count: int) -> None:
        got, calls = _run(answer, prompt, count)
        right = generate_without_cache(_model(), prompt, count)
        if got == right:
            return
        given = f"prompt {prompt}, {count} new tokens: {got} came, expected {right}"
        if got == prompt + right:
            raise WrongAnswer("returns-the-prompt", f"{given}. Return the new tokens alone")
        if got in (right[:-1], right[1:]):
            raise WrongAnswer("one-token-lost", f"{given}. The prefill's logits already give the first new token")
        if len(got) != count:
            raise WrongAnswer("wrong-count", f"{given}. That is not the number of tokens asked for")
        _look_at_calls(given, prompt, calls)
        raise WrongAnswer(
            "wrong-logits", f"{given}. The calls were right, so it is in how a token was chosen", _table(calls)
        )

    for_all(test, examples=12, prompt=_PROMPT, count=_COUNT)


@decoding.part(4, "after the prompt, each step computes one token")
def _one_token_a_step(answer: Answer) -> None:
    def test(prompt: list[int], count: int) -> None:
        calls = _run(answer, prompt, count)[1]
        sizes = [len(made.tokens) for made in calls]
        if sizes[1:] and max(sizes[1:]) > 1:
            said = f"prompt of {len(prompt)}, {count} new tokens: the steps computed {sizes} tokens; old ones are in the cache"
            raise WrongAnswer("recomputes", said, _table(calls))
        if sizes[0] != len(prompt):
            said = f"the prompt's {len(prompt)} tokens are known from the start: one call takes them all; sizes were {sizes}"
            raise WrongAnswer("prefill-token-by-token", said, _table(calls))

    for_all(test, examples=8, prompt=_PROMPT, count=_COUNT)


@decoding.part(2, "no step is computed that nothing is made of, and 0 new tokens are no tokens")
def _nothing_wasted(answer: Answer) -> None:
    def test(prompt: list[int], count: int) -> None:
        got, calls = _run(answer, prompt, count)
        if len(got) != count:
            raise WrongAnswer("wrong-count", f"{count} new tokens were asked for and {len(got)} came")
        if len(calls) > count:
            said = (
                f"{count} new tokens need {count} steps, {len(calls)} were run: the last token made is never looked at"
            )
            raise WrongAnswer("one-step-too-many", said, _table(calls))

    for_all(test, examples=8, prompt=_PROMPT, count=st.integers(0, 4))


@cache
def _model() -> _Watched:
    model = _Watched()
    chance = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        if parameter.ndim == 2:  # large enough that no token is likeliest whatever comes before it
            parameter.copy_(torch.randn(parameter.shape, generator=chance) * (1.5 * parameter.shape[1] ** -0.5))
    model.frequencies = 100.0 ** (-torch.arange(0, 8, 2) / 8)
    return model


def _run(answer: Answer, prompt: list[int], count: int) -> tuple[list[int], list[_Call]]:
    model = _model()
    model.calls = []
    try:
        got = call(answer, model, list(prompt), count)
    except WrongAnswer as wrong:
        if "do not fit" in wrong.message:
            said = f"prompt {prompt}, {count} new tokens: {wrong.message}"
            raise WrongAnswer("cache-too-small", said, _table(model.calls)) from wrong
        raise
    calls, model.calls = model.calls, []
    if not isinstance(got, list) or not all(isinstance(token, int) for token in got):
        raise WrongAnswer("no-list", f"expected a list of token ids (int), {type(got).__name__} came: {got!r:.80}")
    return got, calls


def _look_at_calls(given: str, prompt: list[int], calls: list[_Call]) -> None:
    """Name what is wrong with the calls, where that is what is wrong."""
    table, caches = _table(calls), {id(made.cache) for made in calls}
    single = [made for made in calls[1:] if len(made.tokens) == 1]
    if not any(isinstance(made.cache, NoCache) for made in calls):
        if len(caches) > 1:
            raise WrongAnswer(
                "new-cache-each-step", f"{given}. Each step had an empty cache: nothing was remembered", table
            )
        if len(calls) > 1 and calls[1].tokens[: len(prompt)] == prompt:
            raise WrongAnswer(
                "stored-twice", f"{given}. Tokens that the cache holds were given again: they are in it twice", table
            )
        if calls[1:] and calls[1].tokens == prompt[-1:] and calls[0].tokens[-1:] == prompt[-1:]:
            raise WrongAnswer(
                "last-token-twice", f"{given}. The prompt's last token was computed again as if it were new", table
            )
        if single and any(made.positions == [0] for made in single):
            said = f"{given}. A new token stands at its place in the text, not at 0: RoPE turns its query and key by that place"
            raise WrongAnswer("positions-restart", said, table)
    where = 0
    for made in calls:
        if made.positions != list(range(where, where + len(made.tokens))):
            said = f"{given}. A token's position is the number of tokens before it; see where they leave the count"
            raise WrongAnswer("wrong-positions", said, table)
        where += len(made.tokens)


def _table(calls: list[_Call]) -> Table:
    rows = [[str(step + 1), str(made.tokens), str(made.positions)] for step, made in enumerate(calls)]
    return Table("What the model was given", [">step", "tokens", "positions"], rows)
