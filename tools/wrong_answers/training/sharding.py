# ruff: noqa: D101, D102  (what each gets wrong stands in its decorator)
"""An optimizer in slices."""

import torch
from torch.nn import functional as F  # noqa: N812  its name everywhere

from wrong_answers import wrong


class _Sharded:
    """The solution, in pieces that a wrong answer replaces."""

    def __init__(self, weights, comm, lr):
        self.comm, self.numel, self.lr = comm, len(weights), lr
        self.master = torch.nn.Parameter(self.slice_of(weights))
        self.adam = torch.optim.AdamW([self.master], lr=lr)

    def padded(self, flat):
        return F.pad(flat, (0, -len(flat) % self.comm.size))

    def slice_of(self, flat):
        return self.padded(flat).chunk(self.comm.size)[self.comm.rank].float()

    def mine(self, gradient):
        return self.comm.reduce_scatter(self.padded(gradient)).float()

    def gathered(self):
        return self.comm.all_gather(self.master.detach().bfloat16())[: self.numel]

    def step(self, gradient):
        self.master.grad = self.mine(gradient)
        self.adam.step()
        return self.gathered()


@wrong("06.partition", "shards-nothing", "Every rank keeps and updates everything.")
class Everything(_Sharded):
    def slice_of(self, flat):
        return flat.float()

    def mine(self, gradient):
        return self.comm.all_reduce(gradient).float()

    def gathered(self):
        return self.master.detach().bfloat16()


@wrong("06.partition", "all-reduce", "Averages all of the gradient on every rank, and takes a slice of that.")
class AllReduce(_Sharded):
    def mine(self, gradient):
        return self.slice_of(self.comm.all_reduce(gradient))


@wrong("06.partition", "own-gradient", "Updates with its own gradient, and asks nobody.")
class OwnGradient(_Sharded):
    def mine(self, gradient):
        return self.slice_of(gradient)


@wrong("06.partition", "view-keeps-all", "Makes all weights fp32 and keeps a view of a slice.")
class View(_Sharded):
    def slice_of(self, flat):
        return self.padded(flat).float().chunk(self.comm.size)[self.comm.rank]


@wrong("06.partition", "gathers-fp32", "Gathers the fp32 master, and rounds on arrival.")
class GathersMaster(_Sharded):
    def gathered(self):
        return self.comm.all_gather(self.master.detach())[: self.numel].bfloat16()


@wrong("06.partition", "returns-the-padding", "Does not cut off the padding.")
class Padding(_Sharded):
    def gathered(self):
        return self.comm.all_gather(self.master.detach().bfloat16())


@wrong("06.partition", "crash", "Does not pad.")
class NoPadding(_Sharded):
    def padded(self, flat):
        return flat


@wrong("06.partition", "drops-the-rest", "Rounds the slices down, and leaves the last weights as they were.")
class DropsTheRest(_Sharded):
    def __init__(self, weights, comm, lr):
        self.rest = weights[len(weights) // comm.size * comm.size :].clone()
        super().__init__(weights, comm, lr)

    def padded(self, flat):
        return flat[: len(flat) // self.comm.size * self.comm.size]

    def gathered(self):
        return torch.cat([self.comm.all_gather(self.master.detach().bfloat16()), self.rest])


@wrong("06.partition", "forgets-the-moments", "Makes a new AdamW for each step.")
class NewAdam(_Sharded):
    def step(self, gradient):
        self.adam = torch.optim.AdamW([self.master], lr=self.lr)
        return super().step(gradient)


@wrong("06.partition", "strided-slices", "Takes every size-th weight for a slice, and joins the slices in a row.")
class Strided(_Sharded):
    def slice_of(self, flat):
        return self.padded(flat)[self.comm.rank :: self.comm.size].float()


@wrong("06.partition", "hang", "Lets rank 0 alone gather the weights.")
class FirstRankGathers(_Sharded):
    def gathered(self):
        return super().gathered() if self.comm.rank == 0 else self.master.detach().bfloat16()


@wrong("06.partition", "moments-not-sharded", "Keeps moments of all weights, and the master of its slice.")
class WholeMoments(_Sharded):
    def __init__(self, weights, comm, lr):
        super().__init__(weights, comm, lr)
        self.exp_avg, self.exp_avg_sq = torch.zeros(2, len(weights)).unbind()
        self.exp_avg, self.exp_avg_sq = self.exp_avg.clone(), self.exp_avg_sq.clone()
