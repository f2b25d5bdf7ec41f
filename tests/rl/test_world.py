"""Two ranks under ZeRO-3, each with its own vLLM: what they exchange, that a run on them is the run on one, and that whatever
goes wrong in a sync on one, the other is not left waiting in a gather."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_lib.rl import RLLoop, World
from course_lib.training import launch
from course_lib.training.launch import cores

WORKER = Path(__file__).with_name("world_worker.py")
NOISE = 0.05
"""Two ranks round differently from one: a sample in some dozens becomes another, and its reward with it."""


@given(st.integers(1, 40), st.integers(1, 6))
def test_shares_are_everything_once_and_in_order(count: int, size: int) -> None:
    items = list(range(count))
    shares = [World(rank, size).share(items) for rank in range(size)]
    assert [item for _, part in shares for item in part] == items
    assert all(part == items[start : start + len(part)] for start, part in shares)
    assert max(len(part) for _, part in shares) - min(len(part) for _, part in shares) <= 1
    assert sorted(item for rank in range(size) for item in World(rank, size).deal(items)) == items


@pytest.fixture(scope="module")
def out(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two ranks wrote; see world_worker.py."""
    if cores() < 2:
        pytest.skip("two ranks want two cores")
    out = tmp_path_factory.mktemp("ranks")
    launch(WORKER, ranks=2, arguments=[str(tiny), str(out)], timeout=280)  # a hang is a failure
    return out


@pytest.fixture(scope="module")
def ranks(out: Path) -> list[dict[str, Any]]:
    return [json.loads((out / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.slow
def test_two_ranks_exchange(ranks: list[dict[str, Any]]) -> None:
    alike = {"gathered": [[0], [1]], "from_first": "by 0", "any": [True, False], "sum": [1.0, 4.0]}
    for number, rank in enumerate(ranks):
        exchanged = dict(rank["exchanged"])
        assert "by zero" in exchanged.pop("failed")  # the first rank's error arrives
        assert exchanged == alike | {"first": number == 0}


@pytest.mark.slow
def test_two_ranks_give_the_curve_of_one(
    out: Path, make_loop: Callable[..., RLLoop], quiet: Any, tmp_path: Path
) -> None:
    two = out / "run"
    alone = make_loop(tmp_path / "one", steps=3, checkpoint_every=2, trainer={"zero_stage": 3})
    wanted = alone.run(quiet())
    found = [json.loads(line) for line in (two / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in found] == [0, 1, 2, 3]
    for ours, theirs in zip(found[1:], wanted[1:], strict=True):
        assert ours["receipt"]["ok"] is True
        assert ours["tokens"] == pytest.approx(theirs["tokens"], rel=NOISE)
        for name in ("reward", "reward_std", "loss"):
            assert ours[name] == pytest.approx(theirs[name], abs=NOISE), name
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=0.2)
    samples = [json.loads((run / "samples.jsonl").read_text().splitlines()[0]) for run in (tmp_path / "one", two)]
    one, other = ([row["tokens"]["text"] for row in table["samples"]] for table in samples)
    same = sum(ours == theirs for ours, theirs in zip(one, other, strict=True))
    assert same >= 15  # of 16: the first step's weights are equal, and every sample has its own seed
    assert all(row["tokens"]["trained"] for row in samples[1]["samples"] if row["advantage"])  # by either rank
    assert (two / "policy" / "model.safetensors").exists()
    assert sorted(path.name for path in (two / "checkpoints").iterdir()) == ["step_000002", "step_000003"]


@pytest.mark.slow
def test_each_engine_gets_the_weights(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        for name in ("clean", "mended"):
            assert rank[name]["culprit"] is None
            assert rank[name]["tensors"] == 25
        assert rank["clean"]["changed"] > 0.5
    assert ranks[0]["whole"] == ranks[1]["whole"]


@pytest.mark.slow
def test_each_generates_its_slice_of_the_batch(ranks: list[dict[str, Any]]) -> None:
    drawn = ranks[0]["own"] + ranks[1]["own"]
    assert sum(map(list.__eq__, drawn, ranks[0]["whole"])) >= 3  # another batch shape may round another way


@pytest.mark.slow
def test_a_rank_that_leaves_the_stream_is_stale_alone(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["stopped"]["culprit"] is None
    assert ranks[1]["stopped"]["culprit"].startswith("missing tensor")
    assert len(ranks[1]["stopped"]["stale"]) == 25


@pytest.mark.slow
def test_where_one_raises_all_do(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["raised"] == "SyncError: the weight sync failed on another rank, whose own message says why."
    assert ranks[1]["raised"] == "KeyError: 'mine'"


@pytest.mark.slow
def test_a_search_on_one_rank_takes_the_other_along(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["doubted"]["culprit"] is None
    assert ranks[1]["doubted"]["culprit"].startswith("logprobs disagree")
