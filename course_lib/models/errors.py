"""The one exception that this room raises."""


class PolicyError(RuntimeError):
    """A policy can't be had. The message says what was wrong, what was expected and what to do."""
