"""Two ranks over gloo on the CPU: the same training as one rank's, with half of the optimizer on each."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from course_lib.training import Group

OPTIONS: dict[str, Any] = {"learning_rate": 3e-4, "micro_batch_tokens": 32}
WORKER = Path(__file__).with_name("ranks_worker.py")
STAGES = ("1", "2", "3")


Found = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def results(tiny_folder: Path, groups: list[Group], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Found]:
    """What each rank found: of two, rank 0 with three groups and rank 1 with one, and one rank with all, side by side."""
    out = tmp_path_factory.mktemp("ranks")
    task = {"folder": str(tiny_folder), "groups": [dataclasses.asdict(group) for group in groups], "options": OPTIONS}
    (out / "task.json").write_text(json.dumps(task))
    ports = {ranks: str(_free_port()) for ranks in (1, 2)}
    started = {f"{rank}-of-{ranks}": _start(out, rank, ranks, ports[ranks]) for rank, ranks in ((0, 2), (1, 2), (0, 1))}
    try:
        for process in started.values():
            process.wait(timeout=240)  # a hang is a failure; nothing here depends on how long it takes
    finally:
        for process in started.values():
            process.kill()
    for name, process in started.items():
        assert process.returncode == 0, (out / f"{name}.log").read_text()[-3000:]
    return {name: json.loads((out / f"rank-{name}.json").read_text()) for name in started}


@pytest.fixture(scope="module")
def ranks(results: dict[str, Found]) -> list[Found]:
    return [results["0-of-2"], results["1-of-2"]]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start(out: Path, rank: int, ranks: int, port: str) -> subprocess.Popen[bytes]:
    environment = os.environ | {"TIER": "cpu", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    environment |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
    }
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    with (out / f"{rank}-of-{ranks}.log").open("w") as log:
        return subprocess.Popen([sys.executable, str(WORKER), str(out)], env=environment, stdout=log, stderr=log)


@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_train_as_one_does(results: dict[str, Found], ranks: list[Found], stage: str) -> None:
    alone = results["0-of-1"]["2"]
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
def test_a_checkpoint_brings_both_back(ranks: list[Found], stage: str) -> None:
    assert [rank[stage]["after_load"] for rank in ranks] == [rank[stage]["after"] for rank in ranks]


@pytest.mark.parametrize("stage", STAGES)
def test_a_rank_without_groups_is_an_error_on_both(ranks: list[Found], stage: str) -> None:
    assert all("a rank of the trainer got no groups" in rank[stage]["no_groups"] for rank in ranks)
