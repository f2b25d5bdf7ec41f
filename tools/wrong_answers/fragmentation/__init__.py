"""Wrong answers to the exercises of lesson 02."""

from importlib import import_module

for _module in ("fitting", "first_fit", "counting", "buddies", "moving", "batches"):  # the order of the exercises
    import_module(f"wrong_answers.fragmentation.{_module}")
