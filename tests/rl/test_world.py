"""Ranks: what they exchange, and that a run on two of them is the run on one."""

import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_lib.rl import RLLoop, World
from course_lib.training import launch

EXCHANGE = textwrap.dedent("""
    import torch
    from course_lib.rl import World

    torch.distributed.init_process_group("gloo")
    world = World(torch.distributed.get_rank(), 2)
    assert world.first == (world.rank == 0)
    assert world.gather([world.rank]) == [[0], [1]]
    assert world.from_first(lambda: f"by {world.rank}") == "by 0"
    try:
        world.from_first(lambda: 1 // world.rank)
    except ZeroDivisionError as error:
        assert "by zero" in str(error)
    else:
        raise AssertionError("the first rank's error did not arrive")
    assert world.any(world.rank == 1) and not world.any(False)
    table = torch.tensor([float(world.rank), 2.0])
    world.sum(iter([table]))
    assert table.tolist() == [1.0, 4.0]
    print("exchanged")
""")

RUN = textwrap.dedent("""
    import sys
    from course_lib.models import load_policy
    from course_lib.rl import Addition, LoopConfig, RLLoop, VLLMRollout
    from course_lib.training import PolicyTrainer, TrainerConfig

    def letters(problems, completions):
        return [sum(c.lower() in "abcdefghijklm" for c in text) / max(1, len(text)) for text in completions]

    folder = load_policy("tiny")
    trainer = PolicyTrainer(folder, TrainerConfig(learning_rate=3e-4, zero_stage=3))
    rollout = VLLMRollout(folder, kv_cache_bytes=32 << 20)
    config = LoopConfig(steps=3, prompts_per_step=4, samples_per_prompt=4, max_new_tokens=8, checkpoint_every=2)
    loop = RLLoop(trainer, rollout, Addition(), sys.argv[1], reward=letters, config=config)
    loop.run()
    loop.export()
""")
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


def test_two_ranks_exchange(tmp_path: Path) -> None:
    script = tmp_path / "exchange.py"
    script.write_text(EXCHANGE)
    assert all(rank.text.strip().endswith("exchanged") for rank in launch(script, ranks=2, timeout=120))


@pytest.mark.slow
def test_two_ranks_give_the_curve_of_one(make_loop: Callable[..., RLLoop], quiet: Any, tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(RUN)
    launch(script, ranks=2, arguments=[str(tmp_path / "two")], timeout=300)
    alone = make_loop(tmp_path / "one", steps=3, checkpoint_every=2, trainer={"zero_stage": 3})
    wanted = alone.run(quiet())
    found = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in found] == [0, 1, 2, 3]
    for ours, theirs in zip(found[1:], wanted[1:], strict=True):
        assert ours["receipt"]["ok"] is True
        assert ours["tokens"] == pytest.approx(theirs["tokens"], rel=NOISE)
        for name in ("reward", "reward_std", "loss"):
            assert ours[name] == pytest.approx(theirs[name], abs=NOISE), name
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=0.2)
    samples = [json.loads((tmp_path / run / "samples.jsonl").read_text().splitlines()[0]) for run in ("one", "two")]
    one, two = ([row["tokens"]["text"] for row in table["samples"]] for table in samples)
    same = sum(ours == theirs for ours, theirs in zip(one, two, strict=True))
    assert same >= 15  # of 16: the first step's weights are equal, and every sample has its own seed
    assert all(row["tokens"]["trained"] for row in samples[1]["samples"] if row["advantage"])  # by either rank
    assert (tmp_path / "two" / "policy" / "model.safetensors").exists()
    assert sorted(path.name for path in (tmp_path / "two" / "checkpoints").iterdir()) == ["step_000002", "step_000003"]
