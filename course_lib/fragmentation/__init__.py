"""Contiguous allocation of KV memory, and its waste.

Requests (`workload`) come to a server that batches at every iteration (`simulation.serve`), in front of a KV memory. The memory
is behind a small protocol (`memory.Memory`: `admit`, `grow`, `release`, `waste`), so the same server, workload and accounting
serve a memory that is cut up otherwise. The contiguous one (`memory.Reservations`) asks an allocator (`allocators`) for one run
of slots a request; `simulation.simulate` puts these together. `paper` holds the figures that this reproduces.
"""

from course_lib.fragmentation.allocators import BestFit, Buddy, FirstFit
from course_lib.fragmentation.batching import iteration_level, static_batches
from course_lib.fragmentation.compaction import carry_out, copy_cost
from course_lib.fragmentation.history import History
from course_lib.fragmentation.memory import (
    Memory,
    Reservations,
    Waste,
    reserve_exact,
    reserve_max,
    reserve_nothing,
    reserve_pow2,
)
from course_lib.fragmentation.simulation import Simulation, StepTime, serve, simulate
from course_lib.fragmentation.workload import Request, poisson_requests, sharegpt, uniform

__all__ = [
    "BestFit",
    "Buddy",
    "FirstFit",
    "History",
    "Memory",
    "Request",
    "Reservations",
    "Simulation",
    "StepTime",
    "Waste",
    "carry_out",
    "copy_cost",
    "iteration_level",
    "poisson_requests",
    "reserve_exact",
    "reserve_max",
    "reserve_nothing",
    "reserve_pow2",
    "serve",
    "sharegpt",
    "simulate",
    "static_batches",
    "uniform",
]
