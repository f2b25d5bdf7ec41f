"""Rollout: the real vLLM, in this process, behind DeepSpeed's `RolloutEngine` interface."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from course_lib import machine
from course_lib.rl.copy_plan import CopyPlan
from course_lib.rl.readback import read_back
from course_lib.rl.rollout_batch import DeepSpeedSamplingConfig, Rollout, RolloutError, SamplingConfig, request
from course_lib.rl.rollout_engine import CPU_KV_CACHE_BYTES, GPU_MEMORY_UTILIZATION, PolicyRollout, sampling_options
from course_lib.serving.vllm_engine import EngineError, start_vllm, stop_vllm, vllm_scheduler

__all__ = ["Rollout", "RolloutError", "SamplingConfig", "VLLMRollout", "request"]


_GRAPHS_ALONE = {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"}


class VLLMRollout(PolicyRollout):
    """vLLM in this process as a rollout engine; `sync_weights` hands it the trainer's weights and checks that they arrived.

    Args:
        folder: a Hugging Face model folder.
        max_model_len: the longest prompt plus response, in tokens.
        kv_cache_bytes: size of the KV cache; None is 160 MiB on the CPU tier, and on a GPU what `gpu_memory_utilization`
            leaves beside the weights.
        gpu_memory_utilization: share of the GPU's memory for vLLM as a whole; the trainer needs the rest.
        enforce_eager: no CUDA graphs: starts sooner, decodes slower. Without effect on the CPU tier, which has none.
        block_size: tokens of a KV block; only whole blocks are shared through the prefix cache.
        logprobs_mode: vLLM's; the default gives the logprobs of what is sampled from, after the temperature.
        seed: of the engine.
        dtype: of weights and KV cache.
        sleep_mode: whether the engine can give its GPU memory to the trainer and take it back (see `MemoryHandover`); without
            effect on the CPU tier, where vLLM has no such mode.

    Raises:
        RolloutError: vLLM did not start; the message has vLLM's reason.
    """

    name = "vllm"

    def __init__(
        self,
        folder: str | Path,
        *,
        max_model_len: int = 512,
        kv_cache_bytes: int | None = None,
        gpu_memory_utilization: float = GPU_MEMORY_UTILIZATION,
        enforce_eager: bool = True,
        block_size: int = 32,
        logprobs_mode: str = "processed_logprobs",
        seed: int = 0,
        dtype: str = "bfloat16",
        sleep_mode: bool = False,
    ):
        if kv_cache_bytes is None and machine.tier() == "cpu":
            kv_cache_bytes = CPU_KV_CACHE_BYTES  # vLLM would take a share of the host's memory, which the trainer needs
        options: dict[str, Any] = {
            "dtype": dtype,
            "max_model_len": max_model_len,
            "gpu_memory_utilization": gpu_memory_utilization,
            "enforce_eager": enforce_eager,
            "block_size": block_size,
            "seed": seed,
            "logprobs_mode": logprobs_mode,
            "enable_prefix_caching": True,
            "kv_cache_memory_bytes": kv_cache_bytes,
        }
        if machine.tier() == "cpu":
            # vLLM's CPU worker can't rewind a seeded generator, which it wants to do when a prompt is prefilled in parts.
            options |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(8192, max_model_len)}
        else:
            if sleep_mode:
                options["enable_sleep_mode"] = True
            if not enforce_eager:
                # A decode step of a small model waits for its kernels' launches: a graph launches them at once. Compiling
                # would take half a minute, and merge kernels that take little of a step.
                options["compilation_config"] = _GRAPHS_ALONE
        try:
            llm = start_vllm(folder, **options)
        except EngineError as error:
            raise RolloutError(str(error).replace("kv_cache_memory_bytes", "kv_cache_bytes")) from error
        super().__init__(Path(folder), llm, max_model_len, block_size, kv_cache_bytes)
        self._sleep_mode = bool(options.get("enable_sleep_mode"))
        # On the CPU tier vLLM packs what it loads, and a copy would not reach the packed matrix.
        self._copies = machine.tier() == "gpu" and bool(llm.apply_model(CopyPlan.fits)[0])
        self._plan: CopyPlan | None = None

    def reload_weights(self, weights: Iterator[tuple[str, Tensor]]) -> None:
        """Load the weights into the memory that vLLM computes with: layer by layer, or on a GPU as its loader once copied them.

        Raises:
            RolloutError: vLLM did not take them.
        """
        try:
            if self._copies:
                self.llm.apply_model(lambda model: self._copy(model, weights))
            else:
                self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        except Exception as error:
            raise self._failure("did not take the weights", error) from error

    def forget_plan(self) -> None:
        """Leave reloads to vLLM from now on: a receipt failed, and nobody knows yet whether the copies are why."""
        self._copies, self._plan = False, None

    def _copy(self, model: Any, weights: Iterator[tuple[str, Tensor]]) -> None:
        if self._plan is not None:
            self._plan.load(weights)
            return
        plan = CopyPlan(model, weights)
        self._plan, self._copies = (plan, True) if plan.complete else (None, False)

    def repack_tied_head(self) -> None:
        """Pack `lm_head` again on the CPU tier, where vLLM keeps a packed copy of its own of the tied embedding.

        The stream has no entry for a tied `lm_head`, so the reload does not touch that copy, and warns of nothing.
        """
        if machine.tier() == "cpu":
            self.llm.apply_model(_repack_lm_head)

    def reset_prefix_cache(self) -> None:
        """Forget the keys and values of the old weights; vLLM leaves that to its caller.

        Raises:
            RolloutError: requests are still running.
        """
        if not self.llm.reset_prefix_cache():
            raise RolloutError(
                "the prefix cache can't be reset while requests are running: let generate() return first."
            )

    def cached_tokens(self) -> int:
        """Return how many tokens' keys and values the prefix cache knows: 0 right after its reset."""
        pool = vllm_scheduler(self.llm).kv_cache_manager.block_pool
        return self.block_size * len(pool.cached_block_hash_to_block)

    def read_back(self) -> dict[str, Tensor]:
        """Return `{Hugging Face name: fingerprint}` of the weights that vLLM computes with: see `rl.readback`."""
        try:
            found: dict[str, Tensor] = self.llm.apply_model(read_back)[0]
        except Exception as error:  # a reload that was cut short leaves layers without memory
            raise self._failure("can't show its weights", error) from error
        return found

    def erase_kv_cache(self) -> None:
        """Erase keys and values after a faulty sync, which may have left NaN in them.

        A layer that got only some of its tensors computes with memory that nobody has set. vLLM's CPU attention multiplies
        what it masks in a block by 0, and 0 * NaN is NaN: without this, requests go wrong long after the weights are right.
        """
        if machine.tier() == "cpu":
            self.llm.collective_rpc(_zero_kv_cache)

    @property
    def can_sleep(self) -> bool:
        """Whether `sleep` gives memory to the trainer."""
        return self._sleep_mode

    def sleep(self) -> None:
        """Give up weights, cached prefixes and KV cache: vLLM's level 2, since the next weights come from the trainer."""
        if self.can_sleep and not self.hollow:
            self.llm.sleep(level=2)
            self.hollow = True

    def wake_up(self) -> None:
        """Take the memory again. What is in it is void until the next sync."""
        if self.can_sleep and self.hollow:
            self.llm.wake_up()

    def shutdown(self) -> None:
        """Release the engine and its memory; trainers and other engines go on. Calling it twice is harmless."""
        llm, self.llm, self._plan = self.llm, None, None
        if llm is not None:
            stop_vllm(llm)

    def _params(self, sampling: DeepSpeedSamplingConfig, row: int) -> Any:
        from vllm import SamplingParams

        # Beside what decides the samples: one list of logprobs a request, where vLLM would make a dict and an object of each
        # token, and no deep copy of parameters that serve one request anyway.
        return SamplingParams(**sampling_options(sampling, row), flat_logprobs=True, skip_clone=True)

    def _run(self, prompts: Sequence[dict[str, Any]], params: Sequence[Any]) -> list[Any]:
        outputs: list[Any] = self.llm.generate(list(prompts), list(params), use_tqdm=False)
        return outputs

    def _abort(self) -> None:
        engine = self.llm.llm_engine
        engine.abort_request(list(engine.output_processor.request_states), internal=True)
        engine.engine_core.abort_requests(list(vllm_scheduler(self.llm).requests))  # what only the scheduler knows of

    def _load(self) -> tuple[int, int, float]:
        scheduler = vllm_scheduler(self.llm)
        return len(scheduler.running), len(scheduler.waiting), float(scheduler.kv_cache_manager.usage)


def _repack_lm_head(model: Any) -> None:
    head = getattr(model, "lm_head", None)
    if head is not None:
        head.quant_method.process_weights_after_loading(head)


def _zero_kv_cache(worker: Any) -> None:
    for cache in worker.model_runner.kv_caches:
        cache.zero_()
