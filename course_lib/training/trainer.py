"""The policy's trainer."""

from collections.abc import Callable, Sequence

from torch import Tensor

from course_lib.training.engine import DeepSpeedTrainer, StepStats
from course_lib.training.packing import Group, PackedBatch, micro_batches
from course_lib.training.policy import Policy, sample_logprobs

LossFunction = Callable[[PackedBatch, Tensor, Tensor], Tensor]
"""`loss(batch, logprobs, entropy)`: this micro-batch's share of the step's loss, so that the shares add up to it."""


class PolicyTrainer(DeepSpeedTrainer):
    """Trains a policy folder with DeepSpeed.

    Args:
        folder: a Hugging Face model folder, as `models.load_policy` returns it.
        config: the run's decisions.

    Raises:
        ValueError: the model is of a family that the trainer does not know.
    """

    def _module(self) -> Policy:
        return Policy(self.folder)

    @property
    def policy(self) -> Policy:
        """The trained module; under ZeRO-3 its parameters are empty outside `named_weights`."""
        module: Policy = self.engine.module
        return module

    def step(self, groups: Sequence[Group], loss: LossFunction, temperature: float = 1.0) -> StepStats:
        """Take one optimizer step on the groups of this rank.

        Gradients of all micro-batches and ranks add up, as the loss's shares do: what a step does depends on the samples,
        and not on how they are cut.

        A step that the loss function or Ctrl-C cuts short leaves nothing behind: the next one starts from zero gradients.

        Raises:
            ValueError: a rank has no groups.
        """
        batches = list(micro_batches(groups, self.config.micro_batch_tokens))
        return self._step(batches, lambda packed: loss(packed, *self.engine(packed, temperature)))

    def logprobs(self, groups: Sequence[Group], temperature: float = 1.0) -> dict[int, Tensor]:
        """Return `{sample: logprobs of its response tokens}` under the current weights, on the CPU, in fp32."""
        self.engine.eval()
        batches = self._aligned(list(micro_batches(groups, self.config.micro_batch_tokens)))
        return sample_logprobs(
            self.engine, [(batch, bool(weight)) for batch, weight in batches], self.engine.device, temperature
        )
