"""Figures 2 and 13a of the PagedAttention paper (Kwon et al., SOSP 2023), as far as they need no paging.

OPT-13B on one A100-40G: 12 GiB are left for keys and values, 800 KiB a token, so 15,728 slots. Requests come at 2 a second
with ShareGPT's lengths, faster than any of the three Orcas serves them. So a queue always stands at the door, memory alone
decides who is in the batch, and how long a step takes cancels out.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from course_lib.fragmentation.allocators import Buddy
from course_lib.fragmentation.contiguous import Allocator
from course_lib.fragmentation.memory import Reserve, Waste, reserve_exact, reserve_max, reserve_pow2
from course_lib.fragmentation.simulation import Simulation, Step, StepTime, simulate
from course_lib.fragmentation.workload import LIMIT, Lengths, poisson_requests, sharegpt

KV_BYTES_PER_TOKEN = 2 * 40 * 5120 * 2
"""OPT-13B: keys and values, 40 layers, 5120 numbers, 2 bytes each."""
KV_SLOTS = 12 * 2**30 // KV_BYTES_PER_TOKEN
RATE = 2.0
WARMUP = 100.0
"""Seconds until the queue stands at the door; the first requests find an empty memory."""
ENGINE = StepTime().slower(1.7)
"""The paper's engine, by its own numbers: 30.42 requests in flight at 2 a second are 15.2 s a request (Little's law), 45 ms for
each of its 338 tokens; the roofline of such a step is 26 ms."""


@dataclass(frozen=True)
class Row:
    """What the paper reports of one system.

    Attributes:
        waste: its bar in Figure 2.
        batch: its mean number of batched requests in Figure 13a.
        reserve: how it reserves.
    """

    waste: Waste
    batch: float
    reserve: Reserve


ORCA = {
    "Orca (Max)": Row(Waste(0.204, 0.133, 0.573, 0.089), 7.00, reserve_max),
    "Orca (Pow2)": Row(Waste(0.268, 0.179, 0.136, 0.416), 9.81, reserve_pow2),
    "Orca (Oracle)": Row(Waste(0.382, 0.252, 0.0, 0.366), 13.62, reserve_exact),
}
"""The paper's bars, read off its figures; it prints them in percent with one digit after the point."""


def orca(
    reserve: Reserve,
    *,
    allocator: Allocator | None = None,
    step_time: Callable[[Step], float] = ENGINE,
    count: int = 7200,
    rate: float = RATE,
    seed: int = 0,
    max_snapshots: int = 0,
) -> Simulation:
    """Serve the paper's workload from contiguous memory.

    Args:
        reserve: how many slots a request gets.
        allocator: gives out the memory; the paper's buddy allocator where none is given.
        step_time: an iteration's seconds. As long as the queue never empties it does not matter.
        count: how many requests come, an hour's as in the paper. The simulation ends when the last one has come.
        rate: how many come a second.
        seed: of the workload.
        max_snapshots: how many events to keep the memory's state of.
    """
    requests = poisson_requests(rate, count, sharegpt(), seed)
    return simulate(
        requests,
        allocator or Buddy(KV_SLOTS),
        reserve,
        step_time=step_time,
        warmup=WARMUP,
        until=requests[-1].arrival,
        max_snapshots=max_snapshots,
    )


def orca_max_closed_form(lengths: Lengths, slots: int = KV_SLOTS, limit: int = LIMIT, seed: int = 0) -> Waste:
    """Return Orca (Max)'s waste without a simulation, from the lengths' moments.

    `slots // limit` requests fit. A request that makes o tokens is in the batch for o steps, so the batch shows long ones
    more often: the output of a request in it has mean E[o^2] / E[o], not E[o]. Seen at a random one of its steps, half of
    that is there and half is to come. Its prompt is all there: E[i o] / E[o] tokens.

    Args:
        lengths: where requests' lengths come from.
        slots: of the memory.
        limit: what is reserved for each request.
        seed: of the lengths that the moments are taken of.
    """
    prompt, output = lengths.draw(np.random.default_rng(seed), 200_000).T.astype(float)
    prompt_mean = float((prompt * output).mean() / output.mean())
    output_mean = float((output**2).mean() / output.mean())
    batch = slots // limit
    used, reserved = batch * (prompt_mean + output_mean / 2) / slots, batch * output_mean / 2 / slots
    return Waste(used, reserved, batch * limit / slots - used - reserved, 1 - batch * limit / slots)
