"""The machine: its tier, its versions, and the process environment that vLLM and DeepSpeed need in one kernel.

Standard library only: the set-up imports this package before anything is installed (`doctor` is not imported here).
"""

from course_lib.machine.environment import cache_dir, free_port, prepare
from course_lib.machine.first_build import announce_first_build
from course_lib.machine.tier import Tier, device, tier
from course_lib.machine.versions import versions

__all__ = ["Tier", "announce_first_build", "cache_dir", "device", "free_port", "prepare", "tier", "versions"]
