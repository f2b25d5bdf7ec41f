"""The sampler of an engine on a GPU: two kernels for what most requests ask, and PyTorch's operations for the rest."""

from collections.abc import Sequence
from operator import is_
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from course_lib.serving.gpu_draw import draw_tokens, uniform
from course_lib.serving.outputs import Logprob
from course_lib.serving.sampler import Draw, LogprobsMode, Sampler, SamplingRow

_SHIFT = 2**63


class _Prepared(NamedTuple):
    """Rows as tensors, kept while the same rows come again."""

    rows: list[SamplingRow]
    simple: bool
    factors: Tensor
    greedy: Tensor
    keys: Tensor
    reported: list[int]


class GPUSampler(Sampler):
    """A `Sampler` that never waits for the GPU where rows ask for a temperature, a seed and their token's own logprob at most.

    Such rows draw by `draw_tokens`, from two numbers that depend on the row's seed and position alone: a seed repeats in any
    batch, as far as the logits do. Rows with top-k, top-p, min-p, forbidden tokens or more logprobs take `Sampler`'s way, and
    with them the whole step.

    Args: as `Sampler`'s.
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu", logprobs_mode: LogprobsMode = "raw_logprobs"):
        super().__init__(seed, device, logprobs_mode)
        self._keys = torch.Generator().manual_seed(seed)
        self._prepared: _Prepared | None = None

    @torch.inference_mode()
    def launch(
        self, logits: Float[Tensor, "rows vocab"], rows: Sequence[SamplingRow], positions: Int[Tensor, " rows"]
    ) -> Draw:
        """See `Sampler.launch`."""
        ready = self._prepared
        if ready is None or len(ready.rows) != len(rows) or not all(map(is_, rows, ready.rows)):
            ready = self._prepared = self._prepare(rows)
        if not ready.simple:
            return super().launch(logits, rows, positions)
        tokens, logprobs = draw_tokens(logits, ready.factors, ready.greedy, uniform(ready.keys, positions))
        if not ready.reported:
            return Draw(tokens, dict)
        # Ranks are of the logits as they are: a temperature does not change the order.
        ranks = (logits >= logits.gather(1, tokens[:, None])).sum(-1)
        return Draw(tokens, _Reports(tokens, logprobs, ranks, ready.reported))

    def _prepare(self, rows: Sequence[SamplingRow]) -> _Prepared:
        params = [row.params for row in rows]
        raw = self.logprobs_mode == "raw_logprobs"
        simple = all(
            not row.forbidden
            and p.top_k <= 0
            and p.top_p >= 1
            and p.min_p <= 0
            and (p.logprobs is None or (p.logprobs == 0 and (not raw or p.greedy or p.temperature == 1)))
            for row, p in zip(rows, params, strict=True)
        )
        greedy = [p.greedy for p in params]
        factors = torch.tensor([1.0 if p.greedy else 1.0 / p.temperature for p in params], dtype=torch.float32)
        # A row without a seed gets any: from here on it draws by position, as the others do.
        any_seed = torch.randint(-_SHIFT, _SHIFT - 1, (len(rows),), generator=self._keys)
        keys = torch.tensor(
            [
                int(some) if row.generator is None else _signed(row.generator.initial_seed())
                for row, some in zip(rows, any_seed.tolist(), strict=True)
            ]
        )
        reported = [index for index, p in enumerate(params) if p.logprobs is not None]
        return _Prepared(
            list(rows), simple, self._there(factors), self._there(torch.tensor(greedy)), self._there(keys), reported
        )

    def _there(self, tensor: Tensor) -> Tensor:
        """Copy to the device without waiting for it."""
        if torch.device(self.device).type != "cuda":
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)


class _Reports:
    """The sampled tokens' logprobs, which are read when they are wanted."""

    def __init__(self, tokens: Tensor, logprobs: Tensor, ranks: Tensor, rows: Sequence[int]):
        self._rows = rows
        # One tensor, so that one copy brings all; a token, a rank and an fp32 number are exact in fp64.
        packed = torch.stack((tokens.double(), logprobs.double(), ranks.double()))
        self._host = packed
        if packed.is_cuda:
            self._host = torch.empty(packed.shape, dtype=packed.dtype, pin_memory=True)
            self._host.copy_(
                packed, non_blocking=True
            )  # before the tokens' own copy, whose event says that both are there

    def __call__(self) -> dict[int, dict[int, Logprob]]:
        tokens, logprobs, ranks = self._host.tolist()
        return {row: {int(tokens[row]): Logprob(logprobs[row], int(ranks[row]))} for row in self._rows}


def _signed(seed: int) -> int:
    """Return a seed of 64 bits as the int64 of the same bits."""
    return (seed + _SHIFT) % (2 * _SHIFT) - _SHIFT
