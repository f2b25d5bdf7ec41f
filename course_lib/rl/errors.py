"""All errors that a run ends with and that say themselves what to do."""

from course_lib.rl.receipt import SyncError
from course_lib.rl.rewards import RewardError
from course_lib.rl.rollout import RolloutError
from course_lib.rl.run_folder import RunError


class OutOfMemory(RunError):  # noqa: N818  what everybody calls it
    """Memory ran out; the message names the settings of the phase that it ran out in.

    Attributes:
        phase: of the loop: generate, evaluate, reward, train, sync or checkpoint.
        settings: names of the settings that would help, the first one first.
    """

    def __init__(self, message: str, phase: str = "", settings: tuple[str, ...] = ()):
        super().__init__(message)
        self.phase, self.settings = phase, settings


ALL = (RewardError, RolloutError, RunError, SyncError)
