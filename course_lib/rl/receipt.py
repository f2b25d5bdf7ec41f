"""The receipt of a weight sync: what arrived, and if something is wrong, what."""

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

TOLERANCE = 4.0
"""A logprob gap of up to this many noise floors is noise."""


class SyncError(RuntimeError):
    """A weight sync failed its receipt; the engine must not generate with what it holds."""


@dataclass(frozen=True)
class Receipt:
    """Proof that the engine computes with the trainer's weights, or the name of what is wrong.

    Attributes:
        version: the engine's weight version, one more with every sync.
        tensors: how many tensors were read back from the engine.
        stale: names of the tensors that are not what the trainer holds.
        changed: share of the trainer's compared values that differ from the sync before (0 before the first).
        cached_tokens: tokens whose old keys and values were still in the prefix cache right after the sync; 0 when it was reset.
        gap: median |trainer logprob - engine logprob| over the canaries' tokens, in nats.
        noise_floor: the same gap, measured when both held the same weights from the same files.
        culprit: what is wrong, or None.
        seconds: time of each part of the sync: reload, check.
    """

    version: int
    tensors: int
    stale: tuple[str, ...]
    changed: float
    cached_tokens: int
    gap: float
    noise_floor: float
    culprit: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """True where nothing is wrong."""
        return self.culprit is None

    def raise_if_failed(self) -> "Receipt":
        """Return the receipt itself where it is clean.

        Raises:
            SyncError: it is not; the message names the culprit.
        """
        if self.culprit:
            raise SyncError(
                f"the weight sync to version {self.version} failed its receipt: {self.culprit}. {self._figures()}"
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return the receipt as JSON-ready values."""
        return asdict(self) | {"ok": self.ok, "stale": list(self.stale)}

    def _figures(self) -> str:
        return (
            f"{self.tensors - len(self.stale)} of {self.tensors} tensors equal the trainer's, {self.changed:.1%} of the"
            f" trainer's values changed, {self.cached_tokens} cached tokens, logprob gap {self.gap:.4f} nats"
            f" (noise floor {self.noise_floor:.4f})"
        )

    def __str__(self) -> str:
        return f"receipt {self.version}: {'clean' if self.ok else self.culprit}; {self._figures()}"


def find_stale(expected: dict[str, Tensor], actual: dict[str, Tensor]) -> tuple[str, ...]:
    """Return the names of the engine's tensors that differ from the trainer's, or that the trainer has and the engine lacks.

    `lm_head.weight` is compared with the embedding where the trainer ties the two and so has no tensor of that name.
    """
    embedding = next((value for name, value in expected.items() if name.endswith("embed_tokens.weight")), None)
    tied = {} if embedding is None else {"lm_head.weight": embedding}
    wanted = {name: value for name, value in (tied | expected).items() if name in actual}
    differ = count_differences({name: (value, actual[name]) for name, value in wanted.items()})
    missing = [name for name in expected if name not in actual]
    return (*missing, *(name for name in actual if differ.get(name)))


def count_differences(pairs: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, int]:
    """Return how many values of each pair differ; all of them where the shapes do. NaN differs from NaN.

    All pairs of a kind are compared as two long tensors, on the first's device, and the host waits once, for all counts:
    hundreds of comparisons, each waited for, take a GPU longer than the reload itself.
    """
    counts = {name: max(left.numel(), right.numel()) for name, (left, right) in pairs.items()}
    kinds: dict[tuple[Any, ...], list[str]] = {}
    for name, (left, right) in pairs.items():
        if left.shape == right.shape and left.numel():
            kind = (left.shape[1:], left.dtype, right.dtype, left.device, right.device)
            kinds.setdefault(kind, []).append(name)
    found = []
    for names in kinds.values():
        ours, others = ([torch.atleast_1d(pairs[name][side]) for name in names] for side in (0, 1))
        differ = torch.cat(ours).ne(torch.cat(others).to(ours[0].device))
        upto = differ.view(len(differ), -1).sum(dim=1).cumsum(dim=0)
        ends = torch.tensor([*itertools.accumulate(map(len, ours))]).sub(1).to(upto.device, non_blocking=True)
        found.append(upto[ends].diff(prepend=upto.new_zeros(1)))
    if found:
        figures = torch.cat([part.to(found[0].device) for part in found]).tolist()
        counts |= dict(zip(itertools.chain(*kinds.values()), figures, strict=True))
    return counts


def diagnose(
    stale: tuple[str, ...],
    moved: set[str],
    cached_tokens: int,
    gap: float,
    noise_floor: float,
    fitting_temperature: float | None,
    temperature: float,
) -> str | None:
    """Return what is wrong in words, or None: the tensors first, then the cache, then what the logprobs tell.

    Args:
        stale: tensors of the engine that are not the trainer's.
        moved: tensors of the trainer that changed since the sync before, `lm_head.weight` among them where it is tied.
        cached_tokens: tokens that the prefix cache still knew right after the sync.
        gap: median |difference of logprobs| in nats.
        noise_floor: that gap at equal weights.
        fitting_temperature: the temperature at which the trainer would agree with the engine, if there is one.
        temperature: the loop's.
    """
    if stale and moved and set(stale) >= moved:
        return "no sync: every tensor that the trainer changed is still the old one in the engine"
    if stale == ("lm_head.weight",):
        return (
            "stale lm_head: the output matrix is the old one, because it shares the embedding's weight and has no entry of its"
            " own in the stream; pack it again after the reload"
        )
    if stale:
        named = ", ".join(stale[:3]) + (f" and {len(stale) - 3} more" if len(stale) > 3 else "")
        return f"missing tensor: {named} did not arrive in the engine"
    if cached_tokens:
        return (
            f"stale prefix cache: {cached_tokens} tokens still have the keys and values of the old weights there, for whatever"
            " prompt begins with them; reset the prefix cache after the reload"
        )
    if gap <= TOLERANCE * noise_floor:
        return None
    if fitting_temperature is not None:
        return (
            f"wrong temperature: the engine's logprobs are those of temperature {fitting_temperature:g}, and the trainer"
            f" computes them at {temperature:g}; use logprobs_mode='processed_logprobs' and one temperature for both"
        )
    return f"logprobs disagree by {gap:.4f} nats, over {TOLERANCE:g} times the noise floor, although weights and cache are right"
