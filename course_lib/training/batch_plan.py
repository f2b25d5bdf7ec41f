"""How a batch is shared out: over the ranks, and over the forward and backward passes of each."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class BatchPlan:
    """DeepSpeed's rule: `train_batch_size = micro_batch_size * gradient_accumulation_steps * ranks`.

    DeepSpeed asserts it deep in `deepspeed.initialize` (`DeepSpeedConfig._batch_assertion`), in every rank.

    Attributes:
        train_batch_size: samples of one optimizer step, over all ranks and passes.
        micro_batch_size: samples of one forward and backward pass of one rank; what memory limits.
        ranks: data-parallel processes.

    Raises:
        ValueError: a number is not a whole one above 0, or they don't divide; the message names the nearest that do.
    """

    train_batch_size: int
    micro_batch_size: int
    ranks: int = 1

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}; it must be a whole number of 1 or more.")
        if self.train_batch_size % self._pass_samples:
            raise ValueError(self._advice())

    @property
    def gradient_accumulation_steps(self) -> int:
        """Passes of each rank whose gradients add up before the optimizer's step."""
        return self.train_batch_size // self._pass_samples

    def passes(self, rank: int) -> list[range]:
        """Return which samples of the batch each pass of a rank takes; over all ranks they are the batch, each sample once.

        A rank's samples lie together, so that they are the same whatever the size of a micro-batch.

        Raises:
            ValueError: there is no such rank.
        """
        if not 0 <= rank < self.ranks:
            raise ValueError(f"rank is {rank}; the ranks of this plan are 0 to {self.ranks - 1}.")
        share = self.train_batch_size // self.ranks
        starts = range(rank * share, (rank + 1) * share, self.micro_batch_size)
        return [range(start, start + self.micro_batch_size) for start in starts]

    def for_deepspeed(self) -> dict[str, int]:
        """Return the three entries of DeepSpeed's configuration that say this."""
        return {
            "train_batch_size": self.train_batch_size,
            "train_micro_batch_size_per_gpu": self.micro_batch_size,
            "gradient_accumulation_steps": self.gradient_accumulation_steps,
        }

    @property
    def _pass_samples(self) -> int:
        """Samples of one pass of all ranks together."""
        return self.micro_batch_size * self.ranks

    def _advice(self) -> str:
        passes = self.train_batch_size // self._pass_samples
        batches = [f"{count * self._pass_samples}" for count in (passes, passes + 1) if count]
        sizes = [f"{size}" for size in self._dividing_sizes()]
        return (
            f"train_batch_size {self.train_batch_size} does not divide into passes of micro_batch_size {self.micro_batch_size} *"
            f" {self.ranks} rank(s) = {self._pass_samples} samples: use train_batch_size={' or '.join(batches)}"
            + (f", or micro_batch_size={' or '.join(sizes)}." if sizes else ", or a number of ranks that divides it.")
        )

    def _dividing_sizes(self) -> Iterator[int]:
        """Yield the nearest smaller and larger micro-batch size that would do, where there are any."""
        share, rest = divmod(self.train_batch_size, self.ranks)
        if rest:
            return
        fitting = [size for size in range(1, share + 1) if share % size == 0]
        smaller = [size for size in fitting if size < self.micro_batch_size]
        larger = [size for size in fitting if size > self.micro_batch_size]
        yield from smaller[-1:] + larger[:1]
