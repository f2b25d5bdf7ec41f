"""vLLM's offline interface over our engine."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any, Literal

import torch
from torch import Tensor

from course_lib import machine
from course_lib.models import load_policy
from course_lib.paged_attention import BlockPool, PagedKVManager
from course_lib.scheduling import Scheduler, SchedulerConfig, planning_ahead
from course_lib.serving.engine import LLMEngine, Step
from course_lib.serving.garbage import no_collections
from course_lib.serving.model_config import ModelConfig
from course_lib.serving.model_runner import GPUKernels, ModelRunner
from course_lib.serving.outputs import RequestOutput
from course_lib.serving.prompts import Prompt, as_prompts, one_each, tokens_of
from course_lib.serving.sampler import LogprobsMode, Sampler
from course_lib.serving.sampling_params import SamplingParams


class LLM:
    """A model folder as an engine, with the names and defaults of `vllm.LLM`.

        llm = LLM("smollm2")
        for output in llm.generate(["The capital of France is"], SamplingParams(temperature=0, max_tokens=8)):
            print(output.outputs[0].text)

    Args:
        model: a folder, or a name that `load_policy` knows: a Llama-, Qwen2- or Qwen3-style dense model.
        dtype: of weights, keys and values: `auto` (the folder's), `float32`, `bfloat16` or `float16`.
        max_model_len: longest sequence, prompt and output; the model's own where None, if the KV cache holds that.
        block_size: slots in a block.
        num_blocks: blocks in the KV cache; what the next two arguments give where None.
        kv_cache_memory_bytes: size of the KV cache; where None 1 GiB on a CPU, and on a GPU the memory that is left.
        gpu_memory_utilization: share of the GPU's memory to fill.
        max_num_seqs: requests that run at once.
        max_num_batched_tokens: token budget of a step; 2048 on a CPU and 8192 on a GPU where None.
        enable_prefix_caching: whether requests share the blocks of equal beginnings.
        enable_chunked_prefill: whether a prompt may be computed in parts.
        scheduling_policy: `fcfs` or `priority`.
        enforce_eager: no CUDA graphs; without effect on a CPU.
        async_scheduling: plan and launch a step before the last one's tokens are read (see `AsyncScheduler`); where None on a GPU,
            unless somebody watches the steps or brings a scheduler. On a CPU there is nothing to overlap with.
        gpu_kernels: `fused`, or a lower rung of lesson 05's ladder: `paged` has PyTorch's operations between lesson 03's
            attention and the products, `naive` its first attention kernel too. Without effect on a CPU.
        seed: of samples that have no seed of their own.
        logprobs_mode: of the model as it is (`raw_logprobs`), or of what was sampled from (`processed_logprobs`).
        device: `cpu` or `cuda`; this machine's where None.
        scheduler: makes the scheduler, given a `SchedulerConfig` and a `PagedKVManager`: `Scheduler`, or a class of your own.
        block_pool: makes the block pool, given `num_blocks` and `enable_caching`: `BlockPool`, or a class of your own.
        on_step: called in each step: see `LLMEngine`.

    Raises:
        PolicyError: there is no such model.
        ValueError: an argument is out of its range, or the model is of another architecture.
    """

    def __init__(
        self,
        model: str | PathLike[str],
        *,
        dtype: str | torch.dtype = "auto",
        max_model_len: int | None = None,
        block_size: int = 16,
        num_blocks: int | None = None,
        kv_cache_memory_bytes: int | None = None,
        gpu_memory_utilization: float = 0.9,
        max_num_seqs: int = 256,
        max_num_batched_tokens: int | None = None,
        enable_prefix_caching: bool = True,
        enable_chunked_prefill: bool = True,
        scheduling_policy: Literal["fcfs", "priority"] = "fcfs",
        enforce_eager: bool = False,
        async_scheduling: bool | None = None,
        gpu_kernels: GPUKernels = "fused",
        seed: int = 0,
        logprobs_mode: LogprobsMode = "raw_logprobs",
        device: str | None = None,
        scheduler: Callable[[SchedulerConfig, PagedKVManager], Scheduler] = Scheduler,
        block_pool: Callable[[int, bool], BlockPool] = BlockPool,
        on_step: Callable[[Step], object] | None = None,
    ):
        machine.prepare()
        from transformers import AutoTokenizer

        folder = load_policy(model)
        config = ModelConfig.load(folder)
        device = device or machine.device()
        on_gpu = device.startswith("cuda")
        if async_scheduling is None:
            async_scheduling = on_gpu and scheduler is Scheduler and on_step is None
        budget = max_num_batched_tokens or (8192 if on_gpu else 2048)
        runner = ModelRunner(folder, config.dtype(dtype), device, block_size)
        num_blocks = num_blocks or runner.blocks_that_fit(
            kv_cache_memory_bytes, gpu_memory_utilization, budget, max_num_seqs
        )
        max_model_len = config.max_model_len(max_model_len, num_blocks * block_size)
        scheduler_config = SchedulerConfig(
            # Without chunks a prompt has to fit into one step.
            max_num_batched_tokens=budget if enable_chunked_prefill else max(budget, max_model_len),
            max_num_seqs=max_num_seqs,
            max_model_len=max_model_len,
            enable_chunked_prefill=enable_chunked_prefill,
            policy=scheduling_policy,
        )
        runner.make_cache(num_blocks, max_num_seqs, max_model_len, not enforce_eager, gpu_kernels)
        manager = PagedKVManager(num_blocks, block_size, enable_prefix_caching, block_pool)
        self.folder, self._config = folder, config
        self._request_counter = itertools.count()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        self.llm_engine = LLMEngine(
            runner,
            (planning_ahead(scheduler) if async_scheduling else scheduler)(scheduler_config, manager),
            _sampler(gpu_kernels == "fused" and on_gpu)(seed, device, logprobs_mode),
            tokenizer,
            config.eos_token_ids(tokenizer),
            on_step,
        )

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        priority: Sequence[int] | None = None,
        raise_on_error: bool = False,
        use_tqdm: bool = False,  # noqa: ARG002  there is no progress bar
    ) -> list[RequestOutput]:
        """Return the finished outputs of all prompts, in their order.

        A request that can't run does not keep the others from it: its output is finished, has finish_reason "error", and says
        in `error` why.

        Args:
            prompts: one or several: text, token ids, or vLLM's `{"prompt": ...}` and `{"prompt_token_ids": [...]}`.
            sampling_params: one for all, or one each; the model's own defaults where None.
            priority: one each, for the priority policy; smaller comes first.
            raise_on_error: whether to run nothing and raise where a request can't run.
            use_tqdm: vLLM's; without effect.

        Raises:
            ValueError: lengths of the arguments differ, requests added by hand are unfinished, or `raise_on_error`.
        """
        with no_collections():
            outputs = self._run(prompts, sampling_params, priority, raise_on_error, only_finished=True)
            finished = {output.request_id: output for output in outputs}
        return [finished[request_id] for request_id in sorted(finished, key=int)]

    def stream(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        priority: Sequence[int] | None = None,
        raise_on_error: bool = False,
    ) -> Iterator[RequestOutput]:
        """Yield outputs as their tokens come, each with all that there is so far; arguments and errors are `generate`'s.

        Text never ends in half a character, nor in what may become a stop string. Whoever stops listening ends the requests.
        """
        return self._run(prompts, sampling_params, priority, raise_on_error)

    def chat(
        self,
        messages: Sequence[Any],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        add_generation_prompt: bool = True,
        raise_on_error: bool = False,
        use_tqdm: bool = False,  # noqa: ARG002  there is no progress bar
    ) -> list[RequestOutput]:
        """Return the answers to a conversation (`[{"role": ..., "content": ...}, ...]`) or to several.

        Args:
            messages: one conversation, or a list of them.
            sampling_params: as in `generate`.
            add_generation_prompt: whether the prompt ends with the beginning of an answer.
            raise_on_error: as in `generate`.
            use_tqdm: vLLM's; without effect.
        """
        conversations = [messages] if messages and isinstance(messages[0], Mapping) else list(messages)
        tokenizer = self.get_tokenizer()
        prompts: list[Prompt] = []
        for conversation in conversations:
            text = tokenizer.apply_chat_template(
                list(conversation), tokenize=False, add_generation_prompt=add_generation_prompt
            )
            # The template has written the special tokens that belong there.
            tokens = tokenizer.encode(text, add_special_tokens=False)
            prompts.append({"prompt": text, "prompt_token_ids": tokens})
        return self.generate(prompts, sampling_params, raise_on_error=raise_on_error)

    def add_request(
        self, request_id: str, prompt: Prompt, sampling_params: SamplingParams | None = None, priority: int = 0
    ) -> None:
        """Add a request by hand; `step` then computes it.

        Raises:
            ValueError: it can't run; the message says why.
        """
        text, tokens = tokens_of(prompt, self.get_tokenizer())
        params = sampling_params or self.get_default_sampling_params()
        self.llm_engine.add_request(request_id, text, tokens, params, priority)

    def step(self) -> list[RequestOutput]:
        """Compute one step, and return the outputs so far of the requests that got a token."""
        return self.llm_engine.step()

    def abort_request(self, request_id: str) -> RequestOutput | None:
        """End a request before its time, and return what there is of it; None where it is not here (any more)."""
        return self.llm_engine.abort_request(request_id)

    def has_unfinished_requests(self) -> bool:
        """Whether a step would have anything to do."""
        return self.llm_engine.has_unfinished_requests()

    def reset_prefix_cache(self) -> bool:
        """Forget all cached blocks. Return whether it was done: it is not while requests run."""
        return self.llm_engine.reset_prefix_cache()

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Take new weights, in place, by transformers' names; old keys and values are forgotten.

        Args:
            weights: all of the model's weights, such as `module.state_dict().items()`.

        Raises:
            RuntimeError: requests are unfinished, which would go on with the old weights' keys and values.
            ValueError: a weight is missing, unknown or of the wrong shape.
        """
        if self.has_unfinished_requests():
            raise RuntimeError("requests are unfinished, and would mix old and new weights; finish or abort them first")
        try:
            self.llm_engine.runner.load_weights(weights)
        finally:
            self.reset_prefix_cache()

    def get_tokenizer(self) -> Any:
        """Return the transformers tokenizer."""
        return self.llm_engine.tokenizer

    def get_default_sampling_params(self) -> SamplingParams:
        """Return the sampling that the model's generation_config.json recommends, as vLLM does."""
        return self._config.default_sampling_params()

    def _run(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None,
        priority: Sequence[int] | None,
        raise_on_error: bool,
        only_finished: bool = False,
    ) -> Iterator[RequestOutput]:
        if self.has_unfinished_requests():
            raise ValueError("requests added by hand are unfinished; take their outputs with step(), or abort them")
        requests = as_prompts(prompts)
        params = one_each("sampling_params", sampling_params or self.get_default_sampling_params(), len(requests))
        priorities = one_each("priority", 0 if priority is None else priority, len(requests))
        ids = [str(next(self._request_counter)) for _ in requests]
        refused: list[RequestOutput] = []
        try:
            for request in zip(ids, requests, params, priorities, strict=True):
                try:
                    self.add_request(*request)
                except ValueError as error:
                    refused.append(RequestOutput.refused(request[0], request[1], str(error)))
            if refused and raise_on_error:
                raise ValueError("\n".join(f"prompt {ids.index(one.request_id)}: {one.error}" for one in refused))
            yield from refused
            while self.has_unfinished_requests():
                yield from self.llm_engine.step(only_finished)
        finally:
            for request_id in ids:
                self.abort_request(request_id)

    def __repr__(self) -> str:
        return f"LLM({self.folder.name}, {self.llm_engine})"


def _sampler(by_kernels: bool) -> type[Sampler]:
    if not by_kernels:
        return Sampler
    from course_lib.serving.gpu_sampler import GPUSampler  # Triton is imported where there is a GPU

    return GPUSampler
