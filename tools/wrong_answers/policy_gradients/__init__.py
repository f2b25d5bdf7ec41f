"""Wrong answers to the exercises of lesson 07."""

from importlib import import_module

for _module in (  # the order of the exercises
    "rewarding",
    "masking",
    "leaving_out",
    "grouping",
    "clipping",
    "averaging",
    "sequences",
    "divergence",
    "mismatch",
    "estimating",
):
    import_module(f"wrong_answers.policy_gradients.{_module}")
