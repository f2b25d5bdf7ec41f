"""How long a step takes to plan: our scheduler and vLLM's own, in turns, on the same requests."""

import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from course_lib import machine
from course_lib.paged_attention.kv_manager import PagedKVManager
from course_lib.scheduling.config import SchedulerConfig
from course_lib.scheduling.request import Request
from course_lib.scheduling.scheduler import Scheduler

_BLOCK_SIZE, _PROMPT, _MAX_LEN, _TOKEN = 16, 100, 1024, 100


@dataclass(frozen=True)
class Comparison:
    """Median seconds that a decode step takes to plan and to take in: ours and vLLM's.

    Attributes:
        running: requests that run, each making a token a step.
        ours: seconds of `schedule` and `update`.
        vllm: seconds of `schedule` and `update_from_output`.
    """

    running: int
    ours: float
    vllm: float

    @property
    def ratio(self) -> float:
        """Ours over vLLM's."""
        return self.ours / self.vllm

    def __str__(self) -> str:
        return f"{self.running} running: ours {1e3 * self.ours:.2f} ms, vLLM {1e3 * self.vllm:.2f} ms, {self.ratio:.2f} times"


def compare(running: int, folder: str | Path, steps: int = 60) -> Comparison:
    """Time decode steps of both schedulers, one step of each in turn, so that a busy machine slows both.

    Prefix caching is on and the pool is large enough. vLLM's scheduler keeps the books of features that ours does not have
    (speculative tokens, LoRA, encoder inputs, connectors, grammars), and builds what its workers need to know.

    Args:
        running: requests that run.
        folder: a model folder, which vLLM's configuration wants; no weights are read.
        steps: how many to time; a few more are run before.
    """
    if running < 1 or steps < 1:
        raise ValueError(f"running={running}, steps={steps}: expected 1 or more of each")
    config = SchedulerConfig(
        max_num_batched_tokens=max(65536, 128 * running), max_num_seqs=running, max_model_len=_MAX_LEN
    )
    num_blocks = running * -(-(_PROMPT + steps + 8) // _BLOCK_SIZE) + 1
    prompts = [[random.Random(number).randint(0, 400) for _ in range(_PROMPT)] for number in range(running)]
    plans = [_ours(config, num_blocks, prompts, steps + 8), _vllms(config, num_blocks, prompts, steps + 8, folder)]
    times: list[list[float]] = [[], []]
    for step in range(steps + 4):
        for plan, found in zip(plans, times, strict=True):
            seconds = plan()
            if step >= 4:  # prompts, and what is made at the first call
                found.append(seconds)
    return Comparison(running, statistics.median(times[0]), statistics.median(times[1]))


def _ours(config: SchedulerConfig, num_blocks: int, prompts: list[list[int]], tokens: int) -> Callable[[], float]:
    scheduler = Scheduler(config, PagedKVManager(num_blocks, _BLOCK_SIZE))
    for number, prompt in enumerate(prompts):
        scheduler.add_request(Request(str(number), prompt, tokens))

    def step() -> float:
        began = time.perf_counter()
        plan = scheduler.schedule().num_scheduled_tokens
        planned = time.perf_counter()
        sampled = dict.fromkeys(plan, _TOKEN)
        again = time.perf_counter()
        scheduler.update(sampled)
        return planned - began + time.perf_counter() - again

    return step


def _vllms(
    config: SchedulerConfig, num_blocks: int, prompts: list[list[int]], tokens: int, folder: str | Path
) -> Callable[[], float]:
    machine.prepare()
    from vllm.sampling_params import SamplingParams
    from vllm.utils.hashing import sha256
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher
    from vllm.v1.outputs import ModelRunnerOutput
    from vllm.v1.request import Request as VLLMRequest

    scheduler = vllm_scheduler(config, num_blocks, folder, _BLOCK_SIZE)
    hasher = get_request_block_hasher(_BLOCK_SIZE, sha256)
    for number, prompt in enumerate(prompts):
        params = SamplingParams(max_tokens=tokens, ignore_eos=True)
        scheduler.add_request(
            VLLMRequest(
                str(number), prompt_token_ids=prompt, sampling_params=params, pooling_params=None, block_hasher=hasher
            )
        )

    def step() -> float:
        began = time.perf_counter()
        output = scheduler.schedule()
        planned = time.perf_counter()
        names = list(output.num_scheduled_tokens)
        places = {name: place for place, name in enumerate(names)}
        result = ModelRunnerOutput(req_ids=names, req_id_to_index=places, sampled_token_ids=[[_TOKEN] for _ in names])
        again = time.perf_counter()
        scheduler.update_from_output(output, result)
        return planned - began + time.perf_counter() - again

    return step


def vllm_scheduler(
    config: SchedulerConfig, num_blocks: int, folder: str | Path, block_size: int = 16, enable_caching: bool = True
) -> Any:
    """Return the real vLLM's scheduler with the same options: on a CPU, without weights and without an engine around it.

    Args:
        config: ours.
        num_blocks: of the pool; vLLM keeps block 0 to itself.
        folder: a model folder, which vLLM's configuration wants; no weights are read.
        block_size: slots in a block.
        enable_caching: whether requests share full blocks of equal beginnings.
    """
    machine.prepare()
    import torch
    from vllm.config import CacheConfig, DeviceConfig, ParallelConfig, VllmConfig
    from vllm.config import SchedulerConfig as VLLMSchedulerConfig
    from vllm.utils.hashing import sha256
    from vllm.v1.core.kv_cache_utils import init_none_hash
    from vllm.v1.core.sched.scheduler import Scheduler as VLLMScheduler
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
    from vllm.v1.structured_output import StructuredOutputManager

    init_none_hash(sha256)
    cache = CacheConfig(block_size=block_size, gpu_memory_utilization=0.9, enable_prefix_caching=enable_caching)
    cache.num_gpu_blocks = num_blocks
    vllm_config = VllmConfig(
        model_config=_model_config(str(folder), config.max_model_len),
        cache_config=cache,
        parallel_config=ParallelConfig(),
        device_config=DeviceConfig(device="cpu"),
        scheduler_config=VLLMSchedulerConfig(**vars(config), is_encoder_decoder=False, async_scheduling=False),
    )
    spec = FullAttentionSpec(block_size=block_size, num_kv_heads=1, head_size=1, dtype=torch.float32)
    group = KVCacheGroupSpec(["layer"], spec)
    return VLLMScheduler(
        vllm_config=vllm_config,
        kv_cache_config=KVCacheConfig(num_blocks=num_blocks, kv_cache_tensors=[], kv_cache_groups=[group]),
        structured_output_manager=StructuredOutputManager(vllm_config),
        block_size=block_size,
        log_stats=False,
    )


@cache
def _model_config(folder: str, max_model_len: int) -> Any:
    from vllm.config import ModelConfig

    return ModelConfig(model=folder, dtype="float32", seed=0, max_model_len=max_model_len, skip_tokenizer_init=True)
