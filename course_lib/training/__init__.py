"""Training the policy with DeepSpeed: packed samples, response-only log-probabilities, ZeRO."""

from course_lib.training.addition import addition_conversations
from course_lib.training.batch_plan import BatchPlan
from course_lib.training.checkpoints import consolidate
from course_lib.training.communication import CommunicationLog
from course_lib.training.config import TrainerConfig
from course_lib.training.deepspeed_launcher import deepspeed_command, remote_command, run_deepspeed
from course_lib.training.engine import DeepSpeedTrainer, StepStats
from course_lib.training.holdings import Holdings, activation_bytes, holdings
from course_lib.training.hostfile import read_hostfile
from course_lib.training.launch import LaunchError, RankOutput, launch
from course_lib.training.logprobs import token_logprobs
from course_lib.training.memory import tensor_bytes
from course_lib.training.packing import Group, PackedBatch, micro_batches, pack
from course_lib.training.policy import FrozenPolicy, Policy
from course_lib.training.preferences import Preference, read_preferences, synthetic_preferences, write_preferences
from course_lib.training.reward_fit import RewardFit, find_preferences, train_reward_model
from course_lib.training.reward_trainer import RewardStats, RewardTrainer, bradley_terry_loss
from course_lib.training.sft import fine_tune, held_out_loss, supervised_groups, supervised_loss
from course_lib.training.trainer import LossFunction, PolicyTrainer
from course_lib.training.value_trainer import ValueStats, ValueTrainer
from course_lib.training.zero_memory import (
    MemoryBudget,
    ZeroPlan,
    communication_bytes,
    deepspeed_communication_bytes,
    training_memory,
)

__all__ = [
    "BatchPlan",
    "CommunicationLog",
    "DeepSpeedTrainer",
    "FrozenPolicy",
    "Group",
    "Holdings",
    "LaunchError",
    "LossFunction",
    "MemoryBudget",
    "PackedBatch",
    "Policy",
    "PolicyTrainer",
    "Preference",
    "RankOutput",
    "RewardFit",
    "RewardStats",
    "RewardTrainer",
    "StepStats",
    "TrainerConfig",
    "ValueStats",
    "ValueTrainer",
    "ZeroPlan",
    "activation_bytes",
    "addition_conversations",
    "bradley_terry_loss",
    "communication_bytes",
    "consolidate",
    "deepspeed_command",
    "deepspeed_communication_bytes",
    "find_preferences",
    "fine_tune",
    "held_out_loss",
    "holdings",
    "launch",
    "micro_batches",
    "pack",
    "read_hostfile",
    "read_preferences",
    "remote_command",
    "run_deepspeed",
    "supervised_groups",
    "supervised_loss",
    "synthetic_preferences",
    "tensor_bytes",
    "token_logprobs",
    "train_reward_model",
    "training_memory",
    "write_preferences",
]
