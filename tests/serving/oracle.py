"""transformers as the oracle, and what is compared with it."""

import functools
from collections.abc import Sequence
from pathlib import Path

import torch

from course_lib.serving import LLM, RequestOutput


class Oracle:
    """transformers' model, one sequence at a time and without a cache of ours."""

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32):
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        self.greedy = functools.cache(self._greedy)

    @torch.inference_mode()
    def logits(self, tokens: Sequence[int]) -> torch.Tensor:
        """[tokens, vocab] in fp32."""
        return self.model(torch.tensor([list(tokens)])).logits[0].float()

    @torch.inference_mode()
    def _greedy(self, prompt: tuple[int, ...], count: int, eos: int | None = None) -> list[int]:
        ids = torch.tensor([prompt])
        out = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=count,
            eos_token_id=eos,
            pad_token_id=0,
        )
        return out[0, len(prompt) :].tolist()


def tokens_of(outputs: Sequence[RequestOutput]) -> list[list[int]]:
    return [list(output.outputs[0].token_ids) for output in outputs]


def assert_pool_whole(llm: LLM) -> None:
    """Nobody holds a block, and every block is free exactly once."""
    pool = llm.llm_engine.scheduler.kv_manager.pool
    assert sorted(pool.free_list) == list(range(len(pool.blocks)))
    assert all(block.ref_cnt == 0 for block in pool.blocks)
    assert not llm.has_unfinished_requests() and not llm.llm_engine.scheduler.has_unfinished_requests
