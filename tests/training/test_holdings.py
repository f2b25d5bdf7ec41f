"""Who holds what and who sends what, read off live engines: numbers are where they are said to be, and none is missed."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from course_lib.training import CommunicationLog, Group, PolicyTrainer, TrainerConfig, holdings, launch, tensor_bytes
from course_lib.training.holdings import before_each_step, merged

NUMBERS = 4 * 1000  # bytes of holdings_worker.NUMBERS in fp32


@pytest.fixture(scope="module")
def two_ranks(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two ranks found about their own tensors and about collectives; see holdings_worker.py."""
    out = tmp_path_factory.mktemp("holdings")
    worker = Path(__file__).with_name("holdings_worker.py")
    launch(worker, ranks=2, arguments=[str(tiny_folder), str(out)], timeout=3600)
    return [json.loads((out / f"{rank}.json").read_text()) for rank in range(2)]


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=8))
def test_merged_ranges_are_the_same_numbers(ranges: list[tuple[int, int]]) -> None:
    found = merged(ranges)
    assert {n for pair in found for n in range(*pair)} == {n for pair in ranges for n in range(*pair)}
    assert all(one[1] < other[0] for one, other in pairwise(found))


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["0", "1", "2", "3"])
def test_the_numbers_are_where_they_are_said_to_be(two_ranks: list[dict[str, Any]], stage: str) -> None:
    for rank in two_ranks:
        assert rank[stage]["master_is_the_weights_there"]
        assert rank[stage]["other_places_differ"]


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_nothing_is_missed(
    stage: int, tiny_folder: Path, groups: list[Group], advantage_loss: Callable[..., Tensor]
) -> None:
    """All that DeepSpeed allocates is one of the states, or a buffer that is known."""
    before = sum(tensor_bytes().values())
    trainer = PolicyTrainer(tiny_folder, TrainerConfig(zero_stage=stage, micro_batch_tokens=32))
    trainer.step(groups, advantage_loss)
    seen: list[tuple[int, int]] = []

    def look(micro_batch: int) -> None:
        if micro_batch == 1:
            seen.append((holdings(trainer).bytes(), sum(tensor_bytes().values()) - before))

    with before_each_step(trainer, look):
        trainer.step(groups, advantage_loss)
    held, allocated = seen[0]
    bucket = 1_000_000_000 if stage in (1, 3) else 0
    assert held == pytest.approx(allocated - bucket, rel=0.02)
    trainer.engine.destroy()


def test_looking_ends_with_the_block(
    tiny_folder: Path, groups: list[Group], advantage_loss: Callable[..., Tensor]
) -> None:
    trainer = PolicyTrainer(tiny_folder, TrainerConfig(zero_stage=0, micro_batch_tokens=32))
    passes: list[int] = []
    with before_each_step(trainer, passes.append):
        trainer.step(groups, advantage_loss)
    assert passes == [0, 1, 2, 3]
    trainer.step(groups, advantage_loss)
    assert passes == [0, 1, 2, 3]
    held = holdings(trainer)
    assert held.bytes("gradients") == 0
    assert held.ranges("gradients") == []
    assert "gradients 0.0 MiB" in repr(held)


@pytest.fixture(scope="module")
def counted(two_ranks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [rank["collectives"] for rank in two_ranks]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "calls", "size"),
    [
        ("all-reduce", 2, 2 * 2 * NUMBERS),  # each a reduce-scatter and an all-gather
        ("all-gather", 2, 2 * NUMBERS),
        ("reduce-scatter", 1, NUMBERS),
        ("broadcast", 1, NUMBERS),
    ],
)
def test_each_collective_counts_its_whole_tensor(
    counted: list[dict[str, Any]], kind: str, calls: int, size: int
) -> None:
    for rank in counted:
        assert rank[kind] == {"kind": kind, "calls": calls, "bytes": size}


@pytest.mark.slow
def test_nothing_else_counts(counted: list[dict[str, Any]]) -> None:
    for rank in counted:
        assert rank["all"] == 8 * NUMBERS
        assert set(rank) - {"all", "said", "barrier"} == {"all-reduce", "all-gather", "reduce-scatter", "broadcast"}
        assert "2 x all-reduce 0.0 MiB" in rank["said"]


def test_a_log_of_nothing() -> None:
    log = CommunicationLog()
    assert log.bytes == 0
    assert list(log) == []
