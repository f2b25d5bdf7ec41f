"""Our engine in the loop, with a learner's block pool and scheduler in it: what they break is said, and does not go unseen."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from course_lib.paged_attention import Block, BlockPool
from course_lib.rl import Addition, EngineRollout, LoopConfig, RLLoop, Rollout, RolloutError, SamplingConfig
from course_lib.rl.rollout import request
from course_lib.scheduling import Request, Scheduler, SchedulerOutput

PROMPTS = torch.randint(3, 500, (12, 40), generator=torch.Generator().manual_seed(0)).tolist()
SAMPLING = {"max_new_tokens": 30, "n_samples_per_prompt": 2, "seed": 1, "stop_at_eos": False}
BLOCK = 2 * 2 * 32 * 2 * 64 * 4  # bytes: layers, keys and values, slots, heads, numbers in a head, fp32


class CountingPool:
    """The block pool of exercise 03.block_pool: it knows nothing of a prefix cache."""

    def __init__(self, num_blocks: int, enable_caching: bool = False):
        self.blocks = [Block(block_id) for block_id in range(num_blocks)]
        self._free = dict(enumerate(self.blocks))

    @property
    def num_free_blocks(self) -> int:
        return len(self._free)

    def get_new_blocks(self, count: int) -> list[Block]:
        taken = list(self._free.values())[:count]
        for block in taken:
            del self._free[block.block_id]
            block.ref_cnt = 1
        return taken

    def touch(self, blocks: Iterable[Block]) -> None:
        assert not list(blocks), "without a prefix cache nothing is shared"

    def free_blocks(self, blocks: Iterable[Block]) -> None:
        for block in blocks:
            block.ref_cnt -= 1
            self._free[block.block_id] = block


class Backwards(Scheduler):
    """Lets the last to come run first: other batches, same samples."""

    def schedule(self) -> SchedulerOutput:
        self.running.reverse()
        return super().schedule()


class GivesTwice(BlockPool):
    def get_new_blocks(self, count: int) -> list[Block]:
        taken = super().get_new_blocks(count)
        if taken and self.num_free_blocks < len(self.blocks) - 9:
            taken[0] = self.blocks[0]
        return taken


class Leaks(BlockPool):
    def free_blocks(self, blocks: Iterable[Block]) -> None:
        super().free_blocks(list(blocks)[1:])


class KeepsFree(BlockPool):
    """Hands out a block, and still counts it as free."""

    @property
    def num_free_blocks(self) -> int:
        return min(len(self.blocks), super().num_free_blocks + 1)


class Miscounts(BlockPool):
    def get_new_blocks(self, count: int) -> list[Block]:
        taken = super().get_new_blocks(count)
        for block in taken:
            block.ref_cnt = 2
        return taken


class Stumbles(Scheduler):
    def schedule(self) -> SchedulerOutput:
        plan = super().schedule()
        if len(self.running) > 3:
            raise IndexError("list index out of range")
        return plan


class GivesUp(Scheduler):
    def schedule(self) -> SchedulerOutput:
        return SchedulerOutput()


class NeverEnds(Scheduler):
    """Preempts everybody in each second step, so that nobody ever catches up."""

    def update(self, sampled: Any) -> list[Request]:
        for request_ in list(self.running):
            self._preempt(request_)
        return []


def make(tiny: Path, blocks: int = 200, **options: Any) -> EngineRollout:
    return EngineRollout(tiny, kv_cache_bytes=blocks * BLOCK, dtype="float32", **options)


@pytest.fixture(scope="module")
def healthy(tiny: Path) -> Rollout:
    return make(tiny).generate(request(PROMPTS), SamplingConfig(**SAMPLING))


@pytest.mark.parametrize(
    "options",
    [
        {"block_pool": CountingPool},
        {"scheduler": Backwards},
        {
            "block_pool": CountingPool,
            "scheduler": Backwards,
            "blocks": 14,
        },  # most requests wait, and many are preempted
        {"enable_prefix_caching": False},
        {"max_num_seqs": 5},
    ],
    ids=str,
)
def test_a_learners_parts_give_the_same_samples(tiny: Path, healthy: Rollout, options: dict[str, Any]) -> None:
    """In fp32, where another batch's rounding moves no sample over an edge."""
    rollout = make(tiny, **options)
    seen: list[tuple[int, int, float]] = []
    found = rollout.generate(request(PROMPTS), SamplingConfig(**SAMPLING), on_step=lambda *now: seen.append(now))
    assert found.responses() == healthy.responses()
    assert float((found.logprobs - healthy.logprobs).abs().max()) < 1e-3
    assert (seen[-1][0], seen[-1][2]) == (0, 0.0)
    if "blocks" in options:
        assert max(waiting for _, waiting, _ in seen) > 12
        assert max(used for _, _, used in seen) > 0.8


def test_logprobs_are_those_of_the_processed_distribution(tiny: Path) -> None:
    rollout = make(tiny).generate(request(PROMPTS[:3]), SamplingConfig(**SAMPLING | {"temperature": 0.6}))
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    for prompt, response, found in zip(rollout.prompts(), rollout.responses(), rollout.logprobs, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        wanted = (logits / 0.6).log_softmax(-1)[range(len(response)), response]
        assert torch.allclose(wanted, found, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"block_pool": GivesTwice}, r"with GivesTwice in it failed .*block 0 is in .*03\.block_pool"),
        ({"block_pool": Leaks}, r"Leaks .*24 of 200 blocks are not free: they leak"),
        ({"block_pool": KeepsFree}, r"KeepsFree .* blocks are free and \d+ are held, which makes 201 of 200"),
        ({"block_pool": Miscounts}, r"Miscounts .* is in \d+ tables, and its ref_cnt is \d+"),
        (
            {"scheduler": Stumbles},
            r"with Stumbles in it failed while generating \(IndexError: list index.*04\.scheduler",
        ),
        ({"scheduler": GivesUp}, r"GivesUp .*planned nothing"),
        ({"scheduler": NeverEnds}, r"NeverEnds .* steps for requests of \d+ tokens at most, and no end"),
        ({"scheduler": NeverEnds, "block_pool": CountingPool}, "with CountingPool and NeverEnds in it"),
    ],
    ids=str,
)
def test_parts_that_misbehave_are_named(tiny: Path, options: dict[str, Any], said: str) -> None:
    rollout = make(tiny, **options)
    few = SAMPLING | {"max_new_tokens": 3}
    prompts = [[5, 6, 7], [8, 9]] if "scheduler" in options else PROMPTS
    with pytest.raises(RolloutError, match=said):
        rollout.generate(request(prompts), SamplingConfig(**few))


def test_an_engine_that_a_pool_broke_runs_nothing_more(tiny: Path) -> None:
    rollout = make(tiny, block_pool=Leaks)
    for said in ("leak", "make a new EngineRollout"):
        with pytest.raises(RolloutError, match=said):
            rollout.generate(request(PROMPTS), SamplingConfig(**SAMPLING))


def test_a_cache_too_small_for_one_sample(tiny: Path) -> None:
    """The engine refuses such a request; it is whole, and takes a smaller one."""
    rollout = make(tiny, blocks=2)
    with pytest.raises(RolloutError, match="2 blocks hold 64"):
        rollout.generate(request(PROMPTS[:1]), SamplingConfig(**SAMPLING))
    assert rollout.generate(request(PROMPTS[:1]), SamplingConfig(max_new_tokens=3)).responses()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_model_len": 5000}, "max_model_len is 5000; expected 2 to 1024"),
        ({"dtype": "int4"}, "dtype is 'int4'"),
        ({"block_pool": lambda _blocks, _caching: 1 // 0}, "with <lambda> in it did not start .ZeroDivisionError"),
    ],
)
def test_an_engine_that_cannot_start(tiny: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(RolloutError, match=said):
        EngineRollout(tiny, **options)


@pytest.mark.slow
def test_the_loop_runs_on_it(tiny: Path, tmp_path: Path, make_trainer: Callable[..., Any], reward: Any) -> None:
    config = LoopConfig(steps=2, prompts_per_step=4, samples_per_prompt=4, max_new_tokens=8)
    rollout = EngineRollout(tiny, block_pool=CountingPool, scheduler=Backwards)
    loop = RLLoop(make_trainer(learning_rate=3e-4), rollout, Addition(), tmp_path / "run", reward=reward, config=config)
    records = loop.run()
    assert [record["receipt"]["ok"] for record in records[1:]] == [True, True]
    assert all(record["receipt"]["changed"] > 0 for record in records[2:])
    assert all(record["kv"] for record in records[1:])
    assert rollout.weight_version == 2
    assert repr(rollout) == f"EngineRollout({tiny.name}, weights 2)"
