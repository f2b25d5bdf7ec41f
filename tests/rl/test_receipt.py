"""What a receipt says, on made-up tensors: each fault has its own name."""

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from course_lib.rl import Receipt, SyncError
from course_lib.rl.receipt import TOLERANCE, count_differences, diagnose, find_stale

EMBED, NORM, MATRIX = "model.embed_tokens.weight", "model.norm.weight", "model.layers.0.mlp.up_proj.weight"


class Operations(TorchDispatchMode):
    """Counts what is launched and does not only look at a tensor in another way."""

    views = ("view", "split", "slice", "detach", "transpose", "unsqueeze")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not any(name in str(func) for name in self.views)
        return func(*args, **(kwargs or {}))


def held() -> dict[str, Tensor]:
    return {EMBED: torch.arange(6.0).view(3, 2), NORM: torch.ones(2), MATRIX: torch.full((2, 2), 2.0)}


def copy() -> dict[str, Tensor]:
    return {name: value.clone() for name, value in held().items()}


@given(st.sampled_from([EMBED, NORM, MATRIX]), st.integers(0, 1), st.sampled_from([1e-3, -1.0, math.nan, math.inf]))
def test_one_differing_value_is_stale(name: str, index: int, change: float) -> None:
    actual = copy()
    assert find_stale(held(), actual) == ()
    actual[name].view(-1)[index] += change
    assert find_stale(held(), actual) == (name,)


def test_nan_in_both_is_stale_too() -> None:
    """A trainer whose weights are NaN has nothing to send, even if it arrives."""
    both = held() | {NORM: torch.tensor([math.nan, 1.0])}
    assert find_stale(both, both) == (NORM,)


def test_missing_and_misshapen_tensors_are_stale() -> None:
    actual = copy() | {MATRIX: torch.full((2, 1), 2.0)}
    del actual[NORM]
    assert set(find_stale(held(), actual)) == {NORM, MATRIX}


def test_tied_head_is_compared_with_the_embedding() -> None:
    actual = copy() | {"lm_head.weight": held()[EMBED]}
    assert find_stale(held(), actual) == ()
    actual["lm_head.weight"] = held()[EMBED] + 1
    assert find_stale(held(), actual) == ("lm_head.weight",)


def test_untied_head_is_compared_with_itself() -> None:
    head = torch.full((3, 2), 7.0)
    actual = copy() | {"lm_head.weight": head.clone()}
    assert find_stale(held() | {"lm_head.weight": head}, actual) == ()
    assert find_stale(held() | {"lm_head.weight": head + 1}, actual) == ("lm_head.weight",)


def test_engine_tensors_that_the_trainer_lacks_are_none_of_its_business() -> None:
    assert find_stale(held(), copy() | {"model.rotary.inv_freq": torch.ones(3)}) == ()


SHAPES = st.sampled_from([(), (1,), (3,), (2, 2), (4, 2), (2, 3), (0, 2)])
DTYPES = st.sampled_from([torch.float32, torch.bfloat16])


@given(st.lists(st.tuples(SHAPES, DTYPES, DTYPES, st.booleans()), max_size=8), st.integers(0, 999))
def test_differences_are_counted_as_if_one_by_one(kinds: list[Any], seed: int) -> None:
    """Shapes, dtypes and layouts mixed in one call: each name gets the count of its own pair."""
    chance = torch.Generator().manual_seed(seed)
    pairs = {}
    for number, (shape, dtype, other, turned) in enumerate(kinds):
        left = torch.randint(0, 2, shape, generator=chance).to(dtype)
        right = torch.randint(0, 2, shape, generator=chance).to(other)
        pairs[f"{number}"] = (left, right.T.contiguous().T if turned and right.dim() == 2 else right)
    wanted = {name: int((left != right).sum()) for name, (left, right) in pairs.items()}
    assert count_differences(pairs) == wanted


def test_all_values_of_a_misshapen_tensor_differ() -> None:
    assert count_differences({NORM: (torch.ones(2), torch.ones(1)), MATRIX: (torch.ones(2, 2), torch.ones(2, 2))}) == {
        NORM: 2,
        MATRIX: 0,
    }


def test_more_tensors_are_not_more_launches() -> None:
    counts = []
    for tensors in (4, 64):
        many = {f"{number}": torch.ones(number + 1) for number in range(tensors)}
        many |= {f"m{number}": torch.ones(number + 1, 2) for number in range(tensors)}
        with Operations() as operations:
            assert find_stale(many, many) == ()
        counts.append(operations.count)
    assert counts[0] == counts[1] > 0


def culprit(**values: Any) -> str | None:
    clean: dict[str, Any] = {"stale": (), "moved": {EMBED, NORM, MATRIX, "lm_head.weight"}, "cached_tokens": 0}
    clean |= {"gap": 0.01, "noise_floor": 0.01, "fitting_temperature": None, "temperature": 1.0}
    return diagnose(**clean | values)


def test_nothing_is_wrong() -> None:
    assert culprit() is None
    assert culprit(gap=0.01 * TOLERANCE) is None
    assert culprit(moved=set()) is None


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"stale": (EMBED, NORM, MATRIX, "lm_head.weight")}, "no sync"),
        ({"stale": ("lm_head.weight",)}, "stale lm_head"),
        ({"stale": (MATRIX,)}, f"missing tensor: {MATRIX}"),
        ({"stale": (MATRIX,), "cached_tokens": 96, "gap": 1.0}, "missing tensor"),
        ({"cached_tokens": 96}, "stale prefix cache: 96 tokens still"),
        ({"cached_tokens": 96, "gap": 1.0}, "stale prefix cache"),
        (
            {"gap": 0.4, "fitting_temperature": 0.6},
            "wrong temperature: the engine's logprobs are those of temperature 0.6",
        ),
        ({"gap": 0.01 * TOLERANCE + 1e-4}, "logprobs disagree by 0.0"),
        ({"gap": math.nan}, "logprobs disagree by nan"),
        ({"gap": 0.01, "noise_floor": math.nan}, "logprobs disagree"),
    ],
)
def test_each_fault_has_a_name(values: dict[str, Any], name: str) -> None:
    assert str(culprit(**values)).startswith(name)


def test_many_missing_tensors_are_not_all_listed() -> None:
    moved = {f"layer.{number}" for number in range(9)}
    assert str(culprit(stale=tuple(sorted(moved))[:5], moved=moved)).endswith(
        "layer.0, layer.1, layer.2 and 2 more did not arrive in the engine"
    )


def test_a_failed_receipt_raises_and_a_clean_one_does_not() -> None:
    clean = Receipt(3, 25, (), 0.5, 0, 0.01, 0.01)
    assert clean.raise_if_failed() is clean
    assert json.loads(json.dumps(clean.to_dict()))["ok"] is True
    failed = Receipt(3, 25, (NORM,), 0.5, 0, 0.01, 0.01, f"missing tensor: {NORM}")
    assert failed.to_dict()["ok"] is False
    with pytest.raises(SyncError, match=r"version 3 .*missing tensor: model.norm.weight.*24 of 25"):
        failed.raise_if_failed()
