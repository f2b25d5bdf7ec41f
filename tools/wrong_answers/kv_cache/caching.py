"""Wrong answers to 01.cache."""

# The mistakes are the content here: unused arguments, magic numbers and missing docstrings are what people write.
# ruff: noqa: D101, D102, ARG002

import torch

from wrong_answers import wrong


class _Right:
    """A right cache, to be spoiled."""

    def __init__(self, capacity, kv_heads, head_dim):
        self.keys = torch.zeros(capacity, kv_heads, head_dim)
        self.values = torch.zeros(capacity, kv_heads, head_dim)
        self.length = 0

    def append(self, k, v):
        end = self.length + len(k)
        if end > len(self.keys):
            raise ValueError("full")
        self.keys[self.length : end] = k
        self.values[self.length : end] = v
        self.length = end
        return self.keys[:end], self.values[:end]


@wrong("01.cache", "overwrites", "Writes every append from slot 0 on.")
class Overwrites(_Right):
    def append(self, k, v):
        if self.length + len(k) > len(self.keys):
            raise ValueError("full")
        self.keys[: len(k)], self.values[: len(k)] = k, v
        self.length += len(k)
        return self.keys[: self.length], self.values[: self.length]


@wrong("01.cache", "returns-new-only", "Returns what was appended, not what is stored.")
class ReturnsNewOnly(_Right):
    def append(self, k, v):
        super().append(k, v)
        return k, v


@wrong("01.cache", "returns-empty-slots", "Returns the whole memory.")
class ReturnsAllSlots(_Right):
    def append(self, k, v):
        super().append(k, v)
        return self.keys, self.values


@wrong("01.cache", "keys-for-values", "Stores the keys twice and the values never.")
class ForgetsValues(_Right):
    def append(self, k, v):
        return super().append(k, k)


@wrong("01.cache", "grows-by-copy", "Joins old and new with torch.cat at each step.")
class Grows(_Right):
    def append(self, k, v):
        if self.length + len(k) > len(self.keys):
            raise ValueError("full")
        old = self.length
        self.length += len(k)
        spare = torch.zeros(len(self.keys) - self.length, *k.shape[1:])
        self.keys = torch.cat([self.keys[:old], k, spare])
        self.values = torch.cat([self.values[:old], v, spare])
        return self.keys[: self.length], self.values[: self.length]


@wrong("01.cache", "keeps-the-callers-tensor", "Keeps the first tensors that it is given and never copies them.")
class KeepsReference:
    def __init__(self, capacity, kv_heads, head_dim):
        self.capacity, self.length, self.keys, self.values = capacity, 0, None, None

    def append(self, k, v):
        if self.length + len(k) > self.capacity:
            raise ValueError("full")
        self.keys = k if self.keys is None else torch.cat([self.keys, k])
        self.values = v if self.values is None else torch.cat([self.values, v])
        self.length += len(k)
        return self.keys, self.values


@wrong("01.cache", "refuses-the-last-slot", "Compares with >= and never fills the last slot.")
class LastSlotEmpty(_Right):
    def append(self, k, v):
        if self.length + len(k) >= len(self.keys):
            raise ValueError("full")
        return super().append(k, v)


@wrong("01.cache", "takes-too-much", "Stores what fits and drops the rest in silence.")
class DropsTheRest(_Right):
    def append(self, k, v):
        fits = len(self.keys) - self.length
        return super().append(k[:fits], v[:fits])


@wrong(
    "01.cache",
    "wrong-error",
    "Writes token by token, and lets PyTorch complain about the index where the cache is full.",
)
class IndexErrors(_Right):
    def append(self, k, v):
        for key, value in zip(k, v, strict=True):
            self.keys[self.length], self.values[self.length] = key, value
            self.length += 1
        return self.keys[: self.length], self.values[: self.length]


@wrong("01.cache", "changed-when-full", "Counts the new tokens before it looks whether they fit.")
class CountsFirst(_Right):
    def append(self, k, v):
        self.length += len(k)
        if self.length > len(self.keys):
            raise ValueError("full")
        self.length -= len(k)
        return super().append(k, v)
