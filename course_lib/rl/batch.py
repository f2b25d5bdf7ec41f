"""One step's samples: what was asked, what came back, what it was worth."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from course_lib.rl.problem import Problem
from course_lib.rl.rewards import RewardFault
from course_lib.rl.rollout import Rollout
from course_lib.rl.rollout_batch import ragged
from course_lib.rl.rows import join_rows, take_rows
from course_lib.training import Group, PackedBatch


@dataclass
class Batch:
    """The samples of one step, in the rollout's order: sample k of prompt p is row p * samples_per_prompt + k.

    Attributes:
        problems: of each sample.
        completions: the text of each sample, without special tokens.
        rollout: token ids and the sampler's logprobs.
        rewards: of each sample; 0 until they are judged. A sample whose reward failed has the mean of its group.
        advantages: of each sample, or with a critic of each response token, in the columns of `rollout.logprobs`.
        samples_per_prompt: how many samples share a prompt.
        reward_parts: of each sample, where the reward says what it is made of.
        faults: samples whose reward failed.
        old_logprobs: the trainer's, under the weights that the samples were drawn with; None where there is one update a
            batch, in which they are the logprobs of that update.
        reference_logprobs: the reference policy's; None where there is none.
        values: the critic's, of the state before each response token; None where there is none.
        returns: what the critic is trained towards.
    """

    problems: Sequence[Problem]
    completions: Sequence[str]
    rollout: Rollout
    rewards: Float[Tensor, " samples"]
    advantages: Float[Tensor, " samples"] | Float[Tensor, "samples longest"]
    samples_per_prompt: int
    reward_parts: dict[str, Float[Tensor, " samples"]] = field(default_factory=dict)
    faults: list[RewardFault] = field(default_factory=list)
    old_logprobs: Float[Tensor, "samples longest"] | None = None
    reference_logprobs: Float[Tensor, "samples longest"] | None = None
    values: Float[Tensor, "samples longest"] | None = None
    returns: Float[Tensor, "samples longest"] | None = None
    trained: "TrainedTokens" = field(init=False)

    def __post_init__(self) -> None:
        self.trained = TrainedTokens(self.rollout.logprobs.shape)

    @property
    def tokens(self) -> int:
        """Response tokens of the whole batch: what a token-level mean divides by."""
        return int(self.rollout.response_lengths.sum())

    def groups(self) -> list[Group]:
        """Return the prompts with their samples, as the trainer takes them."""
        prompts, responses, n = self.rollout.prompts(), self.rollout.responses(), self.samples_per_prompt
        starts = range(0, len(prompts), n)
        return [Group(prompts[start], responses[start : start + n], list(range(start, start + n))) for start in starts]

    def signal(self) -> list[int]:
        """Return the numbers of the groups that have a sample with an advantage; the others' gradient is exactly zero."""
        by_group = self.advantages.view(len(self.problems) // self.samples_per_prompt, -1)
        return by_group.any(dim=1).nonzero().flatten().tolist()

    def with_signal(self, groups: Sequence[Group]) -> list[Group]:
        """Return the groups that have a sample with an advantage."""
        has = self.advantages.view(len(self.problems), -1).any(dim=1).tolist()
        return [group for group in groups if any(has[sample] for sample in group.samples)]

    def take(self, groups: Iterable[int]) -> "Batch":
        """Return the batch of some groups, by their numbers; what the trainer saw is not taken along."""
        n = self.samples_per_prompt
        rows = [row for group in groups for row in range(group * n, (group + 1) * n)]
        place = {row: at for at, row in enumerate(rows)}
        return Batch(
            [self.problems[row] for row in rows],
            [self.completions[row] for row in rows],
            take_rows(self.rollout, rows),
            self.rewards[rows],
            self.advantages[rows],
            n,
            {name: values[rows] for name, values in self.reward_parts.items()},
            [fault.moved(place[fault.index]) for fault in self.faults if fault.index in place],
        )

    @classmethod
    def join(cls, parts: Sequence["Batch"]) -> "Batch":
        """Return several judged batches as one, in their order; their advantages are one number a sample."""
        starts = [sum(len(part.problems) for part in parts[:index]) for index in range(len(parts))]
        names = parts[0].reward_parts
        return cls(
            [problem for part in parts for problem in part.problems],
            [text for part in parts for text in part.completions],
            join_rows([part.rollout for part in parts]),
            torch.cat([part.rewards for part in parts]),
            torch.cat([part.advantages for part in parts]),
            parts[0].samples_per_prompt,
            {name: torch.cat([part.reward_parts[name] for part in parts]) for name in names},
            [
                fault.moved(start + fault.index)
                for start, part in zip(starts, parts, strict=True)
                for fault in part.faults
            ],
        )

    def padded(self, values: dict[int, Tensor]) -> Float[Tensor, "samples longest"]:
        """Return `{sample: values of its tokens}` in the columns of `rollout.logprobs`, 0 after the response's end."""
        table = torch.zeros_like(self.rollout.logprobs)
        for sample, row in values.items():
            table[sample, : len(row)] = row
        return table

    def table(self, decode: Any = None) -> list[dict[str, Any]]:
        """Return a JSON-ready row a sample: question, answer, completion, reward and its parts, advantage, and its tokens.

        Args:
            decode: the text of a list of token ids; with it each row gets `tokens`: `text`, `sampled`, `old` and `trained`
                logprobs, `clipped`, `truncated` and `masked`, of each response token. What the trainer did not see is empty.
        """
        by_token = self.advantages.dim() == 2
        means = self.advantages.sum(dim=1) / self.rollout.response_lengths if by_token else self.advantages
        parts = {name: values.tolist() for name, values in self.reward_parts.items()}
        rows: list[dict[str, Any]] = []
        for row, values in enumerate(
            zip(self.problems, self.completions, self.rewards.tolist(), means.tolist(), strict=True)
        ):
            problem, text, reward, advantage = values
            entry = {key: value for key, value in vars(problem).items() if key != "metadata"}
            entry |= {"completion": text, "reward": reward, "advantage": advantage}
            if parts:
                entry["parts"] = {name: part[row] for name, part in parts.items()}
            rows.append(entry)
        if decode is not None:
            for entry, tokens in zip(rows, self._tokens(decode), strict=True):
                entry["tokens"] = tokens
        return rows

    def _tokens(self, decode: Callable[[list[int]], str]) -> Iterator[dict[str, Any]]:
        """Yield what `table` says of each sample's tokens."""
        responses, mask = self.rollout.responses(), self.rollout.response_mask
        # A step has thousands of tokens, and few that differ.
        text = {token: decode([token]) for token in {token for response in responses for token in response}}
        trained = ragged(_rounded(self.trained["logprobs"]), mask)
        columns = {
            "sampled": ragged(_rounded(self.rollout.logprobs), mask),
            "old": trained if self.old_logprobs is None else ragged(_rounded(self.old_logprobs), mask),
            "trained": trained,
        }
        columns |= {name: ragged(self.trained[name].int(), mask) for name in ("clipped", "truncated", "masked")}
        if self.advantages.dim() == 2:
            columns["advantage"] = ragged(_rounded(self.advantages), mask)
        for row, (response, seen) in enumerate(zip(responses, self.trained["seen"].any(dim=1).tolist(), strict=True)):
            wanted = columns if seen else ("sampled", "advantage")
            tokens: dict[str, Any] = {"text": [text[token] for token in response]}
            yield tokens | {name: values[row] if name in wanted else [] for name, values in columns.items()}


def _rounded(table: Tensor) -> Tensor:
    """Return an fp32 table to four decimals, as Python's `round` gives them: its values times 10,000 are exact in fp64."""
    return (table.double() * 10_000).round() / 10_000


class TrainedTokens:
    """What the trainer saw of each response token: filled in as the micro-batches pass, read once for the metrics."""

    NAMES = ("logprobs", "entropy", "clipped", "truncated", "masked", "seen")

    def __init__(self, shape: torch.Size):
        self._tables = {name: torch.zeros(shape) for name in self.NAMES}
        self._recorded: list[tuple[Tensor, Tensor, list[str], Tensor]] = []

    def record(self, packed: PackedBatch, **values: Tensor) -> None:
        """Store a value for each token of a micro-batch."""
        # They stay on the device until somebody reads a table: a copy to the host here would wait for the forward pass, and
        # the GPU then for the launches of the backward pass.
        columns = torch.stack([value.detach().float() for value in values.values()])
        self._recorded.append((packed.samples, packed.offsets, list(values), columns))

    def clear(self) -> None:
        """Forget everything: ranks add their tables up, so each starts an update from zero."""
        self._recorded = []
        for table in self._tables.values():
            table.zero_()

    def __getitem__(self, name: str) -> Tensor:
        return self._read()[name]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._read().values())

    def _read(self) -> dict[str, Tensor]:
        for samples, offsets, names, columns in self._recorded:
            place = (samples.cpu(), offsets.cpu())
            for name, column in zip(names, columns.cpu(), strict=True):
                self._tables[name][place] = column
            self._tables["seen"][place] = 1.0
        self._recorded = []
        return self._tables


def by_token(
    table: Float[Tensor, "samples longest"] | Float[Tensor, " samples"], packed: PackedBatch
) -> Float[Tensor, " tokens"]:
    """Return the entries of a per-sample (or per-token) table that belong to a micro-batch's tokens, on its device."""
    table = table.to(packed.targets.device)
    return table[packed.samples] if table.dim() == 1 else table[packed.samples, packed.offsets]
