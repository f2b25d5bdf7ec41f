"""The trainer's norms are transformers' own: same values, same gradients, same names, fewer operations."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from course_lib.training import Policy
from course_lib.training.norms import RMSNorm, fuse_norms

NORMS = [LlamaRMSNorm, Qwen2RMSNorm, Qwen3RMSNorm]


def made(norm: Any, dtype: torch.dtype) -> nn.Sequential:
    model = nn.Sequential(norm(96, eps=1e-5).to(dtype))
    with torch.no_grad():
        model[0].weight.copy_(torch.randn(96, generator=torch.Generator().manual_seed(1)))
    return model


def passes(model: Any, dtype: torch.dtype, device: str = "cpu") -> list[torch.Tensor]:
    """Return output and gradients; the inputs are as far apart in size as a model's hidden states."""
    chance = torch.Generator().manual_seed(2)
    hidden, slope = (torch.randn(5, 7, 96, generator=chance) for _ in range(2))
    hidden = (hidden * torch.logspace(-4, 4, 7)[:, None]).to(device, dtype).requires_grad_()
    out = model.to(device)(hidden)
    out.backward(slope.to(device, dtype))
    return [value.detach().cpu() for value in (out, hidden.grad, model[0].weight.grad)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("norm", NORMS)
def test_a_norm_is_transformers_own_to_the_bit(norm: type[nn.Module], dtype: torch.dtype) -> None:
    plain, fused = made(norm, dtype), made(norm, dtype)
    fuse_norms(fused)
    assert isinstance(fused[0], RMSNorm)
    for one, other in zip(passes(fused, dtype), passes(plain, dtype), strict=True):
        assert torch.equal(one, other)


def test_a_policy_has_them_all_and_the_names_of_its_files(tiny_folder: Path) -> None:
    model = Policy(tiny_folder).model
    plain = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.bfloat16)
    norms = [name for name, module in plain.named_modules() if type(module) in NORMS]
    assert [name for name, module in model.named_modules() if isinstance(module, RMSNorm)] == norms != []
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in plain.named_parameters()]


def test_another_familys_norm_is_left_alone() -> None:
    from transformers.models.gemma.modeling_gemma import GemmaRMSNorm

    model = nn.Sequential(GemmaRMSNorm(96))
    fuse_norms(model)
    assert isinstance(model[0], GemmaRMSNorm)  # it multiplies by 1 + weight


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("norm", NORMS)
def test_on_a_gpu_it_is_one_kernel_and_rounds_alike(norm: type[nn.Module]) -> None:
    plain, fused = made(norm, torch.bfloat16), made(norm, torch.bfloat16)
    fuse_norms(fused)
    both = [passes(model, torch.bfloat16, "cuda") for model in (fused, plain)]
    out, other = (found[0].float() for found in both)
    assert (out != other).float().mean() < 0.01  # a sum in another order, seen where a value lies between two of bf16's
    for one, two in zip(*both, strict=True):
        torch.testing.assert_close(one, two, rtol=0.02, atol=0.02 * float(two.abs().mean()))
    hidden = torch.randn(8, 96, device="cuda", dtype=torch.bfloat16)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen, torch.no_grad():
        fused(hidden)
        torch.cuda.synchronize()
    assert [str(event.device_type) for event in seen.events()].count("DeviceType.CUDA") == 2  # and the weight's
