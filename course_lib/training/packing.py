"""A group's samples in one row: the prompt once, then every response that was sampled from it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import torch
from jaxtyping import Bool, Int
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Group:
    """One prompt and the responses sampled from it.

    Attributes:
        prompt_ids: token ids of the prompt, at least one.
        responses: token ids of each response; a response may be empty.
        samples: for each response its index in the whole batch, which finds its rewards and logprobs.
    """

    prompt_ids: list[int]
    responses: list[list[int]]
    samples: list[int]

    @property
    def length(self) -> int:
        """Tokens in the packed row."""
        return len(self.prompt_ids) + sum(map(len, self.responses))


@dataclass(frozen=True)
class PackedBatch:
    """A micro-batch of rows, each one prompt and the responses that share it.

    Eight samples of a 48-token prompt with 18 tokens each are 8 * 66 = 528 tokens as separate rows, and 48 + 8 * 18 = 192
    tokens as one. A response's tokens see the prompt and their own response, and count their positions from the
    prompt's end, so that each logprob is what the sample alone would give:

        row        p0 p1 p2 | a0 a1 | b0 b1 b2
        position    0  1  2 |  3  4 |  3  4  5
        b1 sees     x  x  x |       |  x  x

    Attributes:
        input_ids: token ids, padded on the right.
        position_ids: each token's position in its own sample.
        attention_mask: True where a query (second to last axis) may look at a key (last axis).
        predictors: for each response token the flat index (row * length + column) of the token that predicts it.
        targets: the response tokens themselves.
        samples: the sample that each response token belongs to.
        offsets: each response token's place in its response.
        ends: for each response the flat index of its last token; the prompt's last token where the response is empty.
    """

    input_ids: Int[Tensor, "rows length"]
    position_ids: Int[Tensor, "rows length"]
    attention_mask: Bool[Tensor, "rows 1 length length"]
    predictors: Int[Tensor, " tokens"]
    targets: Int[Tensor, " tokens"]
    samples: Int[Tensor, " tokens"]
    offsets: Int[Tensor, " tokens"]
    ends: Int[Tensor, " responses"]

    def to(self, device: torch.device | str) -> "PackedBatch":
        """Return the same batch on `device`."""
        moved = {name: value.to(device, non_blocking=True) for name, value in vars(self).items()}
        return replace(self, **moved)

    def __repr__(self) -> str:
        rows, length = self.input_ids.shape
        return f"PackedBatch({rows} rows of {length}, {len(self.targets)} response tokens)"


def pack(groups: Sequence[Group], pad_id: int = 0, device: torch.device | str = "cpu") -> PackedBatch:
    """Pack groups into one micro-batch on `device`, a row each.

    Raises:
        ValueError: there is no group, or a prompt is empty (nothing would predict the first response token).
    """
    if not groups:
        raise ValueError("pack() got no groups; give at least one.")
    length = max(group.length for group in groups)
    pieces: list[list[int]] = []  # prompts and responses
    about: list[tuple[int, ...]] = []  # of each: row, number in it, first column, first position, sample, tokens
    for row, group in enumerate(groups):
        prompt = column = len(group.prompt_ids)
        if prompt == 0:
            raise ValueError(f"the prompt of samples {group.samples} is empty; a prompt needs at least one token.")
        pieces.append(group.prompt_ids)
        about.append((row, _PROMPT, 0, 0, -1, prompt))
        for number, (sample, response) in enumerate(zip(group.samples, group.responses, strict=True), _PROMPT + 1):
            pieces.append(response)
            about.append((row, number, column, prompt, sample, len(response)))
            column += len(response)

    # From here on whole arrays: a GPU would wait for a loop over tokens. Places are flat indices.
    rows, numbers, columns, positions, samples, sizes = np.array(about).T
    first, prompt_end = rows * length + columns, rows * length + positions - 1
    tokens = np.fromiter(chain.from_iterable(pieces), np.int64, int(sizes.sum()))
    offsets = np.arange(len(tokens)) - (sizes.cumsum() - sizes).repeat(sizes)
    places = first.repeat(sizes) + offsets
    table = np.repeat([[pad_id], [0], [_PADDING]], len(groups) * length, axis=1)
    table[:, places] = tokens, positions.repeat(sizes) + offsets, numbers.repeat(sizes)
    # The prompt's last token predicts the first token of every response; after that each token predicts the next.
    predictors = np.where(offsets == 0, prompt_end.repeat(sizes), places - 1)
    of_tokens = np.stack([predictors, tokens, samples.repeat(sizes), offsets])[:, numbers.repeat(sizes) != _PROMPT]
    ends = np.where(sizes > 0, first + sizes - 1, prompt_end)[numbers != _PROMPT]

    grid, *rest = _on(device, table.reshape(3, len(groups), length), *of_tokens, ends)
    # The mask is the largest of them, by length: made where it is needed, from what is small.
    return PackedBatch(grid[0], grid[1], _attention_mask(grid[2]).unsqueeze(1), *rest)


def _on(device: torch.device | str, *arrays: NDArray[np.int64]) -> list[Tensor]:
    """Return arrays as tensors on a device, in one copy for which the host does not wait."""
    flat = torch.from_numpy(np.concatenate([array.ravel() for array in arrays]))
    if torch.device(device).type == "cuda":
        flat = flat.pin_memory()  # from other memory CUDA copies only when all that was launched before is done
    parts = flat.to(device, non_blocking=True).split([array.size for array in arrays])
    return [part.view(array.shape) for part, array in zip(parts, arrays, strict=True)]


_PADDING, _PROMPT = -1, 0  # parts of a row; its responses have the numbers from 1


def _attention_mask(parts: Int[Tensor, "rows length"]) -> Bool[Tensor, "rows length length"]:
    """Return which keys each query sees: the prompt and its own response, up to itself."""
    queries, keys = parts[:, :, None], parts[:, None, :]
    seen = queries == keys
    seen |= keys == _PROMPT
    seen &= torch.ones(seen.shape[1:], dtype=torch.bool, device=parts.device).tril()
    seen &= queries != _PADDING
    # Padding sees itself alone: a query that sees nothing would be 0/0 in the softmax.
    seen.diagonal(dim1=1, dim2=2).fill_(True)
    return seen


def micro_batches(groups: Sequence[Group], max_tokens: int, whole: bool = False) -> Iterator[list[Group]]:
    """Cut groups into micro-batches of at most `max_tokens` tokens, padding counted.

    Groups of like length come together, so that little is padding. A group that alone is over the limit is cut into
    several that repeat the prompt, unless groups are to stay `whole`; a single response or a whole group over the limit
    still comes, in a micro-batch of its own.
    """
    pieces = list(groups) if whole else [piece for group in groups for piece in _cut(group, max_tokens)]
    pieces.sort(key=lambda group: group.length, reverse=True)
    batch: list[Group] = []
    for piece in pieces:
        if batch and batch[0].length * (len(batch) + 1) > max_tokens:
            yield batch
            batch = []
        batch.append(piece)
    if batch:
        yield batch


def _cut(group: Group, max_tokens: int) -> Iterator[Group]:
    responses: list[list[int]] = []
    samples: list[int] = []
    length = len(group.prompt_ids)
    for response, sample in zip(group.responses, group.samples, strict=True):
        if responses and length + len(response) > max_tokens:
            yield Group(group.prompt_ids, responses, samples)
            responses, samples, length = [], [], len(group.prompt_ids)
        responses.append(response)
        samples.append(sample)
        length += len(response)
    if responses:
        yield Group(group.prompt_ids, responses, samples)
