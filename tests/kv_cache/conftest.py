from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from course_lib.kv_cache import Transformer
from course_lib.models import load_policy


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """The models are too small for a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_folder() -> Path:
    return load_policy("tiny")


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Transformer:
    return Transformer.load(tiny_folder)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], tuple[Any, Path]]:
    """From a transformers config to a random model of it, and the folder that holds it."""

    def make(config: Any) -> tuple[Any, Path]:
        from transformers import AutoModelForCausalLM

        torch.manual_seed(3)
        model = AutoModelForCausalLM.from_config(config).float().eval()
        for parameter in model.parameters():  # transformers' own start, zero biases and unit norms, would hide mistakes
            parameter.data.normal_(mean=0.5 if parameter.ndim == 1 else 0.0, std=0.3)
        folder = tmp_path_factory.mktemp("model")
        model.save_pretrained(folder)
        return model, folder

    return make
