"""The policy as the trainer sees it: packed samples in, log-probabilities of the response tokens out."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from course_lib import machine
from course_lib.training.logprobs import token_logprobs
from course_lib.training.norms import fuse_norms
from course_lib.training.packing import Group, PackedBatch, micro_batches, pack


class Policy(nn.Module):
    """A Hugging Face causal language model whose forward pass gives response logprobs and never a whole row of logits.

    Raises:
        ValueError: the model's logits are not `hidden @ lm_head.T` (soft-capping, scaling, a bias), which is not supported.
    """

    def __init__(self, folder: Path, dtype: torch.dtype = torch.bfloat16):
        super().__init__()
        config = AutoConfig.from_pretrained(folder).get_text_config()
        for option in ("final_logit_softcapping", "logits_scaling", "logit_scale"):
            if getattr(config, option, None) is not None:  # seen before gigabytes of weights are read
                raise ValueError(_unknown_logits(folder, f"{option} in its config"))
        logging.disable_progress_bar()  # loading takes a second
        self.model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation="sdpa"
        )
        if getattr(self.model.lm_head, "bias", None) is not None:
            raise ValueError(_unknown_logits(folder, "a bias in its lm_head"))
        fuse_norms(self.model)

    def forward(
        self, batch: PackedBatch, temperature: float = 1.0
    ) -> tuple[Float[Tensor, " tokens"], Float[Tensor, " tokens"]]:
        """Return logprob (with gradient) and entropy (without) of each response token, in nats and fp32."""
        predictors = hidden_states(self.model, batch).flatten(0, 1)[batch.predictors]
        return token_logprobs(predictors, self.model.lm_head.weight, batch.targets, temperature)


def hidden_states(model: PreTrainedModel, batch: PackedBatch) -> Float[Tensor, "rows length width"]:
    """Return the last layer's output for packed rows, before any head."""
    hidden: Tensor = model.base_model(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        attention_mask=batch.attention_mask,
        use_cache=False,
    ).last_hidden_state
    return hidden


def _unknown_logits(folder: Path, what: str) -> str:
    return (
        f"{folder} has {what}: its logits are not hidden @ lm_head.T, as they are in the Llama, Qwen2 and Qwen3 models"
        " that the trainer knows. Use a model of one of these families."
    )


class FrozenPolicy:
    """A policy that is not trained: the reference of a KL term.

    Args:
        folder: a Hugging Face model folder.
        micro_batch_tokens: tokens (padding counted) of one forward pass.
    """

    def __init__(self, folder: Path, micro_batch_tokens: int = 4096):
        self.policy = Policy(folder).to(machine.device()).eval().requires_grad_(False)
        self.micro_batch_tokens = micro_batch_tokens

    def logprobs(self, groups: Sequence[Group], temperature: float = 1.0) -> dict[int, Tensor]:
        """Return `{sample: logprobs of its response tokens}`, on the CPU, in fp32."""
        batches = ((batch, True) for batch in micro_batches(groups, self.micro_batch_tokens))
        return sample_logprobs(self.policy, batches, machine.device(), temperature)


@torch.no_grad()
def sample_logprobs(
    forward: Callable[[PackedBatch, float], tuple[Tensor, Tensor]],
    batches: Iterable[tuple[Sequence[Group], bool]],
    device: torch.device | str,
    temperature: float,
) -> dict[int, Tensor]:
    """Return `{sample: logprobs of its response tokens}` of micro-batches, on the CPU; passes marked False are run and dropped."""
    found: dict[int, Tensor] = {}
    for batch, wanted in batches:
        values = forward(pack(batch, device=device), temperature)[0].cpu()
        if wanted:
            lengths = [len(response) for group in batch for response in group.responses]
            samples = [sample for group in batch for sample in group.samples]
            found.update(zip(samples, values.split(lengths), strict=True))
    return found
