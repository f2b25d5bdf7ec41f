"""Wrong answers to the exercises of lesson 05."""

from importlib import import_module

for _module in ("sizing", "chatting", "nucleus", "stopping", "chunking", "flooring"):  # the order of the exercises
    import_module(f"wrong_answers.serving.{_module}")
