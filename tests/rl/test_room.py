"""Room on a GPU: what fits is let through, and what does not fit is told what would."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.kv_cache.cost import MODELS
from course_lib.rl.errors import OutOfMemory
from course_lib.rl.room import Room, check_room, trainer_bytes
from course_lib.training import TrainerConfig, ZeroPlan, training_memory

GIB = 2**30
SMALL, LARGE = MODELS["SmolLM2-135M"], MODELS["Qwen3-4B"]
CONFIG = TrainerConfig(micro_batch_tokens=16384)


def test_the_capstone_fits_a_gpu_of_80_gib_and_says_what_it_takes() -> None:
    room = check_room(SMALL, CONFIG, free=79 * GIB, total=80 * GIB, gpu_memory_utilization=0.4)
    assert room.rollout == 32 * GIB
    assert room.trainer > training_memory(SMALL, ZeroPlan(2), 16384, 256).device_bytes
    assert room.needed == room.rollout + room.trainer + GIB


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
    assert fits.rollout < 3 * GIB
    with pytest.raises(OutOfMemory, match="kv_cache_bytes=") as caught:
        check_room(SMALL, CONFIG, free=24 * GIB, total=80 * GIB, gpu_memory_utilization=0.9, kv_cache_bytes=20 * GIB)
    assert "gpu_memory_utilization" not in caught.value.settings


def test_more_ranks_share_the_optimizer() -> None:
    assert trainer_bytes(LARGE, CONFIG, ranks=4) < trainer_bytes(LARGE, CONFIG, ranks=1)


@settings(max_examples=60)
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
    assert isinstance(room, Room)
    assert room.fits
    assert set(advised) == set(named)
