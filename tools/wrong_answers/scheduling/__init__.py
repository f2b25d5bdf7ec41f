"""Wrong answers to the exercises of lesson 04."""

from importlib import import_module

for _module in ("latency", "catching_up", "admitting", "hits", "preempting", "whole"):  # the order of the exercises
    import_module(f"wrong_answers.scheduling.{_module}")
