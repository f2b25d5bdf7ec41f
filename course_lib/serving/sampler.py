"""From logits to tokens, for a whole batch at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from course_lib.serving.outputs import Logprob
from course_lib.serving.sampling_params import SamplingParams

LogprobsMode = Literal["raw_logprobs", "processed_logprobs"]
CANDIDATES = 1024
"""So many of the most likely tokens are sorted first, for top-p and min-p; all of them only where these were not enough."""


@dataclass(frozen=True)
class SamplingRow:
    """How a row of logits becomes a token.

    Attributes:
        params: the request's.
        generator: the request's own chance, where it has a seed.
        forbidden: tokens that may not come now: those that stop, before `min_tokens`.
    """

    params: SamplingParams
    generator: torch.Generator | None = None
    forbidden: Sequence[int] = ()


class Sampled(NamedTuple):
    """A sampled token, and what was asked about it: for each of some tokens, itself first, its logprob."""

    token: int
    logprobs: dict[int, Logprob] | None = None


class Draw:
    """Tokens that are being sampled: on the device at once, on the host when somebody asks.

    Args:
        tokens: the tokens, on the device.
        reports: what was asked about them, by row; called when the tokens are wanted on the host.
    """

    def __init__(self, tokens: Int[Tensor, " rows"], reports: Callable[[], dict[int, dict[int, Logprob]]]):
        self.tokens, self._reports = tokens, reports
        self._host, self._copied = tokens, None
        if tokens.is_cuda:
            self._host = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
            self._host.copy_(tokens, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()

    def result(self) -> list[Sampled]:
        """Wait for the tokens, and return them. The device goes on with what was launched after them."""
        if self._copied is not None:
            self._copied.synchronize()
        reports = self._reports()
        if not reports:
            return [Sampled(token) for token in self._host.tolist()]
        return [Sampled(token, reports.get(row)) for row, token in enumerate(self._host.tolist())]


class Sampler:
    """Temperature, min-p, top-k and top-p in vLLM's order, then one draw.

    The draw is a race: token i arrives after a time that is exponentially distributed with rate p_i, and the first one wins,
    which is token i with probability p_i. It takes one comparison for a batch on any device. And it is steady: where another
    batch composition changes the last bits of p, the same noise gives the same token, but for near ties. (Drawing from the
    cumulative distribution is not: there a change of one probability moves all tokens after it.)

    Args:
        seed: for rows without a seed of their own.
        device: where the logits are.
        logprobs_mode: logprobs of the model as it is (`raw_logprobs`), or of what was sampled from (`processed_logprobs`).
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu", logprobs_mode: LogprobsMode = "raw_logprobs"):
        if logprobs_mode not in ("raw_logprobs", "processed_logprobs"):
            raise ValueError(f"logprobs_mode is {logprobs_mode!r}; expected 'raw_logprobs' or 'processed_logprobs'")
        self.device, self.logprobs_mode = device, logprobs_mode
        self.generator = self.make_generator(seed)

    def make_generator(self, seed: int) -> torch.Generator:
        """Return a source of chance on the logits' device."""
        return torch.Generator(self.device).manual_seed(seed)

    def __call__(self, logits: Float[Tensor, "rows vocab"], rows: Sequence[SamplingRow]) -> list[Sampled]:
        """Choose a token for each row of logits."""
        if not rows:
            return []
        return self.launch(logits, rows, torch.zeros(len(rows), dtype=torch.int32, device=logits.device)).result()

    @torch.inference_mode()
    def launch(
        self,
        logits: Float[Tensor, "rows vocab"],
        rows: Sequence[SamplingRow],
        positions: Int[Tensor, " rows"],  # noqa: ARG002  for those that draw by position
    ) -> Draw:
        """Begin to choose a token for each row of logits, at least one.

        Args:
            logits: where the sampler is; free to be overwritten by what is launched next.
            rows: how each becomes a token.
            positions: of the tokens that the logits come from, each in its own sequence.
        """
        logits = logits.float()
        raw = logits
        if any(row.forbidden for row in rows):
            logits = logits.clone()
            for index, row in enumerate(rows):
                logits[index, list(row.forbidden)] = -torch.inf
        random = [index for index, row in enumerate(rows) if not row.params.greedy]
        processed = self._process(logits, rows) if random else logits
        tokens = processed.argmax(-1)
        if random:
            tokens[random] = self._race(processed[random], [rows[index].generator for index in random])
        wanted = [index for index, row in enumerate(rows) if row.params.logprobs is not None]
        source = raw if self.logprobs_mode == "raw_logprobs" else processed
        reports = self._logprobs(source, tokens, rows, wanted) if wanted else {}
        return Draw(tokens, lambda: reports)

    def _process(self, logits: Tensor, rows: Sequence[SamplingRow]) -> Float[Tensor, "rows vocab"]:
        """Divide by the temperatures, and take out what may not be sampled. Greedy rows stay as they are."""
        params = [row.params for row in rows]
        logits = logits / self._column([1.0 if p.greedy else p.temperature for p in params])
        cut = [i for i, p in enumerate(params) if not p.greedy and (p.top_k > 0 or p.top_p < 1 or p.min_p > 0)]
        if cut:
            lowest = smallest_kept(
                logits[cut],
                self._column([params[i].top_k if params[i].top_k > 0 else logits.shape[1] for i in cut]),
                self._column([params[i].top_p for i in cut]),
                self._column([params[i].min_p for i in cut]),
            )
            logits[cut] = logits[cut].masked_fill(logits[cut] < lowest, -torch.inf)
        return logits

    def _race(self, logits: Tensor, generators: Sequence[torch.Generator | None]) -> Int[Tensor, " rows"]:
        """Draw a token for each row, by its own chance where it has one."""
        chance = torch.empty_like(logits)
        shared = [index for index, generator in enumerate(generators) if generator is None]
        if shared:
            chance[shared] = torch.rand((len(shared), logits.shape[1]), device=logits.device, generator=self.generator)
        for row, generator in zip(chance, generators, strict=True):
            if generator is not None:
                row.uniform_(generator=generator)
        # An exponential time is minus the logarithm of a uniform number. That can be 0: an infinite time, which never wins.
        return logits.softmax(-1).div_(chance.log_().neg_()).argmax(-1)

    def _logprobs(
        self, logits: Tensor, tokens: Tensor, rows: Sequence[SamplingRow], wanted: Sequence[int]
    ) -> dict[int, dict[int, Logprob]]:
        """Return for the rows in `wanted` the logprobs of the sampled token and of the most likely ones."""
        logprobs = logits[wanted].log_softmax(-1)
        chosen = logprobs.gather(1, tokens[wanted, None])
        ranks = (logprobs >= chosen).sum(-1).tolist()
        counts = [rows[index].params.logprobs or 0 for index in wanted]
        best, ids = logprobs.topk(max(counts), dim=-1)
        reports = {}
        for row, (index, count) in enumerate(zip(wanted, counts, strict=True)):
            entries = {int(tokens[index]): Logprob(float(chosen[row]), ranks[row])}
            top = zip(ids[row, :count].tolist(), best[row, :count].tolist(), strict=True)
            for rank, (token, logprob) in enumerate(top, 1):
                entries.setdefault(token, Logprob(logprob, rank))
            reports[index] = entries
        return reports

    def _column(self, values: Sequence[float]) -> Float[Tensor, "rows 1"]:
        return torch.tensor(values, dtype=torch.float32, device=self.device)[:, None]

    def __repr__(self) -> str:
        return f"Sampler({self.logprobs_mode}, on {self.device})"


def smallest_kept(
    logits: Float[Tensor, "rows vocab"],
    top_k: Float[Tensor, "rows 1"],
    top_p: Float[Tensor, "rows 1"],
    min_p: Float[Tensor, "rows 1"],
) -> Float[Tensor, "rows 1"]:
    """Return the smallest logit of each row that min-p, top-k and top-p leave, applied in this order.

    Each of them keeps the most likely tokens up to some place in their order, so all that is looked for is that place. To
    find it, the tokens that can matter are sorted, which are few as a rule: sorting a vocabulary costs more than the model's
    last layer.
    """
    vocab = logits.shape[1]
    top_k = top_k.clamp(max=vocab)
    total = logits.logsumexp(-1, keepdim=True)
    count = min(vocab, int(top_k.clamp(max=CANDIDATES).max()))
    while True:
        best = logits.topk(count, dim=-1).values
        probs = (best - total).exp()
        kept = (torch.arange(count, device=logits.device) < top_k) & (probs >= min_p * probs[:, :1])
        # What is left so far is a distribution again, and top-p takes its share of that. Its mass is known where all of it was
        # sorted, or where it is all tokens.
        sorted_all = ~kept[:, -1:] | (top_k <= count)
        everything = (top_k >= vocab) & (min_p <= 0)
        mass = torch.where(sorted_all, (probs * kept).sum(-1, keepdim=True), 1.0)
        more_likely = probs.cumsum(-1) - probs
        kept &= (more_likely < top_p * mass) | (top_p >= 1)
        if bool((sorted_all | (everything & ~kept[:, -1:])).all()):
            return best.gather(1, kept.sum(-1, keepdim=True) - 1)
        count = vocab
