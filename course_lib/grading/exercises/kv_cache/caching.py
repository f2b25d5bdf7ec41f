"""A layer's cache: reserved once, appended to, and refusing what does not fit."""

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from course_lib.grading.exercise import Answer, Exercise, WrongAnswer
from course_lib.grading.judge import call, for_all
from course_lib.viz.tables import Cell, Table

_HEADS, _HEAD_DIM = 2, 4
_SIZES = st.lists(st.integers(1, 4), min_size=1, max_size=5)

cache = Exercise("01.cache", "LayerCache", "A contiguous KV cache", difficulty=2, importance=5, minutes=15)


@cache.part(4, "append returns every key and value so far, oldest first")
def _returns_all(answer: Answer) -> None:
    def test(sizes: list[int], spare: int) -> None:
        _fill(answer, sizes, sum(sizes) + spare)

    for_all(test, examples=50, sizes=_SIZES, spare=st.integers(0, 3))


@cache.part(3, "memory is reserved once: an append copies the new tokens, never the old ones")
def _stays(answer: Answer) -> None:
    store = call(answer, 8, _HEADS, _HEAD_DIM)
    k, v = _tokens(0, 2)
    first = _append(store, k, v)
    k.zero_()  # the caller's tensors are the caller's: the next step reuses them
    v.zero_()
    second = _append(store, *_tokens(2, 1))
    if not any(kept[:2].any() for kept in second):  # token 1's key and both values are not 0
        raise WrongAnswer(
            "keeps-the-callers-tensor",
            "after the caller overwrote the tensors of its first append, the first tokens in the cache were changed too: "
            "the cache must hold numbers of its own",
        )
    _look(second, 2, 1, 8)
    if any(before.data_ptr() != after.data_ptr() for before, after in zip(first, second, strict=True)):
        raise WrongAnswer(
            "grows-by-copy",
            "after the second append the first token's key lies elsewhere in memory: all old keys were copied to make room, "
            "which makes a text of T tokens cost T * T copies. Reserve `capacity` slots in __init__ and write into them",
        )


@cache.part(3, "a full cache refuses with a ValueError, and stays as it was")
def _refuses(answer: Answer) -> None:
    for_all(lambda sizes, over: _overfill(answer, sizes, over), examples=30, sizes=_SIZES, over=st.integers(1, 3))


def _tokens(start: int, count: int) -> tuple[Tensor, Tensor]:
    """Keys and values that tell which token they are of: token 3's key is 3 everywhere, its value 103."""
    numbers = torch.arange(start, start + count, dtype=torch.float32)
    keys = numbers[:, None, None].repeat(1, _HEADS, _HEAD_DIM)
    return keys, keys + 100


def _append(store: Any, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    got = call(store.append, k, v)
    if not isinstance(got, tuple) or len(got) != 2 or not all(isinstance(part, Tensor) for part in got):
        raise WrongAnswer(
            "no-pair", f"append must return two tensors, all keys and all values; {type(got).__name__} came"
        )
    return got


def _fill(answer: Answer, sizes: list[int], capacity: int) -> Any:
    """Append so many tokens at a time, and look at everything after each append."""
    store = call(answer, capacity, _HEADS, _HEAD_DIM)
    stored = 0
    for size in sizes:
        try:
            got = _append(store, *_tokens(stored, size))
        except WrongAnswer as wrong:
            if stored + size == capacity and isinstance(wrong.__cause__, ValueError):
                said = f"capacity {capacity}, {stored} stored, {size} more: they fit exactly, and were refused"
                raise WrongAnswer("refuses-the-last-slot", said) from wrong
            raise
        _look(got, stored, size, capacity)
        stored += size
        if store.length != stored:
            said = f"{stored} tokens are stored, and length says {store.length}"
            raise WrongAnswer("wrong-length", said)
    return store


def _look(got: tuple[Tensor, Tensor], old: int, new: int, capacity: int) -> None:
    right = _tokens(0, old + new)
    if all(mine.shape == theirs.shape and torch.equal(mine, theirs) for mine, theirs in zip(got, right, strict=True)):
        return
    keys, values = got
    given = f"{old} tokens were stored, {new} appended"
    named = [int(number) for number in keys.flatten(1)[:, 0]] if keys.ndim == 3 else []
    if torch.equal(keys, right[0]) and values.shape == keys.shape and torch.equal(values, keys):
        raise WrongAnswer("keys-for-values", f"{given}: keys came twice, and no values")
    if keys.shape == right[0].shape and torch.equal(keys, right[1]) and torch.equal(values, right[0]):
        raise WrongAnswer("swapped", f"{given}: the values came first; expected (keys, values)")
    if len(keys) == capacity != old + new:
        why = "returns-empty-slots", f"all {capacity} slots came; the empty ones would be attended to like real tokens"
    elif old and named == list(range(old, old + new)):
        why = "returns-new-only", "only the new tokens came back; a query has to see all of them"
    elif old and named[:new] == list(range(old, old + new)):
        why = "overwrites", "the new tokens were written over the oldest ones"
    else:
        why = "wrong-tokens", "not the tokens that were appended, in their order"
    cells = [Cell(str(name), "right" if place == name else "wrong") for place, name in enumerate(named)]
    table = Table(
        "Whose key stands where", ["slot", *(f">{place}" for place in range(len(cells)))], [["token", *cells]]
    )
    raise WrongAnswer(why[0], f"{given}: {why[1]}", table)


def _overfill(answer: Answer, sizes: list[int], over: int) -> None:
    full = sum(sizes)
    store = _fill(answer, sizes, full)
    given = f"a cache of {full} slots is full, and {over} more tokens come"
    try:
        store.append(*_tokens(full, over))
    except ValueError:
        pass
    except (NotImplementedError, WrongAnswer):
        raise
    except Exception as error:
        said = f"{given}: {type(error).__name__} was raised; a ValueError that names the capacity tells the caller what to do"
        raise WrongAnswer("wrong-error", said) from error
    else:
        raise WrongAnswer(
            "takes-too-much", f"{given}: nothing was raised, so tokens were lost or memory grew in silence"
        )
    if store.length != full:
        said = f"{given}: refused, and yet length is {store.length} now; check before anything is changed"
        raise WrongAnswer("changed-when-full", said)
