"""Who holds what, read off live engines: the ranks' parts make up the whole, and are where they are said to be."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from course_lib.training import Group, PolicyTrainer, TrainerConfig, holdings, tensor_bytes
from course_lib.training.holdings import STATES, before_each_step, merged
from course_lib.training.zero_study import ZeroStudy

OPTIMIZER = ("master", "exp_avg", "exp_avg_sq")


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=8))
def test_merged_ranges_are_the_same_numbers(ranges: list[tuple[int, int]]) -> None:
    found = merged(ranges)
    assert {n for pair in found for n in range(*pair)} == {n for pair in ranges for n in range(*pair)}
    assert all(one[1] < other[0] for one, other in pairwise(found))


@pytest.mark.slow
@pytest.mark.parametrize("state", STATES)
def test_two_ranks_share_what_the_stage_cuts_and_both_have_the_rest(studies: dict[int, ZeroStudy], state: str) -> None:
    cut_from = {"weights": 3, "gradients": 2} | dict.fromkeys(OPTIMIZER, 1)
    for run in studies[2].runs:
        whole = studies[2].parameters
        ranges = [rank.holdings.ranges(state) for rank in run.ranks]
        assert merged(pair for each in ranges for pair in each) == [(0, whole)]
        covered = [sum(end - start for start, end in each) for each in ranges]
        if run.plan.stage < cut_from[state] and not (state == "gradients" and run.plan.offload_optimizer):
            assert covered == [whole, whole]
        elif state in OPTIMIZER:
            assert sum(covered) == whole  # no number twice
        else:
            # A weight that the cut goes through adds up whole on both; small ones stay whole in stage 3.
            assert all(each < 0.75 * whole or run.plan.stage == 1 for each in covered)


@pytest.mark.slow
def test_the_optimizer_has_total_over_ranks_elements(studies: dict[int, ZeroStudy]) -> None:
    for ranks, study in studies.items():
        for run in study.runs:
            share = study.parameters / (ranks if run.plan.stage else 1)
            for rank in run.ranks:
                for state in OPTIMIZER:
                    # Padding: to a multiple of the ranks, of each weight by itself in stage 3.
                    assert share <= rank.holdings.elements(state) <= share + 100
                    assert rank.holdings.bytes(state, host=run.plan.offload_optimizer) == rank.holdings.bytes(state)
                    assert rank.holdings.bytes(state) == 4 * rank.holdings.elements(state)


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
