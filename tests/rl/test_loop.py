"""The whole loop on real engines: what a run records, and that a run depends on its seed alone."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from course_lib.rl import ALGORITHMS, Addition, LoopConfig, LossConfig, RLLoop, RunError
from course_lib.rl.progress import ProgressBar
from course_lib.training import FrozenPolicy, TrainerConfig, ValueTrainer

pytestmark = pytest.mark.slow
Curve = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]

ALWAYS = {
    "step",
    "reward",
    "reward_std",
    "length",
    "finished",
    "groups_with_signal",
    "tokens",
    "applied",
    "receipt",
}
ALWAYS |= {"loss", "grad_norm", "learning_rate", "entropy", "clipped", "truncated", "mismatch", "mismatch_kl"}
ALWAYS |= {"masked", "sampled_groups", "reward_faults", "timeline", "kv"}
ALWAYS |= {"ratio_mean", "ratio_min", "ratio_max", "ratio_outside", "seconds", "tokens_per_second", "peak_memory"}


@pytest.fixture(scope="module")
def four(make_loop: Callable[..., RLLoop], quiet: Any, tmp_path_factory: pytest.TempPathFactory) -> RLLoop:
    """Four steps in one go."""
    loop = make_loop(tmp_path_factory.mktemp("four") / "run", steps=4, evaluate_every=2, checkpoint_every=2)
    loop.run(quiet())
    return loop


def test_metrics_have_every_key(four: RLLoop) -> None:
    first, *steps = four.records()
    assert first["step"] == 0
    assert 0 <= first["held_out"] <= 1
    assert [record["step"] for record in steps] == [1, 2, 3, 4]
    for record in steps:
        assert record.keys() >= ALWAYS
        assert ("held_out" in record) == (record["step"] in (2, 4))
        assert {"generate", "reward", "train", "sync", "step"} <= record["seconds"].keys()
        assert record["tokens_per_second"] > 0
        assert record["peak_memory"]["host"] > 0.1
        assert record["receipt"]["ok"] is True
        assert record["receipt"]["changed"] > 0.2
        assert record["applied"] is True
        assert record["mismatch"] < 0.05
        assert 0 < record["entropy"] < 6.3  # of 512 tokens at most ln 512


def test_metrics_file_is_json_lines(four: RLLoop) -> None:
    lines = four.run_folder.metrics.read_text().splitlines()
    assert [json.loads(line) for line in lines] == four.records()
    assert json.loads((four.run_folder.path / "config.json").read_text())["seed"] == 0


def test_samples_are_written(four: RLLoop, reward: Any) -> None:
    tables = four.run_folder.read(four.run_folder.samples)
    assert [table["step"] for table in tables] == [1, 2, 3, 4]
    for table, record in zip(tables, four.records()[1:], strict=True):
        rows = table["samples"]
        assert len(rows) == 16
        assert len({row["question"] for row in rows}) == 4
        assert sum(row["reward"] for row in rows) / 16 == pytest.approx(record["reward"])
        assert [row["reward"] for row in rows] == pytest.approx(reward([], [row["completion"] for row in rows]))
        for start in range(0, 16, 4):
            assert sum(row["advantage"] for row in rows[start : start + 4]) == pytest.approx(0, abs=1e-4)


def test_training_never_sees_a_held_out_problem(four: RLLoop) -> None:
    held_out = {problem.question for problem in four.task.held_out}
    asked = [row["question"] for table in four.run_folder.read(four.run_folder.samples) for row in table["samples"]]
    assert held_out.isdisjoint(asked)


def test_checkpoints_are_there(four: RLLoop) -> None:
    assert [path.name for path in four.run_folder.checkpoints()] == ["step_000002", "step_000004"]


def test_answers_are_greedy(four: RLLoop) -> None:
    problems = four.task.held_out[:3]
    assert four.answers(problems) == four.answers(problems)
    assert len(four.answers(problems)) == 3
    assert "step 4 of 4" in repr(four)


def test_two_steps_and_two_more_are_four(
    four: RLLoop, make_loop: Callable[..., RLLoop], quiet: Any, curve: Curve, tmp_path: Path
) -> None:
    """New trainer, new loop: what isn't in the checkpoint is gone. The first two steps show that a seed gives one curve."""
    options = {"evaluate_every": 2, "checkpoint_every": 2}
    two = make_loop(tmp_path / "run", steps=2, **options).run(quiet())
    assert curve(two) == curve(four.records())[:3]
    resumed = make_loop(tmp_path / "run", resume=True, steps=4, **options)
    assert resumed.completed == 2
    assert curve(resumed.run(quiet())) == curve(four.records())
    assert [t["step"] for t in resumed.run_folder.read(resumed.run_folder.samples)] == [1, 2, 3, 4]


def test_another_seed_gives_another_curve(four: RLLoop, make_loop: Any, quiet: Any, tmp_path: Path) -> None:
    records = make_loop(tmp_path / "run", steps=1, seed=1).run(quiet())
    assert records[0]["held_out"] == four.records()[0]["held_out"]
    assert records[1]["reward"] != four.records()[1]["reward"]


def test_zero_3_trains_alike(four: RLLoop, make_loop: Any, quiet: Any, tmp_path: Path) -> None:
    records = make_loop(tmp_path / "run", steps=2, trainer={"zero_stage": 3}).run(quiet())
    for ours, theirs in zip(records[1:], four.records()[1:], strict=False):
        assert ours["receipt"]["ok"] is True
        assert ours["reward"] == pytest.approx(theirs["reward"], abs=0.15)
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=0.05)


def test_second_update_is_clipped_against_the_first(make_loop: Any, quiet: Any, tmp_path: Path) -> None:
    record = make_loop(tmp_path / "run", steps=1, updates_per_batch=2, trainer={"learning_rate": 1e-3}).run(quiet())[1]
    assert record["clipped"] > 0
    assert record["mismatch"] < 0.05  # of trainer and sampler at equal weights, not of two updates
    assert record["receipt"]["ok"] is True


def test_kl_to_the_reference_grows_from_zero(make_loop: Any, quiet: Any, tiny: Path, tmp_path: Path) -> None:
    held = replace(ALGORITHMS["grpo"], loss=LossConfig(kl_coefficient=0.01))
    records = make_loop(tmp_path / "run", steps=3, reference=FrozenPolicy(tiny), algorithm=held).run(quiet())
    first, _, third = (record["kl_reference"] for record in records[1:])
    assert first == pytest.approx(0, abs=1e-4)
    assert third > 10 * max(first, 1e-4)


def test_ppo_trains_its_critic_and_resumes(
    make_loop: Any, quiet: Any, curve: Curve, tiny: Path, tmp_path: Path
) -> None:
    def critic() -> ValueTrainer:
        return ValueTrainer(tiny, TrainerConfig(learning_rate=1e-3))

    options = {"algorithm": "ppo", "checkpoint_every": 1, "evaluate_every": 1, "updates_per_batch": 2}
    records = make_loop(tmp_path / "run", steps=3, critic=critic(), **options).run(quiet())
    assert records[-1]["value_loss"] < records[1]["value_loss"]
    assert all(record["receipt"]["ok"] for record in records[1:])
    two = make_loop(tmp_path / "other", steps=2, critic=critic(), **options)
    two.run(quiet())
    tokens = two.run_folder.read(two.run_folder.samples)[0]["samples"][0]["tokens"]
    assert len(tokens["advantage"]) == len(tokens["text"])
    resumed = make_loop(tmp_path / "other", resume=True, steps=3, critic=critic(), **options)
    assert curve(resumed.run(quiet())) == curve(records)


def test_dynamic_sampling_draws_until_there_is_a_signal(make_loop: Any, quiet: Any, tmp_path: Path) -> None:
    def rare(problems: Any, texts: Any) -> list[float]:
        return [float("a" in text.lower()[:2]) for text in texts]

    plain = make_loop(tmp_path / "plain", steps=1, reward=rare).run(quiet())[1]
    options = {"algorithm": replace(ALGORITHMS["dapo"], dynamic_sampling=6), "reward": rare}
    dapo = make_loop(tmp_path / "dapo", steps=1, **options).run(quiet())[1]
    assert plain["groups_with_signal"] < 1
    assert dapo["groups_with_signal"] == 1
    assert dapo["sampled_groups"] > plain["sampled_groups"] == 4
    assert {"overlong"} == dapo["reward_parts"].keys()


def test_faulty_rewards_are_left_out_and_written_down(make_loop: Any, quiet: Any, reward: Any, tmp_path: Path) -> None:
    def fragile(problems: Any, texts: Any) -> list[float]:
        rewards = reward(problems, texts)
        return [float("nan") if place == 1 else value for place, value in enumerate(rewards)]

    loop = make_loop(tmp_path / "run", steps=1, reward=fragile, on_reward_error="go_on")
    record = loop.run(quiet())[1]
    assert record["reward_faults"] == 1
    assert record["applied"] is True
    (fault,) = loop.run_folder.read(loop.run_folder.path / "faults.jsonl")
    (table,) = loop.run_folder.read(loop.run_folder.samples)
    assert (fault["index"], fault["completion"]) == (1, table["samples"][1]["completion"])
    assert table["samples"][1]["advantage"] == 0
    others = [table["samples"][row]["reward"] for row in (0, 2, 3)]
    assert table["samples"][1]["reward"] == pytest.approx(sum(others) / 3)


def test_kl_term_without_a_reference(four: RLLoop, tmp_path: Path) -> None:
    held = replace(ALGORITHMS["grpo"], loss=LossConfig(kl_coefficient=0.1))
    with pytest.raises(ValueError, match="FrozenPolicy"):
        RLLoop(four.trainer, four.rollout, Addition(), tmp_path / "run", algorithm=held)
    with pytest.raises(ValueError, match="ValueTrainer"):
        RLLoop(four.trainer, four.rollout, Addition(), tmp_path / "run", algorithm="ppo")
    assert not (tmp_path / "run").exists()


def test_no_signal_is_no_step(make_loop: Any, quiet: Any, tmp_path: Path) -> None:
    """All rewards equal: nothing to learn, nothing is trained, and the sync is clean all the same."""
    record = make_loop(tmp_path / "run", steps=1, reward=lambda problems, texts: [0.5] * len(texts)).run(quiet())[1]
    assert record["applied"] is False
    assert record["groups_with_signal"] == 0
    assert record["receipt"]["ok"] is True
    assert record["receipt"]["changed"] == 0


def test_learners_parts_are_used(make_loop: Any, quiet: Any, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    def halves(rewards: Any) -> Any:
        seen["advantage"] = rewards.shape
        return rewards - 0.5

    record = make_loop(tmp_path / "run", steps=1, advantage=halves).run(quiet())[1]
    assert seen["advantage"] == (4, 4)
    assert record["groups_with_signal"] == 1


def test_a_finished_run_has_no_steps_left(four: RLLoop, quiet: Any) -> None:
    before = four.run_folder.metrics.read_text()
    four.run(quiet())
    assert four.run_folder.metrics.read_text() == before


def test_one_step_by_hand_needs_no_view(make_loop: Any, tmp_path: Path) -> None:
    loop = make_loop(tmp_path / "run", steps=2)
    assert loop.step()["step"] == 1
    assert loop.checkpoint().name == "step_000001"


def test_other_decisions_do_not_resume(four: RLLoop, make_loop: Any) -> None:
    with pytest.raises(RunError, match=r"temperature was 1\.0 and is 0\.8"):
        make_loop(four.run_folder.path, resume=True, steps=4, evaluate_every=2, checkpoint_every=2, temperature=0.8)
    with pytest.raises(RunError, match="already holds a run"):
        make_loop(four.run_folder.path, steps=4)


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, 0) for name in ("steps", "prompts_per_step", "max_new_tokens", "updates_per_batch", "evaluate_every")]
    + [("checkpoint_every", 0), ("samples_per_prompt", 1), ("temperature", 0.0), ("temperature", float("nan"))],
)
def test_config_errors(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        LoopConfig(**{name: value})  # type: ignore[arg-type]


def test_progress_bar_shows_what_is_new(capsys: pytest.CaptureFixture[str]) -> None:
    bar = ProgressBar()
    bar.started(3, 1)
    bar.phase("train")
    bar.step({"step": 2, "reward": 0.25, "applied": True})
    bar.step({"step": 3, "reward": 0.75, "held_out": 0.5, "applied": False, "groups_with_signal": 1.0})
    bar.finished()
    shown = capsys.readouterr().out
    assert "3/3" in shown
    assert "reward=0.75" in shown and "held_out=0.50" in shown
    assert "step 3: loss or gradient was not finite" in shown
    assert "step 2: loss" not in shown
