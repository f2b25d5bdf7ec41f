"""Compiled layers do the same steps as plain ones, from one graph for all layers and shapes."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from course_lib.training import Group, PackedBatch, PolicyTrainer, TrainerConfig

Loss = Callable[[PackedBatch, Tensor, Tensor], Tensor]


@pytest.fixture
def _traced_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace forward and backward as always, and run the graphs with torch's own kernels: nothing to build for a test."""
    compile_ = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda layer, **how: compile_(layer, backend="aot_eager", **how))
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.usefixtures("_traced_only")
@pytest.mark.parametrize(("stage", "checkpointing"), [(0, False), (2, False), (2, True)])
def test_compiled_steps_are_the_plain_ones(
    tiny_folder: Path, groups: list[Group], advantage_loss: Loss, stage: int, checkpointing: bool
) -> None:
    from torch._dynamo.utils import counters

    options = {"zero_stage": stage, "gradient_checkpointing": checkpointing, "learning_rate": 1e-3}
    plain, compiled = (PolicyTrainer(tiny_folder, TrainerConfig(**options, compile_layers=on)) for on in (False, True))
    counters.clear()
    for part in (groups, groups[:3], groups[1:], groups):
        one, other = plain.step(part, advantage_loss), compiled.step(part, advantage_loss)
        assert other.loss == pytest.approx(one.loss, rel=1e-2, abs=1e-3)
        assert other.grad_norm == pytest.approx(one.grad_norm, rel=1e-2)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    weights = dict(plain.named_weights())
    for name, weight in compiled.named_weights():
        torch.testing.assert_close(weight, weights[name], atol=4e-3, rtol=0.05)
