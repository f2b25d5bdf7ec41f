from pathlib import Path

import pytest
import torch

from course_lib.kv_cache import ContiguousCache, NoCache, Transformer, generate_with_cache, generate_without_cache
from course_lib.kv_cache.measure import measure_hardware, time_step

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> Transformer:
    return Transformer.load(tiny_folder, device="cuda")


def test_equals_the_cpu(model: Transformer, tiny: Transformer) -> None:
    tokens, positions = torch.arange(3, 60), torch.arange(57)
    cache = ContiguousCache.for_model(model, 57)
    pieces = [model(tokens[s].cuda(), positions[s].cuda(), cache) for s in (slice(0, 40), slice(40, 41), slice(41, 57))]
    right = tiny(tokens, positions, NoCache())
    torch.testing.assert_close(torch.cat(pieces).cpu(), right, atol=1e-3, rtol=1e-3)


def test_same_tokens(model: Transformer, tiny: Transformer) -> None:
    cached = generate_with_cache(model, [5, 6, 7], 40)
    assert cached == generate_without_cache(model, [5, 6, 7], 40) == generate_with_cache(tiny, [5, 6, 7], 40)


def test_bf16(tiny_folder: Path, tiny: Transformer) -> None:
    half = Transformer.load(tiny_folder, torch.bfloat16, "cuda")
    tokens = torch.arange(3, 60)
    logits = half(tokens.cuda(), torch.arange(57).cuda(), NoCache()).float().cpu()
    torch.testing.assert_close(logits, tiny(tokens, torch.arange(57), NoCache()), atol=0.2, rtol=0.05)


def test_measuring(model: Transformer) -> None:
    assert 0 < time_step(model, 1, 64, batch=4).attention_seconds < 1
    machine = measure_hardware("cuda", torch.bfloat16)
    assert 5e11 < machine.bandwidth < 1e13 < machine.flops < 5e15
