"""Two ranks under ZeRO-3, each with its own vLLM: whatever goes wrong on one, the other is not left waiting in a gather."""

import json
from pathlib import Path
from typing import Any

import pytest

from course_lib.training import launch
from course_lib.training.launch import cores

WORKER = Path(__file__).with_name("sync_worker.py")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(cores() < 2, reason="two ranks want two cores"),
]
Ranks = list[dict[str, Any]]


@pytest.fixture(scope="module")
def ranks(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    out = tmp_path_factory.mktemp("ranks")
    launch(WORKER, ranks=2, arguments=[str(tiny), str(out)], timeout=280)  # a hang is a failure
    return [json.loads((out / f"{rank}.json").read_text()) for rank in range(2)]


def test_each_engine_gets_the_weights(ranks: Ranks) -> None:
    for rank in ranks:
        for name in ("clean", "mended"):
            assert rank[name]["culprit"] is None
            assert rank[name]["tensors"] == 25
        assert rank["clean"]["changed"] > 0.5
    assert ranks[0]["whole"] == ranks[1]["whole"]


def test_each_generates_its_slice_of_the_batch(ranks: Ranks) -> None:
    drawn = ranks[0]["own"] + ranks[1]["own"]
    assert sum(map(list.__eq__, drawn, ranks[0]["whole"])) >= 3  # another batch shape may round another way


def test_a_rank_that_leaves_the_stream_is_stale_alone(ranks: Ranks) -> None:
    assert ranks[0]["stopped"]["culprit"] is None
    assert ranks[1]["stopped"]["culprit"].startswith("missing tensor")
    assert len(ranks[1]["stopped"]["stale"]) == 25


def test_where_one_raises_all_do(ranks: Ranks) -> None:
    assert ranks[0]["raised"] == "SyncError: the weight sync failed on another rank, whose own message says why."
    assert ranks[1]["raised"] == "KeyError: 'mine'"


def test_a_search_on_one_rank_takes_the_other_along(ranks: Ranks) -> None:
    assert ranks[0]["doubted"]["culprit"] is None
    assert ranks[1]["doubted"]["culprit"].startswith("logprobs disagree")
