"""Rollout: the course's own engine behind the same interface as vLLM, with a learner's block pool and scheduler in it."""

import gc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from course_lib import machine
from course_lib.models import PolicyError
from course_lib.paged_attention import BlockPool, PagedKVManager
from course_lib.rl.engine_audit import AuditError, EngineAudit
from course_lib.rl.readback import read_back_fused
from course_lib.rl.rollout_batch import DeepSpeedSamplingConfig, RolloutError
from course_lib.rl.rollout_engine import CPU_KV_CACHE_BYTES, GPU_MEMORY_UTILIZATION, PolicyRollout, sampling_options
from course_lib.scheduling import Scheduler, SchedulerConfig
from course_lib.serving import LLM, SamplingParams
from course_lib.serving.sampler import LogprobsMode

_PREFIX_CACHING = ("cache_full_blocks", "get_cached_block", "reset_prefix_cache")


class EngineRollout(PolicyRollout):
    """Our engine as a rollout engine, in place of vLLM: `RLLoop(trainer, EngineRollout(folder, block_pool=MyPool), ...)`.

    Args:
        folder: a Hugging Face model folder.
        block_pool: makes the block pool, given `num_blocks` and `enable_caching`: `BlockPool`, or a class of your own.
        scheduler: makes the scheduler, given a `SchedulerConfig` and a `PagedKVManager`: `Scheduler`, or a class of your own.
            An `EngineAudit` watches a pool or a scheduler of your own in each step.
        max_model_len: the longest prompt plus response, in tokens.
        kv_cache_bytes: size of the KV cache; None is 160 MiB on the CPU tier, and on a GPU what `gpu_memory_utilization`
            leaves beside the weights.
        gpu_memory_utilization: share of the GPU's memory to fill; the trainer needs the rest.
        enforce_eager: no CUDA graphs: starts sooner, decodes slower.
        block_size: tokens of a KV block; only whole blocks are shared through the prefix cache.
        enable_prefix_caching: whether requests share the blocks of equal beginnings; None is yes, if the block pool can.
        max_num_seqs: requests that run at once.
        logprobs_mode: the default gives the logprobs of what is sampled from, after the temperature.
        seed: of samples that have no seed of their own.
        dtype: of weights and KV cache.

    Raises:
        PolicyError: `folder` is no model.
        RolloutError: the engine did not start; the message says why.
    """

    name = "engine"

    def __init__(
        self,
        folder: str | Path,
        *,
        block_pool: Callable[[int, bool], Any] = BlockPool,
        scheduler: Callable[[SchedulerConfig, PagedKVManager], Scheduler] = Scheduler,
        max_model_len: int = 512,
        kv_cache_bytes: int | None = None,
        gpu_memory_utilization: float = GPU_MEMORY_UTILIZATION,
        enforce_eager: bool = True,
        block_size: int = 32,
        enable_prefix_caching: bool | None = None,
        max_num_seqs: int = 256,
        logprobs_mode: LogprobsMode = "processed_logprobs",
        seed: int = 0,
        dtype: str = "bfloat16",
    ):
        if kv_cache_bytes is None and machine.tier() == "cpu":
            kv_cache_bytes = CPU_KV_CACHE_BYTES
        parts: list[Any] = [
            part for part, ours in ((block_pool, BlockPool), (scheduler, Scheduler)) if part is not ours
        ]
        self._own_parts = " and ".join(getattr(part, "__name__", repr(part)) for part in parts)
        try:
            if enable_prefix_caching is None:
                probe = block_pool(2, True)  # an exercise's pool may do without
                enable_prefix_caching = all(hasattr(probe, method) for method in _PREFIX_CACHING)
            llm = LLM(
                folder,
                dtype=dtype,
                max_model_len=max_model_len,
                block_size=block_size,
                kv_cache_memory_bytes=kv_cache_bytes,
                gpu_memory_utilization=gpu_memory_utilization,
                max_num_seqs=max_num_seqs,
                enable_prefix_caching=enable_prefix_caching,
                enforce_eager=enforce_eager,
                # An audit looks at each step as it was planned.
                async_scheduling=False if parts else None,
                seed=seed,
                logprobs_mode=logprobs_mode,
                scheduler=scheduler,
                block_pool=block_pool,
            )
        except PolicyError:
            raise
        except Exception as error:
            raise self._failure("did not start", error) from error
        super().__init__(Path(folder), llm, max_model_len, block_size, kv_cache_bytes)
        self._caching = enable_prefix_caching
        self._audit: Any = EngineAudit(llm.llm_engine.scheduler)
        self._broken = False

    def reload_weights(self, weights: Iterator[tuple[str, Tensor]]) -> None:
        """Copy the weights in place, and pack again what is packed for the CPU. The prefix cache stays for its own reset.

        Raises:
            RolloutError: a weight is missing, unknown or of the wrong shape; those before it were taken.
        """
        try:
            # Not LLM.load_weights, which resets the prefix cache too: that is a WeightSync's next operation.
            self.llm.llm_engine.runner.load_weights(weights)
        except ValueError as error:
            raise self._failure("did not take the weights", error) from error

    def reset_prefix_cache(self) -> None:
        """Forget the keys and values of the old weights.

        Raises:
            RolloutError: blocks are held, by requests that still run or because the block pool lost count.
        """
        if not self._caching:
            return
        try:
            done = self.llm.reset_prefix_cache()
        except Exception as error:
            raise self._failure("failed as its prefix cache was reset", error) from error
        if not done:
            raise RolloutError(
                "the prefix cache can't be reset while blocks are held: let generate() return first, and a block pool of"
                " your own take back what finished requests held."
            )

    def cached_tokens(self) -> int:
        """Return how many tokens' keys and values the prefix cache knows: 0 right after its reset."""
        blocks = self.llm.llm_engine.scheduler.kv_manager.pool.blocks
        return self.block_size * sum(block.block_hash is not None for block in blocks)

    def read_back(self) -> dict[str, Tensor]:
        """Return `{Hugging Face name: fingerprint}` of the weights that the engine computes with: see `rl.readback`."""
        return read_back_fused(self.llm.llm_engine.runner.model)

    def erase_kv_cache(self) -> None:
        """Erase keys and values after a faulty sync: attention multiplies a NaN that it masks by 0, and that is NaN."""
        self.llm.llm_engine.runner.cache.kv.zero_()

    def shutdown(self) -> None:
        """Release the engine and its memory. Calling it twice is harmless."""
        self.llm = self._audit = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _params(self, sampling: DeepSpeedSamplingConfig, row: int) -> SamplingParams:
        return SamplingParams(**sampling_options(sampling, row))

    def _run(self, prompts: Sequence[dict[str, Any]], params: Sequence[Any]) -> list[Any]:
        if self._broken:
            raise RolloutError(
                "this engine failed before, and still holds blocks or requests: make a new EngineRollout."
            )
        if self._own_parts:
            lengths = (
                len(prompt["prompt_token_ids"]) + one.max_tokens for prompt, one in zip(prompts, params, strict=True)
            )
            self.llm.llm_engine.on_step = self._audit.watch(sum(lengths))
        outputs: list[Any] = self.llm.generate(prompts, params, raise_on_error=True)
        if self._own_parts:
            self._audit.finish()
        return outputs

    def _abort(self) -> None:
        # LLM.generate lets go of its requests itself, where block pool and scheduler let it.
        self._broken = self.llm.has_unfinished_requests() or self._audit.used != 0

    def _failure(self, what: str, error: BaseException) -> RolloutError:
        if not self._own_parts:
            return super()._failure(what, error)
        broken = error  # as the requests were given up, the same mistake may have shown once more
        while not isinstance(broken, AuditError) and broken.__context__ is not None:
            broken = broken.__context__
        found = broken if isinstance(broken, AuditError) else error
        failure = super()._failure(f"with {self._own_parts} in it {what}", found)
        return RolloutError(
            f"{failure} The exercises check a block pool (03.block_pool) and a scheduler (04.scheduler) alone."
        )

    def _load(self) -> tuple[int, int, float]:
        scheduler = self.llm.llm_engine.scheduler
        return len(scheduler.running), len(scheduler.waiting), self._audit.used
