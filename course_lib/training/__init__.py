"""Training the policy with DeepSpeed: packed samples, response-only log-probabilities, ZeRO."""

from course_lib.training.config import TrainerConfig
from course_lib.training.logprobs import token_logprobs
from course_lib.training.memory import tensor_bytes
from course_lib.training.packing import Group, PackedBatch, micro_batches, pack
from course_lib.training.policy import FrozenPolicy, Policy
from course_lib.training.trainer import LossFunction, PolicyTrainer, StepStats

__all__ = [
    "FrozenPolicy",
    "Group",
    "LossFunction",
    "PackedBatch",
    "Policy",
    "PolicyTrainer",
    "StepStats",
    "TrainerConfig",
    "micro_batches",
    "pack",
    "tensor_bytes",
    "token_logprobs",
]
