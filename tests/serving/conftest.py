"""The tiny policy as an engine and as transformers' model."""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch

from course_lib.models import load_policy
from course_lib.serving import LLM

from .oracle import Oracle


@pytest.fixture(scope="session")
def folder() -> Path:
    return load_policy("tiny")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Any:
    """The tiny model's steps are too small to share between cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def make_llm(folder: Path) -> Any:
    """An engine with these options; the same one for the same options, for loading takes longer than most tests."""

    @functools.cache
    def make(**options: Any) -> LLM:
        return LLM(folder, **({"dtype": "float32", "num_blocks": 256, "device": "cpu"} | options))

    return make


@pytest.fixture
def llm(make_llm: Any) -> LLM:
    return make_llm()


@pytest.fixture(scope="session")
def oracle(folder: Path) -> Oracle:
    return Oracle(folder)
