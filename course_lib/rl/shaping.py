"""Shaping: rewards for the form of a completion, to mix with one for what it says.

Each is easily had without a right answer, and a policy goes for what is easy first. Give them small weights, and watch their
parts in the metrics.
"""

import re
from collections.abc import Callable, Sequence

from course_lib.rl.problem import Problem
from course_lib.rl.rewards import Reward, reward_name

ANSWER_TAGS = r".*<answer>.+</answer>"
"""A completion that ends in `<answer>...</answer>`: the form that reasoning models are trained to (DeepSeek-R1, arXiv 2501.12948,
section 2.2.2, where `<think>...</think>` comes before it)."""

_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def tagged_answer(text: str) -> str | None:
    """Return what stands in the last `<answer>...</answer>`, without surrounding white space, or None where there is none."""
    found = _TAGGED.findall(text)
    return found[-1].strip() if found else None


def in_tags(reward: Reward) -> Reward:
    """Return a reward that sees only what is in a completion's answer tags; without them a completion is worth 0.

    Args:
        reward: what judges the answer, such as `exact_match`.
    """

    def tagged(problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
        answers = [tagged_answer(text) for text in completions]
        given = [index for index, answer in enumerate(answers) if answer is not None]
        values = [0.0] * len(completions)
        judged = (
            reward([problems[index] for index in given], [answers[index] or "" for index in given]) if given else []
        )
        for index, value in zip(given, judged, strict=True):
            values[index] = value
        return values

    return _named(tagged, f"in_tags({reward_name(reward)})")


def format_match(pattern: str = ANSWER_TAGS) -> Reward:
    """Return a reward of 1.0 where all of a completion, without surrounding white space, matches a regular expression, else 0.0.

    Args:
        pattern: the expression; its `.` matches a line's end too.

    Raises:
        ValueError: it is no regular expression.
    """
    try:
        form = re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error

    return _of_text(lambda text: float(form.fullmatch(text.strip()) is not None), "format_match")


def brevity(short: int, long: int) -> Reward:
    """Return a reward that falls with a completion's length: 1.0 up to `short` characters, 0.0 from `long` on, a line between.

    It counts characters and not tokens: a reward sees text. For a limit on tokens see `overlong.overlong_penalty`.

    Raises:
        ValueError: `short` is below 0, or not below `long`.
    """
    if not 0 <= short < long:
        raise ValueError(f"short is {short} and long {long}; expected 0 <= short < long")

    return _of_text(lambda text: min(1.0, max(0.0, (long - len(text)) / (long - short))), f"brevity({short}, {long})")


def _of_text(value: Callable[[str], float], name: str) -> Reward:
    """Return a reward that looks at each completion alone, and not at what was asked."""

    def reward(_problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
        return [value(text) for text in completions]

    return _named(reward, name)


def _named(reward: Callable[[Sequence[Problem], Sequence[str]], list[float]], name: str) -> Reward:
    """Return the reward under the name that messages shall call it by."""
    reward.__name__ = reward.__qualname__ = name
    return reward
