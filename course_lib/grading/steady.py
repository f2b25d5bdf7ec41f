"""Hypothesis as the checks need it: the same inputs in a notebook, in CI and on any machine, and no files left behind."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from hypothesis import configuration
from hypothesis.internal.cache import LRUCache
from hypothesis.internal.conjecture import providers
from hypothesis.internal.constants_ast import Constants

from course_lib.machine.environment import cache_dir


@contextmanager
def steady_inputs() -> Iterator[None]:
    """Draw inputs inside the `with` block from nothing but the test's own source.

    Hypothesis also tries constants that it finds in the modules which happen to be imported, and keeps them in a folder
    `.hypothesis/` of the working folder. A check would then try other inputs after an import, and litter exercises/.
    Hypothesis has no setting for it, so these three of its internals are replaced for the time of the check.
    """
    no_constants = Constants()
    with (
        patch.object(providers, "_get_local_constants", lambda: no_constants),
        patch.object(providers, "CONSTANTS_CACHE", LRUCache(1024)),
        patch.object(configuration, "__hypothesis_home_directory", cache_dir() / "hypothesis"),
    ):
        yield
