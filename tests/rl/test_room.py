"""Room on a GPU: what fits is let through, and what does not fit is told what would."""

import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import course_lib.capstone
from course_lib import machine
from course_lib.capstone import Memory, Order
from course_lib.cli import app
from course_lib.kv_cache.cost import MODELS
from course_lib.models import load_policy
from course_lib.rl.capstone import recipe
from course_lib.rl.errors import OutOfMemory
from course_lib.rl.room import Room, check_room, find_room, trainer_bytes
from course_lib.training import TrainerConfig, ZeroPlan, training_memory

GIB = 2**30
SMALL, LARGE = MODELS["SmolLM2-135M"], MODELS["Qwen3-4B"]
CONFIG = TrainerConfig(micro_batch_tokens=16384)


def test_the_capstone_fits_a_gpu_of_80_gib_and_says_what_it_takes() -> None:
    room = check_room(SMALL, CONFIG, free=79 * GIB, total=80 * GIB, gpu_memory_utilization=0.4)
    assert room.rollout == 32 * GIB
    assert room.trainer > training_memory(SMALL, ZeroPlan(2), 16384, 256).device_bytes
    assert room.needed == room.rollout + room.trainer + 2 * GIB


def test_a_taken_gpu_is_named_with_what_others_hold() -> None:
    with pytest.raises(OutOfMemory, match=r"Other programs hold 60\.0 GiB \(nvidia-smi") as caught:
        check_room(SMALL, CONFIG, free=20 * GIB, total=80 * GIB, gpu_memory_utilization=0.4)
    assert caught.value.phase == "start"
    assert "gpu_memory_utilization" in caught.value.settings
    with pytest.raises(OutOfMemory) as empty:
        check_room(LARGE, CONFIG, free=int(23.6 * GIB), total=24 * GIB, gpu_memory_utilization=0.4)
    assert "Other programs" not in str(empty.value)


def test_what_can_not_fit_is_not_promised() -> None:
    with pytest.raises(OutOfMemory, match="No setting makes it fit") as caught:
        check_room(LARGE, CONFIG, free=23 * GIB, total=24 * GIB, gpu_memory_utilization=0.4)
    assert caught.value.settings == ()


def test_a_kv_cache_of_a_given_size_is_what_counts() -> None:
    fits = check_room(SMALL, CONFIG, free=24 * GIB, total=80 * GIB, gpu_memory_utilization=0.9, kv_cache_bytes=2 * GIB)
    assert 2 * GIB < fits.rollout < 4 * GIB
    with pytest.raises(OutOfMemory, match="kv_cache_bytes=") as caught:
        check_room(SMALL, CONFIG, free=24 * GIB, total=80 * GIB, gpu_memory_utilization=0.9, kv_cache_bytes=20 * GIB)
    assert "gpu_memory_utilization" not in caught.value.settings
    assert "course capstone" not in str(caught.value)  # its command line has no such option


def test_a_critic_is_trained_too() -> None:
    room = {"free": 60 * GIB, "total": 80 * GIB, "gpu_memory_utilization": 0.4}
    alone, both = (check_room(SMALL, TrainerConfig(), **room, critic=critic) for critic in (False, True))
    assert both.trainer == 2 * alone.trainer


def test_without_a_gpu_there_is_nothing_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "tier", lambda: "cpu")
    assert find_room(Path("nowhere"), CONFIG, {}) is None


def test_a_gpu_is_asked_for_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "tier", lambda: "gpu")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (12 * GIB, 140 * GIB))
    with pytest.raises(OutOfMemory, match=r"12\.0 GiB of 140\.0 GiB are free"):
        find_room(load_policy("tiny"), CONFIG, {"enforce_eager": False})
    room = find_room(load_policy("tiny"), CONFIG, {"gpu_memory_utilization": 0.05})
    assert room is not None and room.rollout == int(0.05 * 140 * GIB)


def test_more_ranks_share_the_optimizer() -> None:
    assert trainer_bytes(LARGE, CONFIG, ranks=4) < trainer_bytes(LARGE, CONFIG, ranks=1)


def order_of(arguments: list[str]) -> Memory:
    """What `course capstone` makes of these options."""
    orders: list[Order] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(course_lib.capstone, "run_capstone", lambda order: orders.append(order) or 0)
        assert CliRunner().invoke(app, ["capstone", *arguments]).exit_code == 0
    assert sorted(orders[0].arguments()[-len(arguments) :]) == sorted(arguments)  # as a rank gets them
    return orders[0].memory


@settings(max_examples=60, deadline=None)
@given(
    shape=st.sampled_from([SMALL, MODELS["Qwen3-0.6B"], LARGE]),
    total=st.integers(8, 140),
    share=st.floats(0.05, 1.0),
    utilization=st.floats(0.1, 0.9),
    tokens=st.sampled_from([512, 4096, 16384]),
)
def test_advice_that_is_followed_fits(shape, total, share, utilization, tokens) -> None:
    config, free = TrainerConfig(micro_batch_tokens=tokens), int(total * share * GIB)
    asked = {"free": free, "total": total * GIB}
    named: tuple[str, ...] = ()
    advised: dict[str, str] = {}
    try:
        room = check_room(shape, config, gpu_memory_utilization=utilization, **asked)
    except OutOfMemory as error:
        advised = dict(re.findall(r"(?:TrainerConfig|VLLMRollout)\.(\w+)=([\w.]*\w)", str(error)))
        named = error.settings
        if not advised:
            return
        changed = TrainerConfig(
            micro_batch_tokens=int(advised.get("micro_batch_tokens", tokens)),
            gradient_checkpointing=advised.get("gradient_checkpointing") == "True",
        )
        room = check_room(shape, changed, gpu_memory_utilization=float(advised["gpu_memory_utilization"]), **asked)
        told = str(error).partition("`course capstone`: ")[2].rstrip(".").split()
        assert order_of(told) == Memory(
            float(advised["gpu_memory_utilization"]),
            int(advised["micro_batch_tokens"]) if "micro_batch_tokens" in advised else None,
            "gradient_checkpointing" in advised,
        )
    assert isinstance(room, Room)
    assert room.fits
    assert set(advised) == set(named)


def test_what_is_asked_for_changes_the_recipe_and_nothing_else_does() -> None:
    numbers = recipe(tier="gpu")
    assert Memory().apply(numbers) == numbers
    changed = Memory(0.02, 4096, gradient_checkpointing=True).apply(numbers)
    assert changed.rollout == {"enforce_eager": False, "gpu_memory_utilization": 0.02}
    assert (changed.trainer.micro_batch_tokens, changed.trainer.gradient_checkpointing) == (4096, True)
    assert changed.loop == numbers.loop
