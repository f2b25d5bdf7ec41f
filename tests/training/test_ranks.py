"""Two ranks over gloo on the CPU: the same training as one rank's, with half of the optimizer on each."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from course_lib.training import Group, consolidate, launch

OPTIONS: dict[str, Any] = {"learning_rate": 3e-4, "micro_batch_tokens": 32}
WORKER = Path(__file__).with_name("ranks_worker.py")
STAGES = ("1", "2", "3")


Found = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def out(tiny_folder: Path, groups: list[Group], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where each rank wrote: of two, rank 0 with three groups and rank 1 with one, and one rank with all."""
    out = tmp_path_factory.mktemp("ranks")
    task = {"folder": str(tiny_folder), "groups": [dataclasses.asdict(group) for group in groups], "options": OPTIONS}
    (out / "task.json").write_text(json.dumps(task))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIER", "cpu")
        patch.setenv("DS_ACCELERATOR", "cpu")
        for ranks in (2, 1):
            launch(WORKER, ranks=ranks, arguments=[str(out)], timeout=240)  # a hang is a failure
    return out


def found(out: Path, rank: int, ranks: int) -> Found:
    return json.loads((out / f"rank-{rank}-of-{ranks}.json").read_text())


@pytest.fixture(scope="module")
def ranks(out: Path) -> list[Found]:
    return [found(out, 0, 2), found(out, 1, 2)]


@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_train_as_one_does(out: Path, ranks: list[Found], stage: str) -> None:
    alone = found(out, 0, 1)["2"]
    for rank in ranks:
        # The same sums in another order, in bf16.
        assert rank[stage]["losses"] == pytest.approx(alone["losses"], rel=1e-2, abs=1e-2)
        assert rank[stage]["norms"] == pytest.approx(alone["norms"], rel=2e-2)
        assert rank[stage]["applied"] == [True] * 3
    assert ranks[0][stage]["losses"] == ranks[1][stage]["losses"]
    assert alone["losses"][0] - alone["losses"][-1] > 0.1


@pytest.mark.parametrize("stage", STAGES)
def test_a_rank_with_fewer_micro_batches_keeps_up(ranks: list[Found], stage: str) -> None:
    assert [rank[stage]["passes"] for rank in ranks] == [[3] * 3, [3] * 3]
    assert [rank[stage]["samples"] for rank in ranks] == [[0, 1, 2, 3, 4, 5], [6, 7, 8]]


@pytest.mark.parametrize("stage", STAGES)
def test_each_rank_holds_half_of_the_optimizer(ranks: list[Found], stage: str) -> None:
    parameters = ranks[0][stage]["parameters"]
    assert parameters > 1_000_000
    for rank in ranks:
        # ZeRO pads the end of the weights, or of each weight in stage 3, to a multiple of the ranks.
        assert parameters / 2 <= rank[stage]["moments"] <= parameters / 2 + 100


@pytest.mark.parametrize("stage", STAGES)
def test_a_loss_that_is_not_finite_on_one_rank_is_refused_on_both(ranks: list[Found], stage: str) -> None:
    assert [rank[stage]["spoiled_applied"] for rank in ranks] == [False, False]


@pytest.mark.parametrize("stage", STAGES)
def test_a_new_trainer_goes_on_with_the_same_curve(ranks: list[Found], stage: str) -> None:
    assert [rank[stage]["after_load"] for rank in ranks] == [rank[stage]["after"] for rank in ranks]
    assert len(set(ranks[0][stage]["after"])) == 3


@pytest.mark.parametrize("stage", STAGES)
def test_the_parts_of_two_ranks_make_one_model(out: Path, tiny_folder: Path, tmp_path: Path, stage: str) -> None:
    made = consolidate(out / f"checkpoint-{stage}-2", tiny_folder, tmp_path / "model")
    one, other = (load_file(folder / "model.safetensors") for folder in (made, out / f"export-{stage}-2"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_rank_whose_part_is_missing_is_named(out: Path, tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(out / "checkpoint-3-2", tmp_path / "part")
    (tmp_path / "part" / "deepspeed" / "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"stage 3 on 2 rank\(s\) that lacks 1 of its 4 files: bf16_zero_pp_rank_1_"
    ):
        consolidate(tmp_path / "part", tiny_folder, tmp_path / "model")


@pytest.mark.parametrize("stage", STAGES)
def test_a_rank_without_groups_is_an_error_on_both(ranks: list[Found], stage: str) -> None:
    assert all("a rank of the trainer got no groups" in rank[stage]["no_groups"] for rank in ranks)
