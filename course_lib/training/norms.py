"""RMS norms of one kernel, where transformers takes eight."""

from torch import Tensor, nn
from torch.nn import functional

_PLAIN = {"LlamaRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm"}  # all of them are the same lines; others (Gemma's) are not


class RMSNorm(nn.Module):
    """An RMS norm (Zhang and Sennrich, arXiv 1910.07467) that rounds as transformers' does, and vLLM's kernel.

    Without the weight in it, torch's norm rounds to bf16 before the product with the weight, and not after it.
    """

    def __init__(self, weight: nn.Parameter, epsilon: float):
        super().__init__()
        self.weight, self.epsilon = weight, epsilon

    def forward(self, hidden: Tensor) -> Tensor:
        """Return `weight * hidden / rms(hidden)`, over the last axis."""
        return self.weight * functional.rms_norm(hidden, hidden.shape[-1:], eps=self.epsilon)


def fuse_norms(model: nn.Module) -> None:
    """Replace a transformers model's RMS norms, in place. Names of weights stay, and so do values, to the bit on a CPU.

    On a GPU transformers' forward and backward pass of a norm are some twenty launches, each over all hidden states in fp32.
    With two norms a layer that is a third of a small model's launches.
    """
    for name, module in list(model.named_modules()):
        if type(module).__name__ in _PLAIN:
            model.set_submodule(name, RMSNorm(module.weight, module.variance_epsilon))
