"""Wrong answers to the exercises of lesson 06."""

from importlib import import_module

for _module in (  # the order of the exercises
    "memory",
    "sharding",
    "accumulating",
    "mixing",
    "labelling",
    "preferring",
    "consolidating",
):
    import_module(f"wrong_answers.training.{_module}")
