# ruff: noqa: D103  (what each gets wrong stands in its decorator)
"""The reward with a little for the form."""

import re

from wrong_answers import wrong


def _pay(problems, completions, right=1.0, form=0.1, silent=0.0, place=-1):
    rewards = []
    for problem, completion in zip(problems, completions, strict=True):
        found = re.findall(r"\d+", completion)
        paid = silent if not found else right if found[place] == problem.answer else form
        rewards.append(paid)
    return rewards


@wrong("08.reward", "nothing-for-the-form", "Pays for right answers alone.")
def all_or_nothing(problems, completions):
    return _pay(problems, completions, form=0.0)


@wrong("08.reward", "pays-for-silence", "Pays 0.1 whatever is said.")
def silence(problems, completions):
    return _pay(problems, completions, silent=0.1)


@wrong("08.reward", "adds-up", "Adds the form's 0.1 to the right answer's 1.0.")
def adds(problems, completions):
    return _pay(problems, completions, right=1.1)


@wrong("08.reward", "punishes", "Takes 0.1 off for a wrong number.")
def punishes(problems, completions):
    return _pay(problems, completions, form=-0.1)


@wrong("08.reward", "first-number", "Takes the first number.")
def first(problems, completions):
    return _pay(problems, completions, place=0)


@wrong("08.reward", "anywhere", "Is content with the answer anywhere in the text.")
def anywhere(problems, completions):
    pairs = zip(problems, completions, strict=True)
    return [1.0 if problem.answer in text else 0.1 * bool(re.search(r"\d", text)) for problem, text in pairs]


@wrong("08.reward", "no-number", "Raises where no number is found.")
def raises(problems, completions):
    found = [re.findall(r"\d+", text)[-1] for text in completions]
    return [1.0 if number == problem.answer else 0.1 for problem, number in zip(problems, found, strict=True)]


@wrong("08.reward", "too-many-digits", "Makes an int of anything.")
def as_int(problems, completions):
    found = [re.findall(r"\d+", text) for text in completions]
    pairs = zip(problems, found, strict=True)
    return [(1.0 if int(of[-1]) == int(problem.answer) else 0.1) if of else 0.0 for problem, of in pairs]


@wrong("08.reward", "not-finite", "Gives NaN where no number is found.")
def nan(problems, completions):
    return _pay(problems, completions, silent=float("nan"))


@wrong("08.reward", "wrong-length", "Leaves out completions without a number.")
def shorter(problems, completions):
    kept = [pair for pair in zip(problems, completions, strict=True) if re.search(r"\d", pair[1])]
    return _pay([problem for problem, _ in kept], [text for _, text in kept])
