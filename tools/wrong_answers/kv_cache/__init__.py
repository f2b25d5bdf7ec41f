"""Wrong answers to the exercises of lesson 01."""

from importlib import import_module

for _module in ("attending", "sizes", "caching", "decoding", "costs"):  # the order of the exercises
    import_module(f"wrong_answers.kv_cache.{_module}")
