"""Real ranks at every stage: they train alike, hold and send what was predicted, and are written down and read again.

All that looks at the study is in this file: it takes a minute or more, and a file is what one process of pytest runs.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from course_lib.training import ZeroPlan
from course_lib.training.holdings import STATES, merged
from course_lib.training.zero_memory import REDUCE_BUCKET, deepspeed_communication_bytes, saved_activations
from course_lib.training.zero_study import StageRun, ZeroStudy, recorded, zero_study

OPTIMIZER = ("master", "exp_avg", "exp_avg_sq")


@pytest.fixture(scope="module")
def small_folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 8 M parameters: large enough that its memory is not all buffers, small enough for a core."""
    folder = tmp_path_factory.mktemp("policies") / "small"
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=3,
        head_dim=64,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    for source in tiny_folder.glob("*token*"):
        shutil.copy2(source, folder / source.name)
    return folder


@pytest.fixture(scope="module")
def studies(small_folder: Path) -> dict[int, ZeroStudy]:
    """`{ranks: study}` of real runs on 1 and 2 ranks: every stage, with and without checkpointing and offloading."""
    plain = [ZeroPlan(stage) for stage in range(4)]
    checkpointed = [replace(plan, gradient_checkpointing=True) for plan in plain]
    offloaded = [replace(plan, offload_optimizer=True) for plan in plain[1:]]
    both = [replace(plan, gradient_checkpointing=True) for plan in offloaded]
    # On the cpu tier a rank alone has nothing to gather where weights are offloaded: they are in place.
    weights_too = ZeroPlan(3, offload_optimizer=True, offload_param=True)
    # Over an hour: a hang is a failure, how long it takes is not.
    options: dict[str, Any] = {"steps": 1, "rows": 2, "length": 64, "timeout": 3600}
    return {
        1: zero_study(small_folder, 1, plans=[*plain, *both, checkpointed[0]], **options),
        2: zero_study(small_folder, 2, plans=[*plain, *checkpointed, *offloaded, weights_too], **options),
    }


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


def runs(studies: dict[int, ZeroStudy]) -> Iterator[tuple[ZeroStudy, StageRun]]:
    for study in studies.values():
        for run in study.runs:
            yield study, run


@pytest.mark.slow
def test_every_state_is_as_large_as_the_live_tensors(studies: dict[int, ZeroStudy]) -> None:
    for study, run in runs(studies):
        budget = study.predicted(run)
        for rank in run.ranks:
            for state in STATES:
                for host, parts in ((False, budget.device), (True, budget.host)):
                    measured = rank.holdings.bytes(state, host=host)
                    assert parts[state] == pytest.approx(measured, rel=0.1), f"{run.plan}: {state}, host={host}"


@pytest.mark.slow
def test_the_fullest_moment_is_as_full_as_measured(studies: dict[int, ZeroStudy]) -> None:
    for study, run in runs(studies):
        budget = study.predicted(run)
        whole = budget.device_bytes + budget.host_bytes
        assert whole == pytest.approx(run.peak_bytes, rel=0.1), str(run.plan)
        # The bucket is so large beside this model that with it nearly anything would be within 10 %. Without it there is some
        # room for chance: on a busy machine a collective holds what it has sent for longer (13 % were seen once).
        bucket = 2 * REDUCE_BUCKET if run.plan.stage else 0
        assert whole - bucket == pytest.approx(run.peak_bytes - bucket, rel=0.2), str(run.plan)


@pytest.mark.slow
def test_activations_are_what_autograd_saved(studies: dict[int, ZeroStudy]) -> None:
    for study, run in runs(studies):
        on = run.plan.gradient_checkpointing
        predicted = saved_activations(study.shape, study.tokens, study.length, gradient_checkpointing=on)
        for rank in run.ranks:
            assert predicted == pytest.approx(rank.activation_bytes, rel=0.03), str(run.plan)


@pytest.mark.slow
def test_deepspeed_moves_what_it_is_said_to(studies: dict[int, ZeroStudy]) -> None:
    for study, run in runs(studies):
        expected = deepspeed_communication_bytes(study.shape, run.plan, study.micro_batches)
        assert run.moved_bytes == pytest.approx(expected, rel=0.01), str(run.plan)
        first = sum(traffic.bytes for traffic in run.ranks[0].first_traffic)
        # Stage 3 gives every weight back at once in its first pass, and gathers it again.
        assert first > 1.2 * expected if run.plan.stage == 3 and run.plan.ranks > 1 else first == run.moved_bytes


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
