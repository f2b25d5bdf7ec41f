"""The Triton kernel's time beside its floor: the bytes it has to read, over the memory's bandwidth.

`python -m course_lib.paged_attention.benchmark --out FILE` measures this machine's GPU; `--tune` looks for better launches;
`--small` runs tiny shapes anywhere. `recorded()` is the measurement that the course carries.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.bias import causal_lower_right
from triton.runtime.errors import OutOfResources

from course_lib.kv_cache.cost import listed_hardware
from course_lib.machine.record import RESULTS, provenance, read_record
from course_lib.paged_attention.attention import paged_attention
from course_lib.paged_attention.benchmark_shapes import SHAPES, SMALL, BatchShape
from course_lib.paged_attention.triton_attention import triton_paged_attention
from course_lib.paged_attention.triton_launch import Launch
from course_lib.paged_attention.triton_naive import naive_paged_attention

RECORD = RESULTS / "paged_attention_h200.json"
TOLERANCE = {torch.bfloat16: 2e-2, torch.float32: 1e-4}
"""Largest difference from the fp32 reference: bf16 keeps 8 bits of a result of about 1, and of each weight."""


def seconds(function: Callable[[], Any], device: str) -> float:
    """Return the median time of a call, in seconds.

    On a GPU the call is captured in a CUDA graph and replayed between two events, after a write of 256 MB or so that empties
    the L2 cache (`triton.testing.do_bench`): time of the GPU alone, with no key or value left in a cache from the run before.
    """
    function()  # compile
    if device != "cuda":
        times = []
        for _ in range(3):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
        return statistics.median(times)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return float(triton.testing.do_bench(graph.replay, warmup=50, rep=200, return_mode="median")) / 1e3


def copy_bandwidth(device: str) -> float:
    """Return the bytes/s, read and written, of copying a large tensor: what this memory gives in practice."""
    source = torch.zeros(1 << (30 if device == "cuda" else 24), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / seconds(lambda: target.copy_(source), device)


def dense_sdpa(shape: BatchShape, arguments: Mapping[str, Any]) -> Callable[[], Tensor] | None:
    """Return torch's attention over the same keys, already gathered into dense tensors; None where lengths differ.

    The gather is not timed: it is what an engine without blocks would not need. Decode gets the packing that suits torch best.
    """
    if len(set(shape.seq_lens)) > 1 or len(set(shape.query_lens)) > 1:
        return None
    seqs, seq_len, query_len = len(shape.seq_lens), shape.seq_lens[0], shape.query_lens[0]
    group = shape.heads // shape.kv_heads
    q, tables = arguments["q"], arguments["block_tables"].long()
    k, v = (
        arguments[cache][tables].flatten(1, 2)[:, :seq_len].transpose(1, 2).contiguous()
        for cache in ("key_cache", "value_cache")
    )
    if query_len == 1:  # the heads of a group as the queries of one head: nothing is masked
        packed = q.view(seqs, shape.kv_heads, group, shape.head_dim)
        return lambda: functional.scaled_dot_product_attention(packed, k, v)
    k, v = (tensor.repeat_interleave(group, dim=1) for tensor in (k, v))
    unpacked = q.view(seqs, query_len, shape.heads, shape.head_dim).transpose(1, 2).contiguous()
    return lambda: functional.scaled_dot_product_attention(
        unpacked, k, v, attn_mask=causal_lower_right(query_len, seq_len)
    )


def measure(shape: BatchShape, bandwidth: Mapping[str, float], device: str = "cuda") -> dict[str, Any]:
    """Return one shape's times beside its floor, and its largest error; times in microseconds.

    Args:
        shape: the batch.
        bandwidth: bytes/s by what they are, "nominal" or "copy"; a floor is given for each.
        device: where to run; on a CPU the kernel runs in Triton's interpreter, and times mean nothing.
    """
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    arguments, hints = shape.arguments(dtype, device), shape.hints()
    launch = shape.launch(arguments)
    calls: dict[str, Callable[[], Tensor] | None] = {
        "naive": lambda: naive_paged_attention(**arguments),
        "packed": lambda: triton_paged_attention(**arguments, **hints, launch=replace(launch, splits=1)),
        "triton": lambda: triton_paged_attention(**arguments, **hints),
        "sdpa": dense_sdpa(shape, arguments),
    }
    wide = {name: value.float() for name, value in arguments.items() if value.is_floating_point()}
    error = (triton_paged_attention(**arguments, **hints).float() - paged_attention(**arguments | wide)).abs().max()
    times = {name: 1e6 * seconds(call, device) for name, call in calls.items() if call is not None}
    moved = shape.bytes_moved(dtype.itemsize)
    peak = nominal(device).get("flops")
    return {
        "shape": asdict(shape) | {"seq_lens": _short(shape.seq_lens), "query_lens": _short(shape.query_lens)},
        "launch": asdict(launch),
        "bytes": moved,
        "flops": shape.flops(),
        "microseconds": times,
        "floor_microseconds": {name: 1e6 * moved / rate for name, rate in bandwidth.items()}
        | ({"flops": 1e6 * shape.flops() / peak} if peak else {}),
        "max_error": float(error),
        "tolerance": TOLERANCE[dtype],
    }


def nominal(device: str) -> dict[str, float]:
    """Return this GPU's `bandwidth` in bytes/s and bf16 `flops` per second by its data sheet; empty where it is not listed."""
    listed = listed_hardware(torch.cuda.get_device_name()) if device == "cuda" else None
    return {"bandwidth": listed.bandwidth, "flops": listed.flops} if listed else {}


def measure_all(shapes: Sequence[BatchShape], device: str, commit: str = "") -> dict[str, Any]:
    """Return the measurement of several shapes, and what has to be known to repeat it."""
    bandwidth = {"copy": copy_bandwidth(device)}
    if "bandwidth" in nominal(device):
        bandwidth["nominal"] = nominal(device)["bandwidth"]
    arguments = (Path(part).name for part in sys.argv[1:])
    told = provenance(" ".join(["python -m course_lib.paged_attention.benchmark", *arguments]), commit)
    return {
        "what": "triton_paged_attention beside its floor: bytes over bandwidth, L2 emptied before each run",
        **told,
        "machine": told["machine"] | {"torch": torch.__version__, "triton": triton.__version__},
        "bandwidth": bandwidth,
        "shapes": [measure(shape, bandwidth, device) for shape in shapes],
    }


COLUMNS = (
    "batch",
    ">naive (µs)",
    ">packed (µs)",
    ">+ splits (µs)",
    ">torch SDPA (µs)",
    ">floor (µs)",
    ">of the floor",
    ">error",
)


def rows(record: Mapping[str, Any]) -> list[list[str]]:
    """Return a record as rows of text under `COLUMNS`, for `viz.tables.Table`.

    The floor is the larger of bytes over nominal bandwidth (measured, where the GPU is not listed) and FLOPs over peak.
    """
    lines = []
    for shape in record["shapes"]:
        times, floors = shape["microseconds"], shape["floor_microseconds"]
        floor = max(floors.get("nominal", floors["copy"]), floors.get("flops", 0.0))
        cells = [f"{times[name]:.1f}" if name in times else "-" for name in ("naive", "packed", "triton", "sdpa")]
        share = f"{floor / times['triton']:.0%}"
        lines.append([shape["shape"]["name"], *cells, f"{floor:.1f}", share, f"{shape['max_error']:.1e}"])
    return lines


def recorded(path: Path = RECORD) -> dict[str, Any]:
    """Return the measurement that the course carries.

    Raises:
        FileNotFoundError: there is none.
    """
    return read_record(path, "python -m course_lib.paged_attention.benchmark")


def tune(shape: BatchShape, device: str = "cuda") -> list[tuple[float, Launch]]:
    """Return launches of a shape with their times in microseconds, fastest first: the tile's cut, then the best one's splits."""
    arguments, hints = shape.arguments(torch.bfloat16, device), shape.hints()
    usual = shape.launch(arguments)
    tried: dict[Launch, float] = {}

    def try_out(launch: Launch) -> None:
        try:
            tried[launch] = 1e6 * seconds(lambda: triton_paged_attention(**arguments, **hints, launch=launch), device)
        except OutOfResources:  # more shared memory or registers than a multiprocessor has
            tried[launch] = float("inf")

    decode = max(shape.query_lens) == 1
    cuts = (
        product((16,), (32, 64, 128), (2, 4), (3, 5, 7))
        if decode
        else product((32, 64, 128), (32, 64, 128), (4, 8), (3, 5))
    )
    for rows, tile, warps, stages in cuts:
        if rows >= shape.heads // shape.kv_heads and rows * tile <= 64 * 128:
            try_out(replace(usual, rows=rows, tile=tile, warps=warps, stages=stages))
    best = min(tried, key=tried.__getitem__)
    for splits in (1, 2, 3, 4, 6, 8, 16, 32, 64):
        try_out(replace(best, splits=splits))
    return sorted(((taken, launch) for launch, taken in tried.items()), key=lambda pair: pair[0])


def _short(lengths: Sequence[int]) -> str:
    counts = {length: lengths.count(length) for length in lengths}
    return " + ".join(f"{count} x {length}" for length, count in counts.items())


def main() -> None:
    """Measure, print a table, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="write the record there, as JSON")
    parser.add_argument("--small", action="store_true", help="tiny shapes, also on a CPU")
    parser.add_argument("--tune", action="store_true", help="print each shape's fastest launches instead")
    parser.add_argument("--only", default="", help="only the shapes whose names hold this")
    parser.add_argument("--commit", default="", help="the commit to name, where git is not there to be asked")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and (options.tune or not options.small):
        parser.error("there is no GPU here; --small runs tiny shapes in Triton's interpreter")
    shapes = [shape for shape in (SMALL if options.small else SHAPES) if options.only in shape.name]
    if options.tune:
        for shape in shapes:
            print(shape.name)
            for taken, launch in tune(shape)[:5]:
                print(f"  {taken:8.1f} µs  {launch}", flush=True)
        return
    record = measure_all(shapes, device, options.commit)
    for line in (COLUMNS, *rows(record)):
        print("  ".join(cell.removeprefix(">").rjust(16) for cell in line))
    if options.out:
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
