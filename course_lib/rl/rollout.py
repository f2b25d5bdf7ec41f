"""Rollout: the real vLLM, in this process, behind DeepSpeed's `RolloutEngine` interface."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from course_lib import machine
from course_lib.serving.vllm_engine import EngineError, start_vllm, stop_vllm

machine.prepare()  # DeepSpeed reads the environment when it is imported

from deepspeed.runtime.rollout import RolloutBatch, RolloutEngine, RolloutRequest  # noqa: E402
from deepspeed.runtime.rollout import SamplingConfig as DeepSpeedSamplingConfig  # noqa: E402


class RolloutError(RuntimeError):
    """The engine can't do what was asked; the message says what to change."""


@dataclass
class SamplingConfig(DeepSpeedSamplingConfig):
    """DeepSpeed's sampling configuration, and a seed.

    Attributes:
        seed: decides every sample of a call; sample k of prompt p has its own seed, made from it. None samples afresh.
        stop_at_eos: end a response at the tokenizer's end-of-sequence token.
    """

    seed: int | None = None
    stop_at_eos: bool = True


@dataclass
class Rollout(RolloutBatch):
    """DeepSpeed's rollout batch, with what a policy-gradient step needs beside the tokens.

    Sample k of prompt p is row p * n + k. Responses start in column `response_start_idx`, and everything about them is
    said by position: a token is part of a response because of where it is, never because of its value. (Masks made by
    comparing with the pad or EOS id lose the EOS that the policy sampled, whenever the two share an id.)

    Attributes:
        response_lengths: tokens of each response, the end-of-sequence token included.
        logprobs: of each response token by the sampler, at the sampling temperature; 0 after the response's end.
        finished: True where the response ended by itself, False where it was cut at `max_new_tokens`.
        cached_tokens: prompt tokens that came from the prefix cache.
    """

    response_lengths: Int[Tensor, " samples"]
    logprobs: Float[Tensor, "samples longest"]
    finished: Bool[Tensor, " samples"]
    cached_tokens: Int[Tensor, " samples"]

    @property
    def response_mask(self) -> Bool[Tensor, "samples longest"]:
        """True on the response's tokens, in the columns of `logprobs`."""
        return torch.arange(self.logprobs.shape[1]) < self.response_lengths[:, None]

    def prompts(self) -> list[list[int]]:
        """Token ids of each row's prompt, without padding."""
        starts = self.response_start_idx.tolist()
        return [
            row[:start][mask[:start].bool()].tolist()
            for row, mask, start in zip(self.input_ids, self.attention_mask, starts, strict=True)
        ]

    def responses(self) -> list[list[int]]:
        """Token ids of each row's response, the end-of-sequence token included."""
        spans = zip(self.input_ids, self.response_start_idx.tolist(), self.response_lengths.tolist(), strict=True)
        return [row[start : start + length].tolist() for row, start, length in spans]


def request(prompts: Sequence[Sequence[int]], pad_id: int = 0) -> RolloutRequest:
    """Return DeepSpeed's rollout request of these prompts (token ids): padded on the left."""
    if not prompts or not all(prompts):
        raise RolloutError("a rollout needs at least one prompt, and every prompt at least one token.")
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), pad_id)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    return RolloutRequest(ids, mask)


class VLLMRollout(RolloutEngine):
    """vLLM in this process as a rollout engine; `sync_weights` hands it the trainer's weights and checks that they arrived.

    Args:
        folder: a Hugging Face model folder.
        max_model_len: the longest prompt plus response, in tokens.
        kv_cache_bytes: size of the KV cache; None is 160 MiB on the CPU tier, and on a GPU what `gpu_memory_utilization`
            leaves beside the weights.
        gpu_memory_utilization: share of the GPU's memory for vLLM as a whole; the trainer needs the rest.
        enforce_eager: no compilation and no CUDA graphs: starts sooner, decodes slower.
        block_size: tokens of a KV block; only whole blocks are shared through the prefix cache.
        logprobs_mode: vLLM's; the default gives the logprobs of what is sampled from, after the temperature.
        seed: of the engine.
        dtype: of weights and KV cache.

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
        gpu_memory_utilization: float = 0.4,
        enforce_eager: bool = True,
        block_size: int = 32,
        logprobs_mode: str = "processed_logprobs",
        seed: int = 0,
        dtype: str = "bfloat16",
    ):
        self.folder = Path(folder)
        self.max_model_len = max_model_len
        if kv_cache_bytes is None and machine.tier() == "cpu":
            kv_cache_bytes = 160 << 20  # vLLM would take a share of the host's memory, which the trainer needs
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
        try:
            self.llm: Any = start_vllm(self.folder, **options)
        except EngineError as error:
            raise RolloutError(str(error).replace("kv_cache_memory_bytes", "kv_cache_bytes")) from error
        self.tokenizer = self.llm.get_tokenizer()
        self.weight_version = 0
        self.weight_sync: Any = None  # a WeightSync puts itself here
        self.suspect = False  # the last sync failed its receipt

    def generate(self, request: RolloutRequest, sampling: DeepSpeedSamplingConfig) -> Rollout:
        """Sample `n_samples_per_prompt` responses to each prompt.

        Args:
            request: prompts, padded on the left.
            sampling: temperature 0 is greedy. Logprobs are those of the distribution that was sampled from, so top-p and
                top-k belong to it too: a trainer that is to agree with them uses neither.

        Raises:
            RolloutError: a prompt plus `max_new_tokens` is longer than `max_model_len`, or the engine was shut down.
        """
        if self.llm is None:
            raise RolloutError("this engine was shut down: make a new VLLMRollout.")
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
        outputs = self.llm.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts for _ in range(n)],
            [self._params(sampling, index) for index in range(len(prompts) * n)],
            use_tqdm=False,
        )
        return _collect(request, outputs, n)

    def _params(self, sampling: DeepSpeedSamplingConfig, index: int) -> Any:
        from vllm import SamplingParams

        seed = getattr(sampling, "seed", None)
        return SamplingParams(
            max_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=max(0, sampling.top_k),
            logprobs=0,  # the sampled token's own
            seed=None if seed is None else _derive_seed(seed, index),
            ignore_eos=not getattr(sampling, "stop_at_eos", True),
            detokenize=False,
        )

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

    def shutdown(self) -> None:
        """Release the engine and its memory; trainers and other engines go on. Calling it twice is harmless."""
        llm, self.llm = self.llm, None
        if llm is not None:
            stop_vllm(llm)

    def __repr__(self) -> str:
        return f"VLLMRollout({self.folder.name}, weights {self.weight_version})"


def _collect(request: RolloutRequest, outputs: list[Any], n: int) -> Rollout:
    completions = [output.outputs[0] for output in outputs]
    lengths = torch.tensor([len(completion.token_ids) for completion in completions])
    rows, start = len(completions), request.prompt_ids.shape[1]
    longest = int(lengths.max())
    ids = torch.zeros((rows, start + longest), dtype=torch.long)
    mask = torch.zeros_like(ids)
    logprobs = torch.zeros((rows, longest))
    ids[:, :start] = request.prompt_ids.repeat_interleave(n, dim=0)
    mask[:, :start] = request.prompt_attention_mask.repeat_interleave(n, dim=0)
    for row, completion in enumerate(completions):
        length = len(completion.token_ids)
        ids[row, start : start + length] = torch.tensor(completion.token_ids)
        mask[row, start : start + length] = 1
        logprobs[row, :length] = torch.tensor(
            [entry[token].logprob for entry, token in zip(completion.logprobs, completion.token_ids, strict=True)]
        )
    return Rollout(
        input_ids=ids,
        attention_mask=mask,
        response_start_idx=torch.full((rows,), start),
        response_lengths=lengths,
        logprobs=logprobs,
        finished=torch.tensor([completion.finish_reason == "stop" for completion in completions]),
        cached_tokens=torch.tensor([output.num_cached_tokens or 0 for output in outputs]),
    )


def _derive_seed(seed: int, index: int) -> int:
    """Return a 32-bit seed of its own for each sample: neighbouring integers must not give related streams."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=4).digest(), "little")
