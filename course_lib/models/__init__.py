"""Where a policy comes from: a Hugging Face model folder that transformers, DeepSpeed and vLLM load."""

from course_lib.models.errors import PolicyError
from course_lib.models.info import PolicyInfo, describe
from course_lib.models.policies import load_policy
from course_lib.models.scoring import with_score_head

__all__ = ["PolicyError", "PolicyInfo", "describe", "load_policy", "with_score_head"]
