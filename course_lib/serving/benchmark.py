"""Serving speed side by side: our engine, vLLM and transformers on the same requests, beside what the hardware allows.

`course bench serve` runs it. Each engine lives in a process of its own (see `contender`), and they take turns: a machine that
slows down for a while slows all of them down.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from course_lib.kv_cache.cost import Hardware, ModelShape, kv_bytes_per_token
from course_lib.machine.record import RESULTS, read_record
from course_lib.paged_attention.block_table import num_blocks_for
from course_lib.serving.contender import RUNGS, Contender, ContenderError, Job

ENGINES = ("ours", "vllm", "transformers")
LADDER = tuple(RUNGS)
BLOCK_SIZE = 16
_LARGEST_TOKEN = 10_000


@dataclass(frozen=True)
class Workload:
    """Requests with random tokens and lengths, all there at the start, whose outputs end at their length and not before.

    Attributes:
        requests: how many.
        shortest: least tokens of a prompt, and of an output.
        longest: most tokens of either.
        temperature: of the sampling; 0 is greedy.
        seed: of the lengths and tokens.
    """

    requests: int = 256
    shortest: int = 100
    longest: int = 1024
    temperature: float = 0.6
    seed: int = 0

    def __post_init__(self) -> None:
        if self.requests < 1:
            raise ValueError(f"requests is {self.requests}; a benchmark needs at least one.")
        if not 1 <= self.shortest <= self.longest:
            raise ValueError(f"lengths from {self.shortest} to {self.longest}; expected 1 <= shortest <= longest.")

    def prompts(self, vocab: int) -> list[list[int]]:
        """Return the token ids of each prompt, for a model with `vocab` tokens."""
        return [[token % vocab for token in prompt] for prompt in _draw(self)[0]]

    def lengths(self) -> list[tuple[int, int]]:
        """Return the tokens of each request's prompt and output."""
        return [(len(prompt), output) for prompt, output in zip(*_draw(self), strict=True)]


@cache
def _draw(work: Workload) -> tuple[list[list[int]], list[int]]:
    """Return prompts and lengths of outputs, drawn in the order of nano-vllm's bench.py: seed 0 gives its very requests."""
    chance = random.Random(work.seed)

    def length() -> int:
        return chance.randint(work.shortest, work.longest)

    prompts = [[chance.randint(0, _LARGEST_TOKEN) for _ in range(length())] for _ in range(work.requests)]
    return prompts, [length() for _ in range(work.requests)]


CPU_WORKLOAD = Workload(requests=32, shortest=20, longest=200)
GPU_WORKLOAD = Workload()
"""nano-vllm's bench.py, to the token: 256 sequences, prompts and outputs of 100 to 1,024 tokens, 133,966 output tokens."""


@dataclass(frozen=True)
class Floor:
    """The least time in which a machine could do the work, if arithmetic and memory traffic overlapped perfectly.

    Attributes:
        flop_seconds: all multiplications at peak.
        weight_seconds: the weights read once a step, in as few steps as the longest output has tokens.
        kv_seconds: keys and values written once, and read by each later token of their sequence.
    """

    flop_seconds: float
    weight_seconds: float
    kv_seconds: float

    @property
    def seconds(self) -> float:
        """The larger of arithmetic and memory traffic."""
        return max(self.flop_seconds, self.weight_seconds + self.kv_seconds)

    @property
    def limit(self) -> str:
        """What decides it: `arithmetic` or `memory`."""
        return "arithmetic" if self.flop_seconds >= self.weight_seconds + self.kv_seconds else "memory"


def floor(
    shape: ModelShape, hardware: Hardware, lengths: Sequence[tuple[int, int]], bytes_per_number: int = 2
) -> Floor:
    """Return the floor of requests that are all there at the start, for an engine that computes each token once.

    No schedule without speculation and shared prefixes is faster. A request's tokens come one a step, so there are as many
    steps as the longest output has tokens, and each of them reads all weights; each token reads the keys and values before it.

    Args:
        shape: the model's.
        hardware: its two speeds.
        lengths: tokens of each request's prompt and output.
        bytes_per_number: of weights, keys and values.
    """
    flops, kv_tokens = 0, 0
    for prompt, output in lengths:
        computed = prompt + output - 1  # the last token is never an input
        decoded = sum(range(prompt + 1, computed + 1))  # keys that the decoded tokens look at, their own ones with them
        pairs = prompt * (prompt + 1) // 2 + decoded
        flops += 2 * (shape.layer_weights * computed + shape.head_weights * output)
        flops += 4 * shape.layers * shape.heads * shape.head_dim * pairs
        kv_tokens += computed + decoded
    steps = max(output for _, output in lengths)
    weights = steps * bytes_per_number * (shape.layer_weights + shape.head_weights)
    return Floor(
        flops / hardware.flops,
        weights / hardware.bandwidth,
        kv_tokens * kv_bytes_per_token(shape, bytes_per_number) / hardware.bandwidth,
    )


def pool_bytes(shape: ModelShape, lengths: Sequence[tuple[int, int]], bytes_per_number: int = 2) -> int:
    """Return the bytes of a KV cache in which all requests have room at once, in whole blocks."""
    blocks = sum(num_blocks_for(prompt + output, BLOCK_SIZE) for prompt, output in lengths)
    return (blocks + 8) * BLOCK_SIZE * kv_bytes_per_token(shape, bytes_per_number)


def bench_serve(
    folder: Path,
    workload: Workload,
    hardware: Hardware,
    *,
    engines: Sequence[str] = ENGINES,
    rounds: int = 2,
    memory_bytes: int | None = None,
    limit: float = 600,
    on_event: Callable[[str], object] = lambda _: None,
) -> dict[str, Any]:
    """Measure the engines on a workload, in turns, and return the record.

    An engine that fails has its reason under `error`; the others go on.

    Args:
        folder: a model folder.
        workload: the requests.
        hardware: the speeds that the floor is worked out from.
        engines: of `ENGINES` and `LADDER`, in the order in which they take turns.
        rounds: how often each serves the whole workload; the fastest counts, since other programs only make one slower. In one
            round engines need not stay for their next turn: each ends before the next one starts, and has all memory.
        memory_bytes: most bytes of each engine's KV cache; without it, room for all requests at once.
        limit: seconds that an engine may take for a round; one that takes longer is ended, and counts as failed.
        on_event: told in words what happens.

    Raises:
        ValueError: there is no such engine, or no round.
    """
    unknown = [name for name in engines if name not in (*ENGINES, *LADDER)]
    if unknown or not engines or rounds < 1:
        raise ValueError(
            f"engines {list(engines)}, {rounds} rounds; expected some of {[*ENGINES, *LADDER[:-1]]}, and at least 1 round."
        )
    shape, lengths = ModelShape.from_config(folder), workload.lengths()
    room = pool_bytes(shape, lengths)
    job = Job(
        str(folder),
        workload.prompts(shape.vocab),
        [output for _, output in lengths],
        workload.temperature,
        min(room, memory_bytes or room),
        BLOCK_SIZE,
        # On a GPU, what an engine takes in all must leave room for the others.
        0.9 / (len(engines) if rounds > 1 else 1),
    )
    results: dict[str, dict[str, Any]] = {name: {"seconds": []} for name in engines}
    with ExitStack() as stack:
        running: dict[str, Contender] = {}

        def turn(name: str, engine: Contender, number: int) -> None:
            on_event(f"{name}, round {number} of {rounds}")
            results[name]["seconds"].append(engine.run(limit))

        for name in engines:
            with _reported(name, results, on_event), ExitStack() as alone:
                on_event(f"{name} starts")
                engine = alone.enter_context(Contender(name, job))
                results[name] |= engine.about
                if rounds == 1:
                    turn(name, engine, 1)
                else:
                    running[name] = engine
                    stack.push(alone.pop_all())
        for number in range(1, rounds + 1):
            for name in [name for name in running if "error" not in results[name]]:
                with _reported(name, results, on_event):
                    turn(name, running[name], number)
    least = floor(shape, hardware, lengths)
    tokens = sum(output for _, output in lengths)
    for result in results.values():
        if result["seconds"]:
            result["tokens_per_second"] = tokens / min(result["seconds"])
            result["of_floor"] = least.seconds / min(result["seconds"])
    return {
        "what": "serving the same requests with each engine in turn, beside the least time that the hardware allows",
        "model": shape.name,
        "workload": asdict(workload) | {"prompt_tokens": sum(prompt for prompt, _ in lengths), "output_tokens": tokens},
        "kv_cache_bytes": job.kv_cache_bytes,
        "hardware": asdict(hardware),
        "floor": asdict(least)
        | {"seconds": least.seconds, "limit": least.limit, "tokens_per_second": tokens / least.seconds},
        "engines": results,
    }


@contextmanager
def _reported(name: str, results: dict[str, dict[str, Any]], on_event: Callable[[str], object]) -> Iterator[None]:
    """Keep an engine's failure with its results: the others go on."""
    try:
        yield
    except ContenderError as error:
        results[name]["error"] = str(error)
        on_event(str(error))


COLUMNS = (
    "engine",
    ">tokens/s",
    ">of vLLM",
    ">of the floor",
    ">seconds",
    ">start (s)",
)


def heading(record: dict[str, Any]) -> str:
    """Return what was measured, and where, in a line."""
    load = record["workload"]
    return (
        f"{record['model']}, {load['requests']} requests, {load['prompt_tokens']:,} prompt and {load['output_tokens']:,} "
        f"output tokens: {record['machine']['machine']}"
    )


def rows(record: dict[str, Any]) -> list[list[str]]:
    """Return a record as rows of text under `COLUMNS`, for `viz.tables.Table`."""
    speeds = {name: result.get("tokens_per_second") for name, result in record["engines"].items()}
    lines = []
    for name, result in record["engines"].items():
        label = f"{name} {result.get('version', '')}".strip()
        if speeds[name] is None:
            lines.append([label, "failed", "", "", "", ""])
            continue
        of_vllm = f"{speeds[name] / speeds['vllm']:.2f}" if speeds.get("vllm") else "-"
        cells = [f"{speeds[name]:,.0f}", of_vllm, f"{result['of_floor']:.0%}"]
        lines.append([label, *cells, f"{min(result['seconds']):.1f}", f"{result['start_seconds']:.0f}"])
    floor_ = record["floor"]
    return [
        *lines,
        [f"floor ({floor_['limit']})", f"{floor_['tokens_per_second']:,.0f}", "", "", f"{floor_['seconds']:.1f}", ""],
    ]


def recorded(name: str = "serve_cpu") -> dict[str, Any]:
    """Return a measurement that the course carries: `serve_cpu` or `serve_h200`.

    Raises:
        FileNotFoundError: there is none of that name.
    """
    return read_record(RESULTS / f"{name}.json", "course bench serve")
