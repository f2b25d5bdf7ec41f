"""The RL loop: tasks, rewards, advantages, losses, rollout, weight sync, and the loop that joins them."""

from course_lib.rl.advantages import group_relative_advantages
from course_lib.rl.algorithms import ALGORITHMS, Algorithm, find_algorithm
from course_lib.rl.config import LoopConfig
from course_lib.rl.engine_rollout import EngineRollout
from course_lib.rl.loop import RLLoop
from course_lib.rl.losses import LossConfig, ResponseTokens, TokenLoss, policy_gradient_loss, token_weights
from course_lib.rl.problem import Problem
from course_lib.rl.receipt import Receipt, SyncError
from course_lib.rl.rewards import Reward, RewardError, exact_match, number_match
from course_lib.rl.rollout import Rollout, RolloutError, SamplingConfig, VLLMRollout
from course_lib.rl.room import Room, find_room
from course_lib.rl.run_folder import RunError, free_folder
from course_lib.rl.tasks import Addition, Task
from course_lib.rl.weight_sync import WeightSync
from course_lib.rl.world import World

__all__ = [
    "ALGORITHMS",
    "Addition",
    "Algorithm",
    "EngineRollout",
    "LoopConfig",
    "LossConfig",
    "Problem",
    "RLLoop",
    "Receipt",
    "ResponseTokens",
    "Reward",
    "RewardError",
    "Rollout",
    "RolloutError",
    "Room",
    "RunError",
    "SamplingConfig",
    "SyncError",
    "Task",
    "TokenLoss",
    "VLLMRollout",
    "WeightSync",
    "World",
    "exact_match",
    "find_algorithm",
    "find_room",
    "free_folder",
    "group_relative_advantages",
    "number_match",
    "policy_gradient_loss",
    "token_weights",
]
