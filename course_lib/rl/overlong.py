"""DAPO's soft penalty for responses that come close to the limit."""

from jaxtyping import Float, Int
from torch import Tensor


def overlong_penalty(lengths: Int[Tensor, " samples"], longest: int, buffer: int) -> Float[Tensor, " samples"]:
    """Return what is added to the reward of each response: 0 for a short one, down to -1 for one of `longest` tokens.

    It falls linearly over the last `buffer` tokens before the limit (Yu et al., DAPO, arXiv 2503.14476, equation 13): a
    response that was cut says little about its reasoning, and a sudden penalty at the cut would be noise.

    Args:
        lengths: tokens of each response.
        longest: the most tokens that a response may have (`max_new_tokens`).
        buffer: tokens over which the penalty grows; the paper has 4096 of 20480. 0 turns it off.

    Raises:
        ValueError: the buffer is not between 0 and `longest`.
    """
    if not 0 <= buffer <= longest:
        raise ValueError(
            f"the overlong buffer is {buffer} tokens and responses have at most {longest}; the buffer must be between 0 (off)"
            f" and {longest}."
        )
    if buffer == 0:
        return lengths.float() * 0
    return ((longest - buffer - lengths) / buffer).clamp(-1, 0)
