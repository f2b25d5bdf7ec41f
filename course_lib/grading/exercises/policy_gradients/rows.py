"""Rows as a trainer holds them: a prompt, a response and padding, with logprobs everywhere and a mask of the response."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

_TENTH = 0.1


@dataclass(frozen=True)
class Row:
    """A sample: by how much each token's logprob grew, in tenths, and what the sample is worth.

    Attributes:
        prompt: tokens before the response. Their logprobs grew, too, and nobody is to look at them.
        changes: for each response token, new logprob minus old one, in tenths of a nat.
        advantage: of the sample.
    """

    prompt: int
    changes: tuple[int, ...]
    advantage: float = 1.0


@dataclass(frozen=True)
class Rows:
    """A batch of rows, padded at the end."""

    rows: tuple[Row, ...]

    @property
    def width(self) -> int:
        """The longest row's tokens."""
        return max(row.prompt + len(row.changes) for row in self.rows)

    @property
    def mask(self) -> Tensor:
        """True where a response token stands, `[rows, width]`."""
        places = torch.arange(self.width)
        start = torch.tensor([row.prompt for row in self.rows])[:, None]
        return (places >= start) & (places < start + torch.tensor([len(row.changes) for row in self.rows])[:, None])

    @property
    def old(self) -> Tensor:
        """The logprobs before, `[rows, width]`, no two alike."""
        count = len(self.rows) * self.width
        return -0.25 - 0.125 * ((torch.arange(count) * 7) % 31).view(len(self.rows), self.width)

    @property
    def change(self) -> Tensor:
        """New logprob minus old one, `[rows, width]`; outside the responses it is something, too."""
        grown = 0.35 - _TENTH * (torch.arange(len(self.rows) * self.width) % 3).view(len(self.rows), self.width)
        for number, row in enumerate(self.rows):
            grown[number, row.prompt : row.prompt + len(row.changes)] = _TENTH * torch.tensor(row.changes)
        return grown

    @property
    def advantages(self) -> Tensor:
        """Of each row, `[rows]`."""
        return torch.tensor([row.advantage for row in self.rows])

    def kinds(self) -> list[tuple[int, int, str]]:
        """Return row, place and what stands there, for every place in order."""
        return [
            (number, place, self._kind(row, place))
            for number, row in enumerate(self.rows)
            for place in range(self.width)
        ]

    def _kind(self, row: Row, place: int) -> str:
        if place < row.prompt:
            return "prompt"
        return "response" if place < row.prompt + len(row.changes) else "padding"

    def __str__(self) -> str:
        said = [f"{row.prompt} prompt and {len(row.changes)} response tokens" for row in self.rows]
        return f"{len(self.rows)} sample{'s' * (len(self.rows) > 1)} ({'; '.join(said)})"


def rows(
    prompt: st.SearchStrategy[int],
    changes: st.SearchStrategy[int],
    most: int = 3,
    advantages: Sequence[float] = (1.0, -1.0, 0.5, -2.0),
) -> st.SearchStrategy[tuple[Row, ...]]:
    """Draw up to `most` rows with 1 to 4 response tokens each."""
    one = st.builds(
        Row, prompt, st.lists(changes, min_size=1, max_size=4).map(tuple), st.sampled_from(list(advantages))
    )
    return st.lists(one, min_size=1, max_size=most).map(tuple)
