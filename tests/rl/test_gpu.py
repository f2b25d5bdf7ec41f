"""On a GPU: vLLM with CUDA graphs and without, receipts, sleep mode, and the message of a GPU that is taken."""

import gc
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from course_lib.rl import EngineRollout, SamplingConfig, VLLMRollout, WeightSync, capstone
from course_lib.rl.errors import OutOfMemory
from course_lib.rl.handover import MemoryHandover
from course_lib.rl.rollout import request
from course_lib.rl.rollout_engine import PolicyRollout
from course_lib.training import PolicyTrainer

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]
GIB = 2**30
PROMPTS = [[1, 40, 50, 60, 70], [1, 45, 55], [1, 41, 51, 61, 71, 81, 91]]
SMALL: dict[str, Any] = {"kv_cache_bytes": 64 << 20, "gpu_memory_utilization": 0.1}
ENGINES: dict[str, Callable[[Path], PolicyRollout]] = {
    "vLLM": lambda folder: VLLMRollout(folder, **SMALL),
    "vLLM with CUDA graphs": lambda folder: VLLMRollout(folder, enforce_eager=False, **SMALL),
    "ours": lambda folder: EngineRollout(folder, **SMALL),
}


@pytest.fixture(autouse=True)
def _give_back() -> Iterator[None]:
    """The next test asks how much of the GPU is free."""
    yield
    gc.collect()
    torch.cuda.empty_cache()


def held() -> int:
    free, total = torch.cuda.mem_get_info()
    return total - free


@pytest.mark.parametrize("eager", [True, False])
def test_greedy_tokens_are_those_of_transformers(tiny: Path, eager: bool) -> None:
    rollout = VLLMRollout(tiny, dtype="float32", enforce_eager=eager, **SMALL)
    sampling = SamplingConfig(max_new_tokens=32, temperature=0.0, stop_at_eos=False)
    found = rollout.generate(request(PROMPTS), sampling).responses()
    rollout.shutdown()
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    model.generation_config.eos_token_id = None
    for prompt, tokens in zip(PROMPTS, found, strict=True):
        ids = torch.tensor([prompt])
        whole = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=32, pad_token_id=0
        )
        assert tokens == whole[0, len(prompt) :].tolist()


@pytest.mark.parametrize("name", ENGINES)
def test_a_receipt_tells_a_sync_from_none(
    name: str, tiny: Path, make_trainer: Callable[..., PolicyTrainer], train: Callable[[PolicyTrainer], None]
) -> None:
    trainer, rollout = make_trainer(learning_rate=1e-2), ENGINES[name](tiny)
    sync = WeightSync(trainer, rollout)
    assert 0 < sync.noise_floor < 0.1
    sampling = SamplingConfig(max_new_tokens=24, temperature=0.0, stop_at_eos=False)
    before = rollout.generate(request(PROMPTS), sampling).responses()
    for _ in range(2):
        train(trainer)
        assert str(sync.inspect().culprit).startswith("no sync")
        receipt = sync.push()
        # In vLLM the tied lm_head is the embedding itself; ours has a product of its own for it.
        assert receipt.ok and receipt.changed > 0.5 and receipt.tensors == (25 if name == "ours" else 24), receipt
    assert rollout.generate(request(PROMPTS), sampling).responses() != before  # graphs replay with the new weights
    rollout.shutdown()


def test_vllm_sleeps_while_the_policy_is_trained(
    tiny: Path, make_trainer: Callable[..., PolicyTrainer], train: Callable[[PolicyTrainer], None]
) -> None:
    trainer = make_trainer()
    rollout = VLLMRollout(tiny, sleep_mode=True, gpu_memory_utilization=0.2)
    sync, handover = WeightSync(trainer, rollout), MemoryHandover(trainer, rollout)
    pool = 0.15 * torch.cuda.mem_get_info()[1]
    for _ in range(2):
        awake = held()
        handover.to_trainer()
        assert held() < awake - pool
        train(trainer)
        handover.to_rollout()
        assert held() > awake - pool
        assert sync.push().ok
        assert rollout.generate(request(PROMPTS), SamplingConfig(max_new_tokens=4)).responses()
    rollout.shutdown()


def test_a_taken_gpu_is_told_with_settings_and_these_settings_run(tiny: Path, tmp_path: Path, reward: Any) -> None:
    torch.cuda.empty_cache()
    taken = torch.empty(torch.cuda.mem_get_info()[0] - 12 * GIB, dtype=torch.uint8, device="cuda")
    numbers = capstone.recipe(steps=1, tier="gpu")
    allocated = torch.cuda.memory_allocated()
    with pytest.raises(OutOfMemory, match=r"Other programs hold .*It fits with .*--gpu-memory-utilization") as caught:
        capstone.make_loop("tiny", tmp_path / "run", numbers)
    assert torch.cuda.memory_allocated() == allocated  # before anything started
    share = re.search(r"--gpu-memory-utilization ([\d.]+\d)", str(caught.value))
    assert share
    less = replace(numbers, rollout=numbers.rollout | {"gpu_memory_utilization": float(share[1])})
    loop = capstone.make_loop("tiny", tmp_path / "run", less, reward=reward)
    records = loop.run()
    loop.rollout.shutdown()
    del taken
    assert records[-1]["applied"] and records[-1]["receipt"]["ok"]
