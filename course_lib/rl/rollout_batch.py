"""What goes into a rollout engine and what comes out: DeepSpeed's rollout interface, and what a policy gradient needs beside it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from course_lib import machine

machine.prepare()  # DeepSpeed reads the environment when it is imported

from deepspeed.runtime.rollout import RolloutBatch, RolloutEngine, RolloutRequest  # noqa: E402
from deepspeed.runtime.rollout import SamplingConfig as DeepSpeedSamplingConfig  # noqa: E402

__all__ = [
    "DeepSpeedSamplingConfig",
    "Rollout",
    "RolloutEngine",
    "RolloutError",
    "RolloutRequest",
    "SamplingConfig",
    "ragged",
    "request",
    "sample_seed",
]


class RolloutError(RuntimeError):
    """The engine can't do what was asked; the message says what to change."""


@dataclass
class SamplingConfig(DeepSpeedSamplingConfig):
    """DeepSpeed's sampling configuration, and a seed.

    Attributes:
        seed: decides every sample of a call; the sample in row i has its own seed, made from this one and i. None samples
            afresh.
        stop_at_eos: end a response at the tokenizer's end-of-sequence token.
        first_sample: row of the whole batch that this call's first row is. Ranks that generate a slice each of one batch, with
            one seed, so draw the samples that one rank would draw.
    """

    seed: int | None = None
    stop_at_eos: bool = True
    first_sample: int = 0


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

    @classmethod
    def collect(cls, request: RolloutRequest, outputs: Sequence[Any], n: int) -> "Rollout":
        """Return the rollout of an engine's outputs (vLLM's `RequestOutput` or ours): `n` for each prompt, one after another."""
        completions = [output.outputs[0] for output in outputs]
        lengths = torch.tensor([len(completion.token_ids) for completion in completions])
        rows, start = len(completions), request.prompt_ids.shape[1]
        longest = int(lengths.max())
        ids = torch.zeros((rows, start + longest), dtype=torch.long)
        mask = torch.zeros_like(ids)
        logprobs = torch.zeros((rows, longest))
        ids[:, :start] = request.prompt_ids.repeat_interleave(n, dim=0)
        mask[:, :start] = request.prompt_attention_mask.repeat_interleave(n, dim=0)
        there = torch.arange(longest) < lengths[:, None]
        mask[:, start:] = there
        # Row after row, as the mask takes them: a tensor for each of thousands of rows would take longer than all of them.
        ids[:, start:][there] = torch.tensor(
            [token for one in completions for token in one.token_ids], dtype=torch.long
        )
        logprobs[there] = torch.tensor([value for one in completions for value in _logprobs(one)])
        return cls(
            input_ids=ids,
            attention_mask=mask,
            response_start_idx=torch.full((rows,), start),
            response_lengths=lengths,
            logprobs=logprobs,
            finished=torch.tensor([completion.finish_reason == "stop" for completion in completions]),
            cached_tokens=torch.tensor([output.num_cached_tokens or 0 for output in outputs]),
        )

    @property
    def response_mask(self) -> Bool[Tensor, "samples longest"]:
        """True on the response's tokens, in the columns of `logprobs`."""
        return torch.arange(self.logprobs.shape[1]) < self.response_lengths[:, None]

    def prompts(self) -> list[list[int]]:
        """Token ids of each row's prompt, without padding."""
        before = torch.arange(self.input_ids.shape[1]) < self.response_start_idx[:, None]
        return ragged(self.input_ids, before & self.attention_mask.bool())

    def responses(self) -> list[list[int]]:
        """Token ids of each row's response, the end-of-sequence token included."""
        place = torch.arange(self.input_ids.shape[1]) - self.response_start_idx[:, None]
        return ragged(self.input_ids, (place >= 0) & (place < self.response_lengths[:, None]))


def ragged(table: Shaped[Tensor, "rows columns"], wanted: Bool[Tensor, "rows columns"]) -> list[list[Any]]:
    """Return the wanted values of each row, as Python numbers: one conversion for all rows, and not one for each."""
    flat, ends = table[wanted].tolist(), wanted.sum(dim=1).cumsum(dim=0).tolist()
    return [flat[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _logprobs(completion: Any) -> list[float]:
    """Return the logprob of each sampled token, from a dict a token (ours, vLLM's usual form) or from vLLM's `FlatLogprobs`."""
    found = completion.logprobs
    if hasattr(found, "start_indices"):  # of each token the sampled one comes first
        return [found.logprobs[start] for start in found.start_indices]
    return [entry[token].logprob for entry, token in zip(found, completion.token_ids, strict=True)]


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


def sample_seed(seed: int, row: int) -> int:
    """Return a 32-bit seed of its own for each row of a batch: neighbouring integers must not give related streams."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{row}".encode(), digest_size=4).digest(), "little")
