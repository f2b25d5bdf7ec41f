"""A study of real ranks: the same training at every stage, written down and read again."""

import json
from pathlib import Path

import pytest

from course_lib.training import ZeroPlan
from course_lib.training.zero_study import ZeroStudy, recorded, zero_study


@pytest.mark.slow
def test_every_plan_trains_alike(studies: dict[int, ZeroStudy]) -> None:
    for ranks, study in studies.items():
        assert study.loss_spread < 2e-3  # bf16 sums in another order
        for run in study.runs:
            assert run.plan.ranks == len(run.ranks) == ranks
            assert {rank.losses for rank in run.ranks} == {run.losses}  # the loss over all ranks
            assert [rank.holdings.rank for rank in run.ranks] == list(range(ranks))
            assert run.seconds > 0
    alone, both = (studies[ranks][0].losses[0] for ranks in (1, 2))
    assert alone != both  # each rank has data of its own


@pytest.mark.slow
def test_offloading_takes_memory_off_the_device(studies: dict[int, ZeroStudy]) -> None:
    for run in studies[2].runs:
        host = sum(rank.holdings.bytes(host=True) for rank in run.ranks)
        assert (host > 0) == (run.plan.offload_optimizer or run.plan.offload_param)


@pytest.mark.slow
def test_a_record_says_where_it_comes_from_and_comes_back_as_it_was(
    studies: dict[int, ZeroStudy], tmp_path: Path
) -> None:
    study = studies[2]
    study.save(tmp_path / "study.json")
    assert recorded(tmp_path / "study.json") == study
    record = json.loads((tmp_path / "study.json").read_text())
    assert record["command"] == "python -m course_lib.training.zero_study --ranks 2 --policy small"
    assert {"machine", "torch", "deepspeed"} <= record["machine"].keys()
    assert record["commit"]
    assert record["date"]
    assert str(tmp_path.parent) not in (tmp_path / "study.json").read_text()
    assert "ZeRO-1 on 2 ranks: loss" in repr(study)


@pytest.mark.slow
def test_a_stage_is_found_by_its_number(studies: dict[int, ZeroStudy]) -> None:
    study = studies[2]
    assert study[3].plan == ZeroPlan(3, 2)
    with pytest.raises(KeyError, match="no stage 7 in this study of ZeRO-0 on 2 ranks"):
        study[7]
    assert study.parameters == pytest.approx(study.shape.parameters, rel=1e-3)  # norms come on top


def test_a_record_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no study at .*nowhere.json; make one with `python -m"):
        recorded(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"micro_batches": 1}, "expected at least 2 micro-batches"),
        ({"steps": 0}, "1 step"),
        ({"stages": []}, "no stages to study"),
        ({"stages": [5]}, "stage is 5; ZeRO has"),
        ({"ranks": 0}, "ranks is 0"),
        ({"ranks": 4096}, "4096 ranks on"),
    ],
)
def test_what_cannot_be_studied_is_refused_before_a_rank_starts(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zero_study("tiny", **options)
