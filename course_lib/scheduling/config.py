"""What a scheduler is told; names and meanings are those of vLLM's `SchedulerConfig`."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class SchedulerConfig:
    """The limits of a step, and the policy.

    Attributes:
        max_num_batched_tokens: the token budget of a step, for all requests together.
        max_num_seqs: how many requests run at once at most.
        max_model_len: the longest sequence, prompt and output.
        enable_chunked_prefill: whether a prompt may be computed in parts. Without it, one that does not fit into what is
            left of the budget waits.
        policy: `fcfs`, or `priority` (then arrival).
        long_prefill_token_threshold: no request computes more tokens in a step than this while others are there; 0 is off.
        scheduler_reserve_full_isl: admit a request only if all its known tokens fit into free blocks, and not just its first
            chunk: a request that can't finish its prefill would hold blocks for nothing.
        watermark: share of all blocks that an admission leaves free while others run, so that these can grow.

    Raises:
        ValueError: a limit that lets nothing run.
    """

    max_num_batched_tokens: int = 2048
    max_num_seqs: int = 128
    max_model_len: int = 4096
    enable_chunked_prefill: bool = True
    policy: Literal["fcfs", "priority"] = "fcfs"
    long_prefill_token_threshold: int = 0
    scheduler_reserve_full_isl: bool = True
    watermark: float = 0.0

    def __post_init__(self) -> None:
        for name in ("max_num_batched_tokens", "max_num_seqs", "max_model_len"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 1 or more")
        if self.policy not in ("fcfs", "priority"):
            raise ValueError(f"policy is {self.policy!r}; expected 'fcfs' or 'priority'")
        if self.long_prefill_token_threshold < 0:
            raise ValueError(
                f"long_prefill_token_threshold is {self.long_prefill_token_threshold}; expected 0 (off) or more"
            )
        if not 0 <= self.watermark < 1:
            raise ValueError(f"watermark is {self.watermark}; expected a share from 0 up to, but not including, 1")
        if not self.enable_chunked_prefill and self.max_num_batched_tokens < self.max_model_len:
            raise ValueError(
                f"max_num_batched_tokens={self.max_num_batched_tokens} is less than max_model_len={self.max_model_len}: "
                "without chunked prefill a longer prompt would wait forever. Raise the first, or enable chunked prefill."
            )
