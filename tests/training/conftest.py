import json
import shutil
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from course_lib.models import load_policy
from course_lib.training import Group, PackedBatch, PolicyTrainer

# One advantage a sample of `groups`, of both signs, so that a step neither only raises nor only lowers logprobs.
ADVANTAGES = torch.tensor([1.0, -0.5, 0.8, 0.3, -0.2, 0.6, 1.2, -0.4, 0.5])


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """The models are too small for a second thread, and sums in one order are the same sums each time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_folder() -> Path:
    return load_policy("tiny")


@pytest.fixture(scope="session")
def untied_folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny` with an output matrix of its own, other than the embedding."""
    folder = tmp_path_factory.mktemp("untied") / "model"
    shutil.copytree(tiny_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].flip(0).contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def groups() -> list[Group]:
    """Nine samples of four prompts; one response is empty, and no two groups are of one length."""
    chance = torch.Generator().manual_seed(5)

    def ids(count: int) -> list[int]:
        return torch.randint(3, 512, (count,), generator=chance).tolist()

    return [
        Group(ids(11), [ids(7), ids(4), ids(9)], [0, 1, 2]),
        Group(ids(1), [ids(5), []], [3, 4]),
        Group(ids(17), [ids(3)], [5]),
        Group(ids(6), [ids(8), ids(2), ids(6)], [6, 7, 8]),
    ]


@pytest.fixture(scope="session")
def advantage_loss() -> Callable[[PackedBatch, Tensor, Tensor], Tensor]:
    """The policy-gradient loss of `groups`, divided by a constant so that micro-batches' shares add up."""

    def loss(batch: PackedBatch, logprobs: Tensor, entropy: Tensor) -> Tensor:
        return -(ADVANTAGES.to(logprobs.device)[batch.samples] * logprobs).sum() / 44

    return loss


@pytest.fixture(scope="session")
def snapshot() -> Callable[[PolicyTrainer], dict[str, Tensor]]:
    """A copy of each weight of a trainer."""
    return lambda trainer: {name: weight.cpu().clone() for name, weight in trainer.named_weights()}


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Write a job from the lines that each rank runs, which find `rank`, os, signal, sys and time."""
    monkeypatch.setenv("TIER", "cpu")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")

    def write(body: str) -> Path:
        path = tmp_path / "job.py"
        path.write_text("import os, signal, sys, time\nrank = int(os.environ['RANK'])\n" + textwrap.dedent(body))
        return path

    return write
