"""All errors that a run ends with and that say themselves what to do."""

from course_lib.rl.receipt import SyncError
from course_lib.rl.rewards import RewardError
from course_lib.rl.rollout import RolloutError
from course_lib.rl.run_folder import RunError

ALL = (RewardError, RolloutError, RunError, SyncError)
