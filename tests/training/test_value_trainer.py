"""PPO's critic: values that are transformers', the clipped loss, and training that neither cuts nor ranks change."""

import importlib.util
import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from course_lib.models import PolicyError
from course_lib.models.scoring import with_score_head
from course_lib.training import Group, TrainerConfig, ValueTrainer, launch, pack
from course_lib.training.value_trainer import ValueModel, value_loss

WORKER = Path(__file__).with_name("value_worker.py")
NUMBER = st.floats(-3, 3)
TOKENS = st.lists(st.tuples(NUMBER, NUMBER, NUMBER), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def work() -> ModuleType:
    """What the ranks do, for one process alone."""
    spec = importlib.util.spec_from_file_location("value_worker", WORKER)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def headed_folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A critic whose head says something already."""
    return with_score_head(tiny_folder, tmp_path_factory.mktemp("headed"), scale=0.3)


@given(TOKENS, st.floats(0, 2) | st.just(math.inf))
def test_the_loss_is_the_worse_of_two_squared_errors(tokens: list[tuple[float, ...]], clip: float) -> None:
    assume(all(abs(abs(new - old) - clip) > 1e-6 for new, old, _ in tokens))
    values, old, returns = torch.tensor(tokens, dtype=torch.float64).unbind(1)
    values = values.clone().requires_grad_()
    found = value_loss(values, old, returns, clip)
    found.sum().backward()
    assert values.grad is not None
    for index, (new, before, target) in enumerate(tokens):
        limited = max(before - clip, min(new, before + clip))
        plain, bound = (new - target) ** 2 / 2, (limited - target) ** 2 / 2
        assert float(found[index].detach()) == pytest.approx(max(plain, bound), abs=1e-9)
        if abs(plain - bound) > 1e-9:
            # Beyond the clip and nearer to the return than it: pulled no further.
            assert float(values.grad[index]) == pytest.approx(new - target if plain > bound else 0.0, abs=1e-9)


def test_values_are_transformers_scores_of_what_was_written_so_far(headed_folder: Path, groups: list[Group]) -> None:
    theirs = AutoModelForSequenceClassification.from_pretrained(headed_folder, dtype=torch.float32)
    ours = ValueModel(headed_folder, dtype=torch.float32)
    with torch.no_grad():
        found = ours(pack(groups)).tolist()
        expected = [
            float(theirs(torch.tensor([group.prompt_ids + response[:length]])).logits[0, 0])
            for group in groups
            for response in group.responses
            for length in range(len(response))
        ]
    assert found == pytest.approx(expected, abs=2e-4)


def test_a_new_critic_says_nothing(tiny_folder: Path, groups: list[Group]) -> None:
    values = ValueTrainer(tiny_folder).values(groups)
    assert {sample: len(row) for sample, row in values.items()} == {
        sample: len(response)
        for group in groups
        for sample, response in zip(group.samples, group.responses, strict=True)
    }
    assert not any(bool(row.any()) for row in values.values())


def test_the_first_step_s_figures(headed_folder: Path, work: ModuleType) -> None:
    """The loss is a mean over all response tokens; the explained variance is that of the values before the update."""
    trainer = ValueTrainer(headed_folder, TrainerConfig(**work.OPTIONS))
    before = trainer.values(work.GROUPS)
    values = torch.cat([before[sample] for sample in sorted(before)])
    target = torch.cat([work.RETURNS[sample, : len(before[sample])] for sample in sorted(before)])
    stats = trainer.step(work.GROUPS, work.RETURNS, torch.zeros_like(work.RETURNS), clip=math.inf)
    assert stats.applied
    assert stats.loss == pytest.approx(float(((values - target) ** 2).mean() / 2), rel=1e-3)
    explained = 1 - float((target - values).var(correction=0) / target.var(correction=0))
    assert stats.explained_variance == pytest.approx(explained, rel=1e-3)


def test_how_a_step_is_cut_does_not_matter(headed_folder: Path, work: ModuleType) -> None:
    found = []
    for tokens in (8, 4096):
        trainer = ValueTrainer(headed_folder, TrainerConfig(**work.OPTIONS | {"micro_batch_tokens": tokens}))
        found.append(trainer.step(work.GROUPS, work.RETURNS, torch.zeros_like(work.RETURNS)))
    cut, whole = found
    assert cut.micro_batches > whole.micro_batches == 1
    assert cut.loss == pytest.approx(whole.loss, rel=1e-3)
    assert cut.grad_norm == pytest.approx(whole.grad_norm, rel=2e-2)  # bf16 gradients, added up in another order
    assert cut.explained_variance == pytest.approx(whole.explained_variance, rel=1e-3)


def test_it_learns_what_is_to_come(tiny_folder: Path, work: ModuleType, tmp_path: Path) -> None:
    """Each sample's first value is the same for all of its group, so the returns can't be foretold fully: 0.7 is much."""
    trainer = ValueTrainer(tiny_folder, TrainerConfig(learning_rate=3e-3))
    first, *_, last = [trainer.step(work.GROUPS, work.RETURNS, torch.zeros(6, 5), clip=math.inf) for _ in range(40)]
    assert first.explained_variance == pytest.approx(0, abs=1e-6)
    assert last.explained_variance > 0.7
    assert last.loss < first.loss / 3
    trainer.export(tmp_path / "critic")
    again = ValueTrainer(tmp_path / "critic").values(work.GROUPS)
    for sample, row in trainer.values(work.GROUPS).items():
        torch.testing.assert_close(again[sample], row, atol=1e-3, rtol=1e-3)


def test_equal_returns_have_no_variance_to_explain(tiny_folder: Path, work: ModuleType) -> None:
    stats = ValueTrainer(tiny_folder).step(work.GROUPS, torch.ones(6, 5), torch.zeros(6, 5))
    assert math.isnan(stats.explained_variance)
    assert stats.applied


def test_errors(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got no groups"):
        ValueTrainer(tiny_folder).step([], torch.zeros(0, 1), torch.zeros(0, 1))
    with pytest.raises(PolicyError):
        ValueTrainer(tmp_path)


@pytest.mark.slow
def test_two_ranks_learn_as_one_does(tiny_folder: Path, work: ModuleType, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIER", "cpu")
        patch.setenv("DS_ACCELERATOR", "cpu")
        launch(WORKER, ranks=2, arguments=[str(tiny_folder), str(tmp_path)], timeout=280)  # a hang is a failure
    ranks: list[dict[str, Any]] = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2)]
    for stage in (2, 3):
        alone = work.learn(tiny_folder, stage, work.GROUPS)
        found = [rank[str(stage)] for rank in ranks]
        for figure in ("loss", "grad_norm", "explained_variance"):
            values = [[step[figure] for step in one["steps"]] for one in found]
            assert values[0] == values[1], figure  # of all ranks, and so the same on each
            assert values[0] == pytest.approx([step[figure] for step in alone["steps"]], rel=3e-2, abs=1e-2), figure
        assert alone["steps"][-1]["loss"] < alone["steps"][0]["loss"]
        together: dict[str, Tensor] = {sample: row for one in found for sample, row in one["values"].items()}
        for sample, row in alone["values"].items():
            assert together[str(sample)] == pytest.approx(row, abs=3e-2)
