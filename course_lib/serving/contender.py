"""One engine of the benchmark, in a process of its own: `python -m course_lib.serving.contender NAME` is that process.

The parent writes a `Job` as one line of JSON, waits for a line that says ready, and then writes a line for each run. The
engine's answers start with a mark, since engines print what they like.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import IO, Any, Self

_MARK = "@answer "
_LAST_LINES = 5
TRANSFORMERS_BATCH = 128
"""Sequences of a static batch: what fits beside the others on a GPU, at the lengths of `GPU_WORKLOAD`."""
Run = Callable[[Sequence[list[int]], Sequence[int]], int]
"""Serves prompts with that many output tokens each, and returns how many came."""


class ContenderError(RuntimeError):
    """An engine did not start, or failed; the message has its last words."""


@dataclass(frozen=True)
class Job:
    """What an engine is to do.

    Attributes:
        folder: the model folder.
        prompts: token ids of each prompt.
        outputs: tokens of each output.
        temperature: of the sampling.
        kv_cache_bytes: size of the KV cache.
        block_size: slots in a block.
        memory_share: of a GPU's memory that the engine may use.
    """

    folder: str
    prompts: list[list[int]]
    outputs: list[int]
    temperature: float
    kv_cache_bytes: int
    block_size: int
    memory_share: float

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(len(prompt) + output for prompt, output in zip(self.prompts, self.outputs, strict=True))


class Contender:
    """An engine that has started and waits for its turn; a context manager that ends its process.

    Args:
        name: one of `RUNGS`, `vllm` or `transformers`.
        job: what to serve.

    Raises:
        ContenderError: it did not start.
    """

    def __init__(self, name: str, job: Job):
        self.name = name
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  close() does
        command = [sys.executable, "-m", "course_lib.serving.contender", name]
        pipe = subprocess.PIPE
        # A process group of its own: vLLM may start others, and all of them have to end.
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=self._log, text=True, start_new_session=True
        )
        try:
            self.about = self._ask(json.dumps(asdict(job)))
        except BaseException:
            self.close()
            raise

    def run(self, limit: float = 600) -> float:
        """Serve the whole workload once, and return the seconds.

        Raises:
            ContenderError: the engine failed, or was not done after `limit` seconds; then it is ended.
        """
        late = threading.Timer(limit, self._end)
        late.start()
        begin = time.monotonic()
        try:
            return float(self._ask("run")["seconds"])
        except ContenderError:
            if time.monotonic() - begin < limit:
                raise
            raise ContenderError(f"the engine {self.name!r} was not done after {limit:g} s, and was ended.") from None
        finally:
            late.cancel()

    def close(self) -> None:
        """End the process and all that it started; calling it twice is harmless."""
        self._end()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                stream.close()

    def _end(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)  # nothing in it is worth keeping

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Contender({self.name}, {self.about})"

    def _ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        said: list[str] = []
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            for answer in self._process.stdout:
                if answer.startswith(_MARK):
                    return dict(json.loads(answer.removeprefix(_MARK)))
                said.append(answer)
        except BrokenPipeError:
            pass
        self._process.wait()
        self._log.seek(0)
        lines = "".join(said).splitlines() + self._log.read().decode(errors="replace").splitlines()
        last = "\n".join([line for line in lines if line.strip()][-_LAST_LINES:])
        raise ContenderError(
            f"the engine {self.name!r} ended with status {self._process.returncode}. Its last lines:\n{last}"
        )


RUNGS: dict[str, dict[str, Any]] = {
    "naive": {"gpu_kernels": "naive", "enforce_eager": True, "async_scheduling": False},
    "paged": {"gpu_kernels": "paged", "enforce_eager": True, "async_scheduling": False},
    "graphs": {"gpu_kernels": "paged", "async_scheduling": False},
    "fused": {"async_scheduling": False},
    "ours": {},
}
"""Our engine as it became faster on a GPU, each rung with all that the ones before it have: lesson 03's first kernel; its last one,
which packs query heads and splits keys; decode steps as CUDA graphs; fused kernels for what lies between products, and for
sampling; and steps that overlap with the host, which is the engine as it comes."""


def ours(job: Job, **options: Any) -> Run:
    """Start the course's engine."""
    from course_lib.serving import LLM, SamplingParams

    llm = LLM(
        job.folder,
        dtype="bfloat16",
        max_model_len=job.longest,
        block_size=job.block_size,
        kv_cache_memory_bytes=job.kv_cache_bytes,
        enable_prefix_caching=False,
        **options,
    )
    return lambda prompts, outputs: _generate(llm, SamplingParams, job.temperature, prompts, outputs)


def vllm(job: Job) -> Run:
    """Start vLLM as it comes: compiled, with CUDA graphs on a GPU. On a CPU without compilation, which takes minutes there."""
    from vllm import LLM, SamplingParams

    from course_lib import machine

    cpu = machine.tier() == "cpu"
    llm = LLM(
        job.folder,
        dtype="bfloat16",
        max_model_len=job.longest,
        block_size=2 * job.block_size if cpu else job.block_size,  # its CPU kernels want multiples of 32
        kv_cache_memory_bytes=job.kv_cache_bytes,
        gpu_memory_utilization=job.memory_share,
        enable_prefix_caching=False,
        enforce_eager=cpu,
        skip_tokenizer_init=True,
        disable_log_stats=True,
    )
    return lambda prompts, outputs: _generate(llm, SamplingParams, job.temperature, prompts, outputs)


def _generate(llm: Any, params: Any, temperature: float, prompts: Sequence[list[int]], outputs: Sequence[int]) -> int:
    wishes = [params(temperature=temperature, ignore_eos=True, max_tokens=count, detokenize=False) for count in outputs]
    found = llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], wishes, use_tqdm=False)
    return sum(len(output.outputs[0].token_ids) for output in found)


def transformers(job: Job) -> Run:
    """Start transformers' `generate` in static batches: prompts padded on the left, and everybody waits for the longest output."""
    import torch
    from transformers import AutoModelForCausalLM

    from course_lib import machine

    device = machine.device()
    model: Any = AutoModelForCausalLM.from_pretrained(job.folder, dtype=torch.bfloat16)
    model.to(device).eval()
    sampling: dict[str, Any] = {"do_sample": False}
    if job.temperature:
        sampling = {"do_sample": True, "temperature": job.temperature, "top_k": 0, "top_p": 1.0}

    @torch.inference_mode()
    def run(prompts: Sequence[list[int]], outputs: Sequence[int]) -> int:
        for start in range(0, len(prompts), TRANSFORMERS_BATCH):
            batch, wanted = (
                prompts[start : start + TRANSFORMERS_BATCH],
                max(outputs[start : start + TRANSFORMERS_BATCH]),
            )
            longest = max(map(len, batch))
            ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in batch])
            mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in batch])
            # The end-of-sequence token must not end a row, as `ignore_eos` has it for the others.
            made = model.generate(
                ids.to(device),
                attention_mask=mask.to(device),
                max_new_tokens=wanted,
                eos_token_id=None,
                pad_token_id=0,
                **sampling,
            )
            assert made.shape[1] == longest + wanted
        return sum(outputs)  # what was wanted; what a shorter row got beyond its output is waste

    return run


def main() -> None:
    """Start the engine that the command line names, and serve whenever a line comes."""
    name = sys.argv[1]
    from course_lib import machine

    machine.prepare()
    job = Job(**json.loads(sys.stdin.readline()))
    begin = time.perf_counter()
    engines: dict[str, Callable[[Job], Run]] = {"vllm": vllm, "transformers": transformers}
    run = ours(job, **RUNGS[name]) if name in RUNGS else engines[name](job)
    # Kernels are compiled and libraries tuned by the first tokens; that is part of starting.
    few = max(1, len(job.prompts) // 8)
    run(job.prompts[:few], [min(4, output) for output in job.outputs[:few]])
    _answer({"start_seconds": time.perf_counter() - begin, "version": _version(name)})
    for _ in sys.stdin:
        begin = time.perf_counter()
        tokens = run(job.prompts, job.outputs)
        seconds = time.perf_counter() - begin
        assert tokens == sum(job.outputs), f"{tokens} tokens came of {sum(job.outputs)}"
        _answer({"seconds": seconds})


def _version(name: str) -> str:
    if name in RUNGS:
        return ""
    if name == "transformers":
        return version("transformers")
    from vllm import __version__

    return str(__version__)


def _answer(told: dict[str, Any]) -> None:
    print(_MARK + json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
