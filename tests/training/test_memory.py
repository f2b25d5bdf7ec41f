"""Nobody makes a row of logits a token: what is allocated, op by op, in the forward and the backward pass."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Qwen3Config, Qwen3ForCausalLM

from course_lib.training import Group, Policy, pack, token_logprobs
from course_lib.training.logprobs import VOCABULARY_CHUNK


class Made(TorchDispatchMode):
    """The shapes of all tensors that ops made while it was entered; views of what was there before don't count."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        before = {_address(value) for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)}
        result = func(*args, **kwargs)
        self.shapes += [
            tuple(value.shape)
            for value in tree_leaves(result)
            if isinstance(value, Tensor) and _address(value) not in before
        ]
        return result

    def largest(self, besides: tuple[int, ...]) -> int:
        """Elements of the largest tensor that is not of the shape `besides` (the weight's gradient)."""
        return max(torch.Size(shape).numel() for shape in self.shapes if shape != besides)


def _address(value: Tensor) -> int:
    return value.untyped_storage().data_ptr()


def made_by(logprobs: Callable[..., Tensor], tokens: int, width: int, vocabulary: int) -> int:
    hidden = torch.randn(tokens, width, requires_grad=True)
    weight = torch.randn(vocabulary, width, requires_grad=True)
    with Made() as made:
        logprobs(hidden, weight, torch.zeros(tokens, dtype=torch.long)).sum().backward()
    return made.largest(besides=(vocabulary, width))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("vocabulary", [100, 1000, 10_000])
def test_the_largest_tensor_is_tokens_by_chunk_whatever_the_vocabulary(vocabulary: int, temperature: float) -> None:
    def chunked(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        return token_logprobs(hidden, weight, targets, temperature, chunk=50)[0]

    assert made_by(chunked, tokens=40, width=8, vocabulary=vocabulary) == 40 * 50


def test_the_count_sees_a_row_of_logits() -> None:
    def whole(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        return torch.log_softmax(hidden @ weight.T, dim=1)[:, 0]

    assert made_by(whole, tokens=40, width=8, vocabulary=1000) == 40 * 1000


def test_the_policy_never_makes_all_logits(tmp_path: Path) -> None:
    vocabulary = 3 * VOCABULARY_CHUNK + 5
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        tie_word_embeddings=True,
    )
    Qwen3ForCausalLM(config).save_pretrained(tmp_path)
    policy = Policy(tmp_path)
    batch = pack([Group([1] * 40, [[2] * 12, [4]], [0, 1]), Group([5] * 30, [[6] * 7], [2])])
    with Made() as made:
        policy(batch)[0].sum().backward()
    # 20 response tokens in two rows of 53: more tokens than the width, so that the logits are the largest.
    assert made.largest(besides=(vocabulary, 16)) == 20 * VOCABULARY_CHUNK
    assert policy.model.lm_head.weight.grad.isfinite().all()
