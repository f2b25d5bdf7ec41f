"""What vLLM and our engine have in common as rollout engines: DeepSpeed's interface, and the operations of a weight sync."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from course_lib.rl.rollout_batch import (
    DeepSpeedSamplingConfig,
    Rollout,
    RolloutEngine,
    RolloutError,
    RolloutRequest,
    sample_seed,
)

CPU_KV_CACHE_BYTES = 160 << 20
"""KV cache of a rollout engine on the CPU tier unless told: the trainer needs the host's memory too."""

GPU_MEMORY_UTILIZATION = 0.4
"""Share of a GPU's memory that a rollout engine takes unless told: the trainer needs the rest."""

OnStep = Callable[[int, int, float], object]
"""Called between engine steps with the numbers of running and waiting requests, and the share of the KV cache in use, 0 to 1."""


class PolicyRollout(RolloutEngine):
    """An engine in this process that samples from a policy, and takes the trainer's weights in place.

    The policy's samples come from `generate`. The methods from `reload_weights` on are what a `WeightSync` does to the engine.

    Args:
        folder: the model folder that the engine was made from.
        llm: a `vllm.LLM` or a `course_lib.serving.LLM`.
        max_model_len: the longest prompt plus response, in tokens.
        block_size: tokens of a KV block.
        kv_cache_bytes: size of the KV cache; None where the engine took what was left.

    Attributes:
        weight_version: how often the weights were synced.
        weight_sync: the `WeightSync` that was made for this engine.
        suspect: the last sync failed its receipt.
        hollow: the engine has no weights until the next sync, because it slept and gave them up.
    """

    def __init__(self, folder: Path, llm: Any, max_model_len: int, block_size: int, kv_cache_bytes: int | None):
        self.folder, self.max_model_len, self.block_size = folder, max_model_len, block_size
        self.kv_cache_bytes = kv_cache_bytes
        self.llm = llm
        self.tokenizer: Any = llm.get_tokenizer()
        self.weight_version = 0
        self.weight_sync: Any = None
        self.suspect = self.hollow = False

    def generate(
        self, request: RolloutRequest, sampling: DeepSpeedSamplingConfig, on_step: OnStep | None = None
    ) -> Rollout:
        """Sample `n_samples_per_prompt` responses to each prompt.

        Args:
            request: prompts, padded on the left.
            sampling: temperature 0 is greedy. Logprobs are those of the distribution that was sampled from, so top-p and
                top-k belong to it too: a trainer that is to agree with them uses neither.
            on_step: watches the engine: see `OnStep`.

        Raises:
            RolloutError: a prompt plus `max_new_tokens` is longer than `max_model_len`, the engine failed (the message says
                what to do), or it was shut down.
        """
        if self.llm is None:
            raise RolloutError(f"this engine was shut down: make a new {type(self).__name__}.")
        if self.hollow:
            raise RolloutError("this engine gave its weights up when it went to sleep: wake_up(), then sync_weights().")
        prompts = [
            ids[mask.bool()].tolist()
            for ids, mask in zip(request.prompt_ids, request.prompt_attention_mask, strict=True)
        ]
        longest = max(map(len, prompts))
        if longest + sampling.max_new_tokens > self.max_model_len:
            raise RolloutError(
                f"a prompt of {longest} tokens and max_new_tokens={sampling.max_new_tokens} make more than"
                f" max_model_len={self.max_model_len}: shorten the prompt, lower max_new_tokens or raise max_model_len."
            )
        n = sampling.n_samples_per_prompt
        inputs = [{"prompt_token_ids": prompt} for prompt in prompts for _ in range(n)]
        params = [self._params(sampling, row) for row in range(len(inputs))]
        try:
            with self._watched(on_step):
                outputs = self._run(inputs, params)
        except BaseException as error:
            with suppress(Exception):  # the engine may be beyond that
                self._abort()
            if isinstance(error, RolloutError) or not isinstance(error, Exception):  # a Ctrl-C stays one
                raise
            raise self._failure("failed while generating", error) from error
        return Rollout.collect(request, outputs, n)

    def sync_weights(self, step: int) -> None:  # noqa: ARG002  the interface's
        """Take the trainer's weights, through the `WeightSync` that was made for this engine, and check the receipt.

        Raises:
            RolloutError: no WeightSync was made, so there is no trainer to take weights from.
            SyncError: the receipt is not clean.
        """
        if self.weight_sync is None:
            raise RolloutError(
                "this engine knows no trainer to take weights from: first make a WeightSync(trainer, rollout)."
            )
        self.weight_sync.push().raise_if_failed()

    @abstractmethod
    def reload_weights(self, weights: Iterator[tuple[str, Tensor]]) -> None:
        """Take weights by their Hugging Face names into the memory that the engine computes with."""

    def forget_plan(self) -> None:
        """Take the next weights by the engine's own rules again, where it had learned a shorter way."""

    def repack_tied_head(self) -> None:
        """Pack the output matrix again where the engine keeps a copy of the tied embedding that the reload misses."""

    @abstractmethod
    def reset_prefix_cache(self) -> None:
        """Forget the keys and values of the old weights.

        Raises:
            RolloutError: requests are still running.
        """

    @abstractmethod
    def cached_tokens(self) -> int:
        """Return how many tokens' keys and values the prefix cache knows: 0 right after its reset."""

    @abstractmethod
    def read_back(self) -> dict[str, Tensor]:
        """Return `{Hugging Face name: fingerprint}` of the weights that the engine computes with: see `rl.readback`."""

    def erase_kv_cache(self) -> None:
        """Overwrite keys and values that a faulty sync may have spoilt, where the engine could read them again."""

    @property
    def can_sleep(self) -> bool:
        """Whether `sleep` gives memory to the trainer."""
        return False

    def sleep(self) -> None:
        """Give weights and KV cache up; `wake_up` and then a sync bring the engine back."""

    def wake_up(self) -> None:
        """Take the memory again that `sleep` gave."""

    @abstractmethod
    def _params(self, sampling: DeepSpeedSamplingConfig, row: int) -> Any:
        """Return the engine's own sampling parameters of a row."""

    @abstractmethod
    def _run(self, prompts: Sequence[dict[str, Any]], params: Sequence[Any]) -> list[Any]:
        """Return the outputs of all prompts, in their order."""

    @abstractmethod
    def _abort(self) -> None:
        """Let go of all requests, so that the next call finds none of this one's."""

    def _failure(self, what: str, error: BaseException) -> RolloutError:
        """Return the error to raise where the engine raised one."""
        said = " ".join(str(error).split()) or "no message"
        advice = ""
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "memory" in said.lower():
            advice = (
                " Lower samples_per_prompt, kv_cache_bytes or (on a GPU) gpu_memory_utilization, or leave the trainer less:"
                " micro_batch_tokens."
            )
        return RolloutError(f"{type(self).__name__} {what} ({type(error).__name__}: {said.rstrip('.')}).{advice}")

    @abstractmethod
    def _load(self) -> tuple[int, int, float]:
        """Return what an `OnStep` is told."""

    @contextmanager
    def _watched(self, on_step: OnStep | None) -> Iterator[None]:
        """Call `on_step` after each of the engine's steps meanwhile."""
        if on_step is None:
            yield
            return
        engine = self.llm.llm_engine
        step = engine.step

        def watched(*options: Any) -> Any:
            outputs = step(*options)
            on_step(*self._load())
            return outputs

        with mock.patch.object(
            engine, "step", watched
        ):  # on this one object: both engines' generate() looks it up there
            yield

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.folder.name}, weights {self.weight_version})"


def sampling_options(sampling: DeepSpeedSamplingConfig, row: int) -> dict[str, Any]:
    """Return what vLLM's `SamplingParams` and ours, which has vLLM's names, take for a row of a batch."""
    seed = getattr(sampling, "seed", None)
    return {
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": max(0, sampling.top_k),
        "logprobs": 0,  # the sampled token's own
        "seed": None if seed is None else sample_seed(seed, getattr(sampling, "first_sample", 0) + row),
        "ignore_eos": not getattr(sampling, "stop_at_eos", True),
        "detokenize": False,
    }
