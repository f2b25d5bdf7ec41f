"""A copy plan on a model that fuses matrices as vLLM does: the same memory as its own loader fills, and no plan where in doubt."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from course_lib.rl import RolloutError, VLLMRollout
from course_lib.rl.copy_plan import CopyPlan

WIDTH = 6
ROWS = {"q_proj": 4, "k_proj": 2, "v_proj": 2, "gate_proj": 5, "up_proj": 5}
FUSED = {"qkv": ("q_proj", "k_proj", "v_proj"), "gate_up": ("gate_proj", "up_proj")}


class Fused(nn.Module):
    """Holds q, k and v as one matrix, gate and up as another, and a table with rows that no file has."""

    def __init__(self, layers: int, dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()

        def empty(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(shape, dtype=dtype), requires_grad=False)

        self.own = nn.ParameterDict({"table": empty(16, WIDTH)})
        for layer in range(layers):
            self.own[f"{layer}_norm"] = empty(WIDTH)
            for name, parts in FUSED.items():
                self.own[f"{layer}_{name}"] = empty(sum(ROWS[part] for part in parts), WIDTH)

    def place(self, name: str) -> Tensor:
        if name == "table":
            return self.own["table"].data[:11]
        layer, part = name.split(".")
        for fused, parts in FUSED.items():
            if part in parts:
                start = sum(ROWS[before] for before in parts[: parts.index(part)])
                return self.own[f"{layer}_{fused}"].data.narrow(0, start, ROWS[part])
        return self.own[f"{layer}_{part}"].data

    def load_weights(self, weights: Iterator[tuple[str, Tensor]]) -> None:
        for name, weight in weights:
            self.place(name).copy_(weight)


def made(layers: int, seed: int) -> dict[str, Tensor]:
    chance = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {"table": (11, WIDTH)}
    for layer in range(layers):
        shapes |= {f"{layer}.{name}": (rows, WIDTH) for name, rows in ROWS.items()} | {f"{layer}.norm": (WIDTH,)}
    return {name: torch.randn(shape, generator=chance).bfloat16() for name, shape in shapes.items()}


def stream(weights: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    return iter(weights.items())


@given(layers=st.integers(1, 20), order=st.randoms(use_true_random=False), gathered=st.booleans())
def test_later_loads_fill_the_same_memory_as_the_models_own(layers: int, order: Any, gathered: bool) -> None:
    """In any order, from tensors that live where they lived before or elsewhere, from copies made one at a time too."""
    plain, planned = Fused(layers), Fused(layers)
    before = [weight.data_ptr() for weight in planned.parameters()]

    def live(weights: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        for name, weight in weights.items():
            yield name, torch.empty_like(weight).copy_(weight) if gathered else weight  # a gather is a copy of its own

    plan = CopyPlan(planned, live(made(layers, 0)))
    assert plan.complete
    for seed in (1, 2):
        names = list(made(layers, seed))
        order.shuffle(names)
        weights = {name: made(layers, seed)[name] for name in names}
        plain.load_weights(stream(weights))
        plan.load(live(weights))
        assert all(torch.equal(one, other) for one, other in zip(plain.parameters(), planned.parameters(), strict=True))
    assert [weight.data_ptr() for weight in planned.parameters()] == before


class Skips(Fused):
    """Leaves a weight out, as a loader does with a tied output matrix."""

    def load_weights(self, weights: Iterator[tuple[str, Tensor]]) -> None:
        super().load_weights((name, weight) for name, weight in weights if name != "0.norm")


class ReadsAhead(Fused):
    def load_weights(self, weights: Iterator[tuple[str, Tensor]]) -> None:
        super().load_weights(iter(list(weights)))


class Packs(Fused):
    """Keeps a copy in a layout of its own."""

    def place(self, name: str) -> Tensor:
        return super().place(name).clone()


class Flips(Fused):
    def load_weights(self, weights: Iterator[tuple[str, Tensor]]) -> None:
        for name, weight in weights:
            source = weight.flip(0) if name == "0.q_proj" else weight
            self.place(name).copy_(source)


class CopiesTwice(Fused):
    def load_weights(self, weights: Iterator[tuple[str, Tensor]]) -> None:
        for name, weight in weights:
            self.place(name).copy_(weight)
            self.place(name).copy_(weight)


class StopsEarly(Fused):
    def load_weights(self, weights: Iterator[tuple[str, Tensor]]) -> None:
        name, weight = next(weights)
        self.place(name).copy_(weight)


@pytest.mark.parametrize("kind", [Skips, ReadsAhead, Packs, Flips, CopiesTwice, StopsEarly])
def test_no_plan_where_the_loader_does_more_than_copy(kind: type[Fused]) -> None:
    assert not CopyPlan(kind(2), stream(made(2, 0))).complete


def test_no_plan_where_the_loader_casts() -> None:
    assert not CopyPlan(Fused(1, torch.float32), stream(made(1, 0))).complete


@pytest.mark.parametrize(("name", "shape"), [("0.other", (WIDTH,)), ("0.norm", (1,)), ("0.q_proj", (2, WIDTH))])
def test_a_weight_without_a_place_is_an_error(name: str, shape: tuple[int, ...]) -> None:
    """A copy would spread a tensor of one value over the whole place."""
    model = Fused(1)
    plan = CopyPlan(model, stream(made(1, 0)))
    with pytest.raises(ValueError, match=f"no place for {name} of shape"):
        plan.load(iter([(name, torch.ones(shape, dtype=torch.bfloat16))]))
    assert torch.equal(model.place("0.norm"), made(1, 0)["0.norm"])


def test_experts_and_other_dtypes_do_not_fit() -> None:
    assert CopyPlan.fits(Fused(1))
    assert not CopyPlan.fits(Fused(1, torch.float16))
    model = Fused(1)
    model.own["experts"] = nn.Parameter(torch.zeros(2, 2, 2, dtype=torch.bfloat16))
    assert not CopyPlan.fits(model)


class Engine:
    """Stands for vLLM on a GPU: holds a model, and notes who asked for a reload."""

    def __init__(self, model: Fused) -> None:
        self.model = model
        self.calls: list[str] = []

    def apply_model(self, function: Any) -> list[Any]:
        self.calls.append("copy")
        return [function(self.model)]

    def collective_rpc(self, name: str, kwargs: dict[str, Any]) -> None:
        self.calls.append(name)
        self.model.load_weights(kwargs["weights_iterator"])


def gpu_rollout(model: Fused) -> Any:
    rollout = VLLMRollout.__new__(VLLMRollout)
    rollout.llm, rollout._copies, rollout._plan = Engine(model), True, None
    return rollout


@pytest.mark.parametrize(
    ("kind", "ways"), [(Fused, ["copy"] * 3), (Skips, ["copy", "reload_weights", "reload_weights"])]
)
def test_a_rollout_copies_where_it_can_and_else_leaves_it_to_vllm(kind: type[Fused], ways: list[str]) -> None:
    rollout, plain = gpu_rollout(kind(2)), kind(2)
    for seed in range(3):
        rollout.reload_weights(stream(made(2, seed)))
        plain.load_weights(stream(made(2, seed)))
        assert all(map(torch.equal, rollout.llm.model.parameters(), plain.parameters()))
    assert rollout.llm.calls == ways


def test_after_a_failed_receipt_the_reload_is_vllms_own() -> None:
    rollout = gpu_rollout(Fused(1))
    for seed in (0, 1):
        rollout.reload_weights(stream(made(1, seed)))
    rollout.forget_plan()
    rollout.reload_weights(stream(made(1, 2)))
    assert rollout.llm.calls == ["copy", "copy", "reload_weights"]


def test_a_weight_without_a_place_is_the_rollouts_error() -> None:
    rollout = gpu_rollout(Fused(1))
    rollout.reload_weights(stream(made(1, 0)))
    with pytest.raises(RolloutError, match=r"did not take the weights .*no place for other"):
        rollout.reload_weights(iter([("other", torch.ones(1))]))


@pytest.mark.slow
def test_vllms_own_loaders_are_followed(engine: VLLMRollout, tiny: Path) -> None:
    """A model of vLLM's as it is on a GPU: with the matrices that it made, before the CPU tier packs them."""
    from vllm.config import set_current_vllm_config
    from vllm.model_executor.model_loader.utils import initialize_model
    from vllm.utils.torch_utils import set_default_torch_dtype

    config = engine.llm.llm_engine.vllm_config
    known = dict(config.compilation_config.static_forward_context)
    with set_current_vllm_config(config), set_default_torch_dtype(torch.bfloat16):
        plain, planned = (initialize_model(config, prefix=prefix) for prefix in ("plain", "planned"))
    config.compilation_config.static_forward_context.clear()
    config.compilation_config.static_forward_context.update(known)
    files = load_file(tiny / "model.safetensors")
    for model in (plain, planned):
        for weight in model.parameters():
            weight.data.zero_()
    assert CopyPlan.fits(planned)
    plan = CopyPlan(planned, iter(files.items()))
    assert plan.complete
    moved = {name: weight + 1 for name, weight in files.items()}
    plan.load(iter(moved.items()))
    plain.load_weights(iter(moved.items()))
    named = dict(planned.named_parameters())
    assert any("qkv_proj" in name for name in named)
    for name, weight in plain.named_parameters():
        assert torch.equal(weight, named[name]), name
