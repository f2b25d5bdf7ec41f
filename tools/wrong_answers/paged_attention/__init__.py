"""Wrong answers to the exercises of lesson 03."""

from importlib import import_module

for _module in ("blocks", "attending", "pool", "free_list", "prefix"):  # the order of the exercises
    import_module(f"wrong_answers.paged_attention.{_module}")
