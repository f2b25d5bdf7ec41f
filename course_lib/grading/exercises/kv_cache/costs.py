"""Bytes of the cache, FLOPs of a generation, and the batch from which on decode is no longer bound by memory."""

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from hypothesis import strategies as st

from course_lib.grading.exercise import Answer, Exercise, WrongAnswer
from course_lib.grading.judge import call, for_all
from course_lib.kv_cache import HARDWARE, MODELS, ContiguousCache, Hardware, ModelShape, sequence_cost, step_cost
from course_lib.viz.tables import Cell, Table

kv_bytes = Exercise(
    "01.kv_bytes", "kv_bytes_per_token", "Bytes of KV per token", difficulty=1, importance=5, minutes=10
)
generation_flops = Exercise(
    "01.generation_flops", "generation_flops", "FLOPs of a whole generation", difficulty=3, importance=4, minutes=20
)
ridge_batch = Exercise(
    "01.ridge_batch", "ridge_batch", "The batch that leaves the slope", difficulty=4, importance=4, minutes=20
)

_DTYPES = {1: torch.float8_e4m3fn, 2: torch.bfloat16, 4: torch.float32}
_SIZE = st.integers(3, 8)


@kv_bytes.part(2, "an older config, where each query head has its own keys and values")
def _own_heads(answer: Answer) -> None:
    def test(layers: int, heads: int, head_dim: int, size: int) -> None:
        config = {"num_hidden_layers": layers, "num_attention_heads": heads, "hidden_size": heads * head_dim}
        _check_bytes(answer, config, heads, head_dim, size)

    for_all(
        test,
        examples=30,
        layers=_SIZE,
        heads=_SIZE,
        head_dim=st.sampled_from([16, 64]),
        size=st.sampled_from([2, 4, 1]),
    )


@kv_bytes.part(4, "grouped-query attention: fewer KV heads than query heads")
def _shared_heads(answer: Answer) -> None:
    def test(layers: int, kv_heads: int, group: int, head_dim: int) -> None:
        heads = kv_heads * group
        config = {"num_hidden_layers": layers, "num_attention_heads": heads, "hidden_size": heads * head_dim}
        _check_bytes(answer, config | {"num_key_value_heads": kv_heads}, kv_heads, head_dim, 2)

    for_all(
        test,
        examples=30,
        layers=_SIZE,
        kv_heads=st.integers(3, 8),
        group=st.integers(2, 8),
        head_dim=st.sampled_from([16, 64]),
    )


@kv_bytes.part(4, "a config that says its head_dim, which need not be hidden_size / heads (Qwen3)")
def _own_head_dim(answer: Answer) -> None:
    def test(layers: int, kv_heads: int, head_dim: int) -> None:
        config = {"num_hidden_layers": layers, "num_attention_heads": 2 * kv_heads, "hidden_size": kv_heads * 160}
        _check_bytes(answer, config | {"num_key_value_heads": kv_heads, "head_dim": head_dim}, kv_heads, head_dim, 2)

    for_all(test, examples=30, layers=_SIZE, kv_heads=st.integers(3, 8), head_dim=st.sampled_from([64, 128]))


def _check_bytes(answer: Answer, config: dict[str, Any], kv_heads: int, head_dim: int, size: int) -> None:
    layers, heads = config["num_hidden_layers"], config["num_attention_heads"]
    right = ContiguousCache(
        layers, 1, kv_heads, head_dim, _DTYPES[size]
    ).nbytes  # the bytes of a real cache of one token
    got = call(answer, dict(config), size)
    if got == right and isinstance(got, int):
        return
    one = layers * head_dim * size
    guessed = config["hidden_size"] // heads
    mistakes = {
        "not-an-integer": (right, "the number is right, but bytes are whole: use // where / would make a float"),
        "two-bytes-always": (right // size * 2, "bytes_per_number was not used"),
        "keys-only": (one * kv_heads, "that is half: a token leaves a key and a value"),
        "one-layer": (right // layers, "that is one layer's; each layer keeps keys and values of its own"),
        "query-heads": (2 * one * heads, "the query heads were counted; queries are not kept, keys and values are"),
        "group-size": (
            2 * one * (heads // kv_heads),
            "that counts the query heads that share a KV head, not the KV heads",
        ),
        "head-dim-guessed": (
            2 * layers * kv_heads * guessed * size,
            "hidden_size / heads is not this model's head_dim: the config says it itself",
        ),
        "bits": (right * 8, "those are bits"),
    }
    rows: list[list[Cell | str]] = [[key, str(value)] for key, value in config.items()]
    rows += [
        ["bytes_per_number", str(size)],
        ["your bytes", Cell(str(got), "wrong")],
        ["a real cache's", Cell(str(right), "right")],
    ]
    table = Table("The config, and the bytes of a token", ["what", ">value"], rows)
    for name, (value, why) in mistakes.items():
        if got == value:
            raise WrongAnswer(name, f"got {got}, expected {right}: {why}", table)
    raise WrongAnswer("wrong-bytes", f"got {got!r}, expected {right}", table)


_LENGTH = st.integers(2, 40)
_SHAPE = st.builds(
    lambda layers, kv_heads, group, vocab: ModelShape("drawn", layers, 64, kv_heads * group, kv_heads, 16, 96, vocab),
    layers=st.integers(1, 4),
    kv_heads=st.integers(1, 3),
    group=st.integers(3, 5),
    vocab=st.sampled_from([50, 500]),
)


@generation_flops.part(3, "the first new token, which takes the whole prompt")
def _first_token(answer: Answer) -> None:
    for_all(
        lambda shape, prompt: _check_flops(answer, shape, prompt, 1, True), examples=30, shape=_SHAPE, prompt=_LENGTH
    )


@generation_flops.part(3, "many tokens without a cache")
def _without(answer: Answer) -> None:
    for_all(
        lambda shape, prompt, new: _check_flops(answer, shape, prompt, new, False),
        examples=30,
        shape=_SHAPE,
        prompt=_LENGTH,
        new=_LENGTH,
    )


@generation_flops.part(4, "many tokens with a cache")
def _cached(answer: Answer) -> None:
    for_all(
        lambda shape, prompt, new: _check_flops(answer, shape, prompt, new, True),
        examples=30,
        shape=_SHAPE,
        prompt=_LENGTH,
        new=_LENGTH,
    )


def _check_flops(answer: Answer, shape: ModelShape, prompt: int, new: int, cached: bool) -> None:
    # A test of the course holds this formula to what PyTorch counts in a model that runs.
    right = sequence_cost(shape, prompt, new, cached).flops
    got = call(answer, shape, prompt, new, cached)
    if got == right:
        return
    given = f"prompt of {prompt}, {new} new tokens, {'with' if cached else 'without'} a cache: {got!r} came, expected {right}"
    for name, (value, why) in _flop_mistakes(shape, prompt, new, cached).items():
        if got == value:
            raise WrongAnswer(name, f"{given}. {why}")
    raise WrongAnswer("wrong-flops", f"{given} (off by {got - right:+})" if isinstance(got, int) else given)


def _flop_mistakes(shape: ModelShape, prompt: int, new: int, cached: bool) -> dict[str, tuple[int, str]]:
    contexts = range(prompt, prompt + new)
    computed = [1 if cached and step else prompt + step for step in range(new)]
    layers, head = 2 * shape.layer_weights, 2 * shape.head_weights
    pair = 4 * shape.layers * shape.heads * shape.head_dim

    def total(pair: int, computed: list[int], contexts: range, heads: int | None = None) -> int:
        products = sum(tokens * (layers + pair * context) for tokens, context in zip(computed, contexts, strict=True))
        return products + head * (new if heads is None else heads)

    shared = 4 * shape.layers * shape.kv_heads * shape.head_dim
    squared = (
        sum(layers * tokens + pair * context**2 for tokens, context in zip(computed, contexts, strict=True))
        + head * new
    )
    return {
        "half": (
            total(pair, computed, contexts) // 2,
            "A product of a weight and a number is 2 FLOPs: multiply, and add",
        ),
        "scores-only": (
            total(pair // 2, computed, contexts),
            "Attention has two products: query times keys, weights times values",
        ),
        "no-attention": (total(0, computed, contexts), "The products of tokens with tokens are missing"),
        "no-lm-head": (total(pair, computed, contexts, 0), "Each step also makes logits, of one token"),
        "lm-head-for-all": (
            total(pair, computed, contexts, sum(computed)),
            "Logits are needed of a step's last token only",
        ),
        "kv-heads": (
            total(shared, computed, contexts),
            "Each query head makes its own scores: sharing keys saves bytes only",
        ),
        "ignores-the-cache": (sequence_cost(shape, prompt, new, False).flops, "That is the cost without a cache"),
        "attention-still-squared": (squared, "With a cache one query looks at the context, not all of them"),
        "prompt-for-free": (total(pair, [1] * new, contexts), "The first step has to compute the prompt"),
        "context-off-by-one": (
            total(pair, computed, range(prompt + 1, prompt + new + 1)),
            "A step's context ends with its newest input, not with the token that it makes",
        ),
    }


@ridge_batch.part(4, "short contexts, where the cache hardly counts")
def _short(answer: Answer) -> None:
    _check_batches(answer, (1, 8, 64), reachable=True)


@ridge_batch.part(3, "longer contexts, where every sequence brings bytes of its own")
def _long(answer: Answer) -> None:
    _check_batches(answer, (200, 500, 1500), reachable=True)


@ridge_batch.part(3, "None where no batch is large enough")
def _never(answer: Answer) -> None:
    _check_batches(answer, (2_000, 8_000, 100_000), reachable=False)


def _check_batches(answer: Answer, contexts: Sequence[int], reachable: bool) -> None:
    """Ask for all cases; one mistake may look like another in one of them, but not in all."""
    machines = (HARDWARE["laptop CPU"], HARDWARE["A100 80GB SXM"], HARDWARE["H100 SXM"])
    wrong: list[tuple[str, str, set[str]]] = []
    for name, hardware, context in product(("Llama-3.1-8B", "Qwen3-4B", "Llama-3.1-70B"), machines, contexts):
        shape = MODELS[name]
        if (step_cost(shape, 1, context, batch=10**12).intensity >= hardware.ridge) != reachable:
            continue
        got = call(answer, shape, hardware, context)
        if got is not None and (not isinstance(got, int) or isinstance(got, bool)):
            raise WrongAnswer("no-whole-number", f"{got!r} came, but a batch is a whole number of sequences, or None")
        general, said = _judge_batch(got, shape, hardware, context, reachable)
        if general:
            mistakes = _batch_mistakes(shape, hardware, context)
            wrong.append((general, said, {mistake for mistake, (value, _) in mistakes.items() if value == got}))
    if not wrong:
        return
    general, said, _ = wrong[0]
    common = set.intersection(*(names for _, _, names in wrong)) if reachable else set()
    for mistake, (_, why) in _batch_mistakes(MODELS["Qwen3-4B"], machines[0], 1).items():
        if mistake in common:
            raise WrongAnswer(mistake, f"{said}. {why}")
    raise WrongAnswer(general, said)


def _judge_batch(
    got: int | None, shape: ModelShape, hardware: Hardware, context: int, reachable: bool
) -> tuple[str, str]:
    """Return a general name for what is wrong with a batch, and what to say; an empty name where it is right."""
    given = f"{shape.name} on {hardware.name} (ridge {hardware.ridge:.1f}), context {context:,}"
    limit = step_cost(shape, 1, context, batch=10**12).intensity
    if not reachable:
        said = f"{given}: {got} came, but no batch gets there; as it grows, intensity tends to {limit:.1f}, since each "
        return "" if got is None else "no-such-batch", said + "sequence brings its own keys and values"
    if got is None:
        return "gives-up", f"{given}: None came, but large batches get to {limit:.1f}"
    # Where a sum of large numbers ends on the ridge to the last bit, both neighbours will do.
    reached = got >= 1 and step_cost(shape, 1, context, got).intensity >= hardware.ridge * (1 - 1e-9)
    smallest = got <= 1 or step_cost(shape, 1, context, got - 1).intensity < hardware.ridge * (1 + 1e-9)
    intensity = step_cost(shape, 1, context, max(got, 1)).intensity
    if not reached:
        return "too-small", f"{given}: batch {got:,} came, and its intensity is {intensity:.2f}: still on the slope"
    said = f"{given}: batch {got:,} came, with intensity {intensity:.2f}, but a smaller one is over the ridge already"
    return "" if smallest else "too-large", said


def _batch_mistakes(shape: ModelShape, hardware: Hardware, context: int) -> dict[str, tuple[int, str]]:
    one = step_cost(shape, 1, context)

    def batch(ridge: float, flops: int, weights: int, kv: int) -> int:
        left = flops - ridge * kv
        return math.ceil(ridge * weights / left) if left > 0 else -1

    ridge, weights, kv = hardware.ridge, one.weight_bytes, one.kv_bytes
    long = step_cost(shape, context, context)
    return {
        "one-below": (batch(ridge, one.flops, weights, kv) - 1, "One sequence short: the result was rounded down"),
        "ridge-is-the-batch": (
            math.ceil(ridge),
            "The ridge itself is a rule of thumb that forgets the bytes of keys and values",
        ),
        "keys-are-free": (
            batch(ridge, one.flops, weights, 0),
            "Keys and values have to be fetched too, of each sequence",
        ),
        "keys-shared": (
            batch(ridge, one.flops, weights + kv, 0),
            "Weights are shared by the batch; keys and values are each sequence's own",
        ),
        "attention-forgotten": (batch(ridge, one.projection_flops, weights, kv), "Attention's FLOPs count too"),
        "prefill": (
            batch(ridge, long.flops, long.weight_bytes, long.kv_bytes),
            "That is a prefill's: decode computes one new token",
        ),
        "ridge-upside-down": (batch(1 / ridge, one.flops, weights, kv), "The ridge is FLOP/s divided by bytes/s"),
    }
