"""The batch's arithmetic: DeepSpeed's own rule, with an answer where it only asserts; accumulation equals the big batch."""

import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from course_lib import machine
from course_lib.training import BatchPlan

SIZES = st.integers(1, 40)


class _Ranks:
    """What DeepSpeed asks a model-parallel unit for: here, to be on so many ranks without starting them."""

    def __init__(self, ranks: int):
        self.ranks = ranks

    def get_data_parallel_world_size(self) -> int:
        return self.ranks


def deepspeeds_steps(train: int, micro: int, ranks: int) -> int | None:
    """The accumulation steps that DeepSpeed itself comes to, or None where it refuses."""
    machine.prepare()
    from deepspeed.runtime.config import DeepSpeedConfig

    asked = {"train_batch_size": train, "train_micro_batch_size_per_gpu": micro}
    try:
        return int(DeepSpeedConfig(asked, mpu=_Ranks(ranks)).gradient_accumulation_steps)
    except AssertionError:
        return None


@pytest.fixture(scope="module", autouse=True)
def _process_group() -> None:
    """DeepSpeed asks for its own ranks' number only once they are connected."""
    machine.prepare()
    import deepspeed

    deepspeed.init_distributed(dist_backend="gloo" if machine.tier() == "cpu" else "nccl", verbose=False)


@given(SIZES, SIZES, st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_it_says_what_deepspeed_says(train: int, micro: int, ranks: int) -> None:
    expected = deepspeeds_steps(train, micro, ranks)
    if expected is None:
        with pytest.raises(ValueError, match="does not divide into passes"):
            BatchPlan(train, micro, ranks)
    else:
        plan = BatchPlan(train, micro, ranks)
        assert plan.gradient_accumulation_steps == expected
        assert plan.for_deepspeed() == {
            "train_batch_size": train,
            "train_micro_batch_size_per_gpu": micro,
            "gradient_accumulation_steps": expected,
        }


@given(st.integers(1, 6), SIZES, st.integers(1, 6))
def test_the_passes_of_all_ranks_are_the_batch(steps: int, micro: int, ranks: int) -> None:
    plan = BatchPlan(steps * micro * ranks, micro, ranks)
    passes = [plan.passes(rank) for rank in range(ranks)]
    assert [sample for mine in passes for one in mine for sample in one] == list(range(plan.train_batch_size))
    assert {len(one) for mine in passes for one in mine} == {micro}
    assert {len(mine) for mine in passes} == {steps}


@given(st.integers(1, 300), SIZES, st.integers(1, 6))
def test_the_advice_is_good_and_nothing_nearer_is(train: int, micro: int, ranks: int) -> None:
    try:
        BatchPlan(train, micro, ranks)
    except ValueError as error:
        message = str(error)
    else:
        return
    advised = {
        name: [int(n) for n in found.split(" or ")] for name, found in re.findall(r"(\w+)=([\d or]*\d)", message)
    }
    batches, sizes = advised["train_batch_size"], advised.get("micro_batch_size", [])
    assert all(BatchPlan(batch, micro, ranks) for batch in batches)
    assert max(batches) - train < micro * ranks
    assert all(BatchPlan(train, size, ranks) for size in sizes)
    fitting = [size for size in range(1, train + 1) if train % (size * ranks) == 0]
    assert bool(sizes) == bool(fitting) == ("number of ranks that divides it" not in message)
    nearest = [s for s in fitting if s < micro][-1:] + [s for s in fitting if s > micro][:1]
    assert sizes == nearest


@pytest.mark.parametrize("field", ["train_batch_size", "micro_batch_size", "ranks"])
@pytest.mark.parametrize("value", [0, -4, 2.5, "8"])
def test_only_whole_numbers_above_0(field: str, value: object) -> None:
    sizes: dict[str, Any] = {"train_batch_size": 8, "micro_batch_size": 2, "ranks": 2, field: value}
    with pytest.raises(ValueError, match=f"^{field} is {value!r}; it must be a whole number"):
        BatchPlan(**sizes)


def test_a_rank_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="rank is 2; the ranks of this plan are 0 to 1"):
        BatchPlan(8, 2, 2).passes(2)


def test_accumulated_passes_are_the_big_batch() -> None:
    """On DeepSpeed's own engine, with its own boundaries, in fp32: the weights of plain PyTorch on the whole batch."""
    import deepspeed

    batches = torch.randn(3, 12, 5, generator=torch.Generator().manual_seed(1)).to(machine.device())

    def model() -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 1)).to(machine.device())

    def loss(output: Tensor, rows: Tensor) -> Tensor:
        return (output - rows.sum(dim=1, keepdim=True)).square().mean()

    whole = model()
    optimizer = torch.optim.SGD(whole.parameters(), lr=0.5)
    for batch in batches:
        optimizer.zero_grad()
        loss(whole(batch), batch).backward()
        optimizer.step()
    assert loss(whole(batches[0]), batches[0]) < 0.5 * loss(model()(batches[0]), batches[0])
    for micro in (12, 6, 3, 1):
        plan = BatchPlan(12, micro)
        config = plan.for_deepspeed() | {"zero_optimization": {"stage": 2}, "zero_allow_untested_optimizer": True}
        config["gradient_clipping"] = 0.0  # left out, it is 1.0
        cut = model()
        engine, *_ = deepspeed.initialize(model=cut, optimizer=torch.optim.SGD(cut.parameters(), lr=0.5), config=config)
        for batch in batches:
            for samples in plan.passes(0):
                rows = batch[list(samples)]
                engine.backward(loss(engine(rows), rows))
                engine.step()
        assert engine.global_steps == 3
        for found, expected in zip(cut.parameters(), whole.parameters(), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
