import json
import shutil
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from course_lib.models import load_policy
from course_lib.training import Group, PackedBatch, PolicyTrainer, ZeroPlan, launch
from course_lib.training.zero_study import ZeroStudy, zero_study

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


@pytest.fixture(scope="session")
def small_folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 8 M parameters: large enough that its memory is not all buffers, small enough for a core."""
    folder = tmp_path_factory.mktemp("policies") / "small"
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=3,
        head_dim=64,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    for source in tiny_folder.glob("*token*"):
        shutil.copy2(source, folder / source.name)
    return folder


@pytest.fixture(scope="session")
def studies(small_folder: Path) -> dict[int, ZeroStudy]:
    """`{ranks: study}` of real runs on 1 and 2 ranks: every stage, with and without checkpointing and offloading."""
    plain = [ZeroPlan(stage) for stage in range(4)]
    checkpointed = [replace(plan, gradient_checkpointing=True) for plan in plain]
    offloaded = [replace(plan, offload_optimizer=True) for plan in plain[1:]]
    both = [replace(plan, gradient_checkpointing=True) for plan in offloaded]
    # On the cpu tier a rank alone has nothing to gather where weights are offloaded: they are in place.
    weights_too = ZeroPlan(3, offload_optimizer=True, offload_param=True)
    # Over an hour: a hang is a failure, how long it takes is not.
    options: dict[str, Any] = {"steps": 1, "rows": 2, "length": 64, "timeout": 3600}
    return {
        1: zero_study(small_folder, 1, plans=[*plain, *both, checkpointed[0]], **options),
        2: zero_study(small_folder, 2, plans=[*plain, *checkpointed, *offloaded, weights_too], **options),
    }


@pytest.fixture(scope="session")
def two_ranks(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two ranks found about their own tensors and about collectives; see holdings_worker.py."""
    out = tmp_path_factory.mktemp("holdings")
    worker = Path(__file__).with_name("holdings_worker.py")
    launch(worker, ranks=2, arguments=[str(tiny_folder), str(out)], timeout=3600)
    return [json.loads((out / f"{rank}.json").read_text()) for rank in range(2)]


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
