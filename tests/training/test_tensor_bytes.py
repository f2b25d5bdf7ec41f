"""Bytes of living tensors: each storage once, gradients too, and gone when the tensors are."""

import gc
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.training import tensor_bytes

SIZES = {torch.float32: 4, torch.bfloat16: 2, torch.int64: 8}


@pytest.fixture(scope="module", autouse=True)
def _only_new_objects() -> Iterator[None]:
    """Each count looks at all objects that the collector knows: seconds where other tests left millions of them."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def grown(before: dict[str, int]) -> dict[str, int]:
    after = tensor_bytes()
    return {dtype: size for dtype in {*before, *after} if (size := after.get(dtype, 0) - before.get(dtype, 0))}


@given(st.lists(st.tuples(st.sampled_from(list(SIZES)), st.integers(1, 1000)), max_size=5))
@settings(deadline=None, max_examples=30)
def test_every_tensor_counts_and_only_while_it_lives(made: list[tuple[torch.dtype, int]]) -> None:
    before = tensor_bytes()
    tensors = [torch.zeros(count, dtype=dtype) for dtype, count in made]
    expected: dict[str, int] = {}
    for dtype, count in made:
        name = str(dtype).removeprefix("torch.")
        expected[name] = expected.get(name, 0) + count * SIZES[dtype]
    assert grown(before) == expected
    del tensors
    assert grown(before) == {}


def test_a_view_adds_nothing_and_a_gradient_does() -> None:
    before = tensor_bytes()
    weight = torch.ones(10, requires_grad=True)
    views = [weight[:3], weight.detach(), weight.view(2, 5)]
    assert grown(before) == {"float32": 40}
    (weight * 2).sum().backward()
    assert grown(before) == {"float32": 80}
    del views


def test_a_tensor_without_memory_does_not_count() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    before = tensor_bytes()
    with FakeTensorMode():
        stand_in = torch.ones(1000, dtype=torch.float64)
    assert tensor_bytes().get("float64", 0) == before.get("float64", 0)
    assert stand_in.numel() == 1000
