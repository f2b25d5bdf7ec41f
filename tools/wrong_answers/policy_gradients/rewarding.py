# ruff: noqa: D103  (what each gets wrong stands in its decorator)
"""A reward by rule."""

import re

from wrong_answers import wrong

DIGITS, DECIMALS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)", r"(?:\.\d+)?"
NUMBER = r"(?:(?<![0-9A-Za-z])-)?" + DIGITS + DECIMALS


def _value(text):
    return float(text.replace(",", ""))


def _rewards(problems, completions, pattern=NUMBER, place=-1):
    rewards = []
    for problem, completion in zip(problems, completions, strict=True):
        found = re.findall(pattern, completion)
        rewards.append(float(bool(found) and _value(found[place]) == _value(problem.answer)))
    return rewards


@wrong("07.number_reward", "first-number", "Takes the first number.")
def first(problems, completions):
    return _rewards(problems, completions, place=0)


@wrong("07.number_reward", "anywhere", "Is content with the answer anywhere in the text.")
def anywhere(problems, completions):
    return [float(problem.answer in text) for problem, text in zip(problems, completions, strict=True)]


@wrong("07.number_reward", "whole-completion", "Wants the number and nothing else.")
def whole(problems, completions):
    return [float(problem.answer == text.strip()) for problem, text in zip(problems, completions, strict=True)]


@wrong("07.number_reward", "loses-the-sign", "Looks for digits, and has never heard of a minus.")
def digits(problems, completions):
    return _rewards(problems, completions, r"\d+")


@wrong("07.number_reward", "subtraction-as-sign", "Takes every minus for a sign.")
def minus(problems, completions):
    return _rewards(problems, completions, "-?" + DIGITS + DECIMALS)


@wrong("07.number_reward", "cut-at-commas", "Cuts 1,234 at its comma.")
def cut(problems, completions):
    return _rewards(problems, completions, r"(?:(?<![0-9A-Za-z])-)?\d+(?:\.\d+)?")


@wrong("07.number_reward", "joined-at-commas", "Drops every comma before it looks.")
def joined(problems, completions):
    return _rewards(problems, [text.replace(",", "") for text in completions])


@wrong("07.number_reward", "cut-at-the-point", "Knows whole numbers only.")
def whole_numbers(problems, completions):
    return _rewards(problems, completions, r"(?:(?<![0-9A-Za-z])-)?" + DIGITS)


@wrong("07.number_reward", "compares-text", "Compares texts, and not numbers.")
def as_text(problems, completions):
    found = [re.findall(NUMBER, text) for text in completions]
    return [
        float(bool(numbers) and numbers[-1] == problem.answer) for problem, numbers in zip(problems, found, strict=True)
    ]


@wrong("07.number_reward", "no-number", "Raises where no number is found.")
def raises(problems, completions):
    return [
        float(_value(re.findall(NUMBER, text)[-1]) == _value(problem.answer))
        for problem, text in zip(problems, completions, strict=True)
    ]


@wrong("07.number_reward", "not-finite", "Gives NaN where no number is found.")
def nan(problems, completions):
    rewards = _rewards(problems, completions)
    return [
        reward if re.search(r"\d", text) else float("nan") for reward, text in zip(rewards, completions, strict=True)
    ]


@wrong("07.number_reward", "wrong-length", "Leaves out completions without a number.")
def shorter(problems, completions):
    kept = [pair for pair in zip(problems, completions, strict=True) if re.search(r"\d", pair[1])]
    return _rewards([problem for problem, _ in kept], [text for _, text in kept])
