"""What a training run decides, and how DeepSpeed is told."""

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TrainerConfig:
    """How the policy is trained: bf16 weights with an fp32 master copy, AdamW, ZeRO.

    Attributes:
        learning_rate: peak learning rate of AdamW.
        warmup_steps: steps over which the learning rate rises linearly to its peak; 0 starts at the peak.
        decay_steps: steps over which it falls linearly to a tenth of its peak, counted from the first; 0 keeps the peak.
        betas: AdamW's decay rates of the first and second moment.
        weight_decay: AdamW's decoupled weight decay.
        max_grad_norm: gradients are scaled down to this global 2-norm; 0 turns clipping off.
        zero_stage: 0 replicates everything, 1 partitions the optimizer's state over the ranks, 2 the gradients too,
            3 the weights too (Rajbhandari et al., ZeRO, arXiv 1910.02054, section 5).
        micro_batch_tokens: tokens (padding counted) of one forward and backward pass; gradients add up over as many
            passes as a step needs. Lower it when memory runs out.
        gradient_checkpointing: keep only each layer's input and run the layer again in the backward pass.
        offload_optimizer: keep the fp32 master copy and the optimizer's state in host memory, and step there.
        offload_param: keep the partitioned weights in host memory too, and bring each layer's over when it is its turn; with
            ZeRO-3 only.
    """

    learning_rate: float = 2e-5
    warmup_steps: int = 0
    decay_steps: int = 0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    zero_stage: int = 2
    micro_batch_tokens: int = 4096
    gradient_checkpointing: bool = False
    offload_optimizer: bool = False
    offload_param: bool = False

    def __post_init__(self) -> None:
        _require(
            0 <= self.learning_rate < math.inf,
            f"learning_rate is {self.learning_rate}; it must be 0 or more, and finite.",
        )
        _require(self.warmup_steps >= 0, f"warmup_steps is {self.warmup_steps}; it must be 0 or more.")
        _require(self.decay_steps >= 0, f"decay_steps is {self.decay_steps}; it must be 0 (off) or more.")
        _require(
            len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas),
            f"betas is {self.betas}; it must be two numbers from 0 up to, but not including, 1.",
        )
        _require(
            0 <= self.weight_decay < math.inf,
            f"weight_decay is {self.weight_decay}; it must be 0 or more, and finite.",
        )
        _require(self.max_grad_norm >= 0, f"max_grad_norm is {self.max_grad_norm}; it must be 0 (off) or more.")
        _require(self.zero_stage in (0, 1, 2, 3), f"zero_stage is {self.zero_stage!r}; it must be 0, 1, 2 or 3.")
        _require(self.micro_batch_tokens > 0, f"micro_batch_tokens is {self.micro_batch_tokens}; it must be above 0.")
        for name in ("offload_optimizer", "offload_param"):
            _require(
                isinstance(getattr(self, name), bool),
                f"{name} is {getattr(self, name)!r}; it must be True (to host memory) or False. Offload to NVMe is not supported.",
            )
        _require(
            self.zero_stage > 0 or not self.offload_optimizer,
            "offload_optimizer needs a ZeRO stage: stage 0 has no optimizer of its own to offload. Use zero_stage=1, 2 or 3.",
        )
        _require(
            self.zero_stage == 3 or not self.offload_param,
            f"offload_param needs zero_stage=3 and has {self.zero_stage}: below it every rank keeps all weights on its device, and"
            " DeepSpeed would ignore the option without a word. Use zero_stage=3, or offload_optimizer alone.",
        )

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        factor = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if self.decay_steps:
            factor *= 1 - 0.9 * min(1.0, step / self.decay_steps)
        return self.learning_rate * factor

    def for_deepspeed(self) -> dict[str, Any]:
        """Return DeepSpeed's configuration of this run."""
        zero: dict[str, Any] = {"stage": self.zero_stage}
        if self.offload_optimizer:
            zero["offload_optimizer"] = {"device": "cpu"}
        if self.offload_param:
            zero["offload_param"] = {"device": "cpu"}
        return {
            "train_micro_batch_size_per_gpu": 1,  # the trainer cuts micro-batches by tokens and marks the last one itself
            "gradient_accumulation_steps": 1,
            "gradient_clipping": self.max_grad_norm,
            "bf16": {
                "enabled": True,
                "check_grad_overflow": True,
            },  # a step with a gradient that isn't finite is refused
            "zero_optimization": zero,
            # Torch's own fused AdamW: as fast as DeepSpeed's on both tiers, and nothing to compile before the first step.
            "zero_force_ds_cpu_optimizer": False,
        }


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
