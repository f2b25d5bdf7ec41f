"""Outputs as they come, from vLLM or from our engine, step by step in this process."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

from course_lib.serving.outputs import RequestOutput
from course_lib.serving.prompts import Prompt, as_prompts, tokens_of
from course_lib.serving.sampling_params import SamplingParams
from course_lib.serving.vllm_engine import is_vllm, vllm_scheduler


def stream(llm: Any, prompts: Prompt | Sequence[Prompt], params: Any = None) -> Generator[RequestOutput, None, None]:
    """Yield a request's output whenever a step gave it a token: all that there is of it so far.

    A request's id is its prompt's place, "0" for the first. Whoever stops listening (`break`, or `close()`) aborts the
    requests, and their blocks are free.

    Args:
        llm: a `vllm.LLM` in this process, or a `course_lib.serving.LLM`.
        prompts: one or several: text, token ids, `{"prompt": ...}` or `{"prompt_token_ids": [...]}`.
        params: the engine's own `SamplingParams`, one for all or one each; the model's defaults where None.

    Raises:
        ValueError: a prompt or its parameters can't run (the message says which and why), or the engine has unfinished
            requests. No request is left in the engine.
    """
    with closing(steps(llm, prompts, params)) as each:
        for outputs in each:
            yield from outputs


def steps(
    llm: Any, prompts: Prompt | Sequence[Prompt], params: Any = None
) -> Generator[list[RequestOutput], None, None]:
    """Yield for each step of the engine the outputs of the requests that got a token; otherwise as `stream`."""
    driver = _VLLMDriver(llm) if is_vllm(llm) else _OurDriver(llm)
    if driver.unfinished():
        raise ValueError("the engine has unfinished requests, of another stream or added by hand; finish or abort them")
    requests = as_prompts(prompts)
    chosen = _one_each(params if params is not None else llm.get_default_sampling_params(), len(requests), driver)
    ids: list[str] = []
    try:
        for index, (prompt, one) in enumerate(zip(requests, chosen, strict=True)):
            try:
                ids.append(driver.add(str(index), prompt, one))
            except driver.refusals as error:
                raise ValueError(f"prompt {index}: {error}") from None
        while driver.unfinished():
            yield driver.step()
    finally:
        driver.abort(ids)


def deltas(outputs: Iterable[RequestOutput]) -> Iterator[tuple[str, str]]:
    """Yield (request id, new text) from cumulative outputs, where there is new text.

    Where a request has several samples, the id is that of the sample in vLLM's spelling, "1_0" for sample 1 of request "0".
    """
    seen: dict[tuple[str, int], int] = {}
    for output in outputs:
        for sample in output.outputs:
            key = output.request_id, sample.index
            new = sample.text[seen.get(key, 0) :]
            if new:
                seen[key] = len(sample.text)
                several = len(output.outputs) > 1
                yield (f"{sample.index}_{output.request_id}" if several else output.request_id), new


class _OurDriver:
    """Our engine's steps."""

    params_class: Any = SamplingParams
    refusals: tuple[type[Exception], ...] = (ValueError, TypeError)

    def __init__(self, llm: Any):
        self.llm = llm

    def unfinished(self) -> bool:
        return bool(self.llm.has_unfinished_requests())

    def add(self, request_id: str, prompt: Prompt, params: Any) -> str:
        self.llm.add_request(request_id, prompt, params)
        return request_id

    def step(self) -> list[Any]:
        outputs: list[Any] = self.llm.step()
        return outputs

    def abort(self, ids: Sequence[str]) -> None:
        for request_id in ids:
            self.llm.abort_request(request_id)


class _VLLMDriver:
    """vLLM's steps, with outputs as `generate` gives them: all samples of a request in one."""

    def __init__(self, llm: Any):
        from vllm import SamplingParams as VLLMSamplingParams
        from vllm import exceptions

        vllm_scheduler(llm)  # raises where the engine was stopped, or runs in another process
        self.engine, self.tokenizer = llm.llm_engine, llm.get_tokenizer()
        self.params_class: Any = VLLMSamplingParams
        # A bad request was a ValueError in older releases.
        self.refusals = (ValueError, TypeError, getattr(exceptions, "VLLMClientError", ValueError))
        self._samples: dict[str, dict[int, Any]] = {}

    def unfinished(self) -> bool:
        return bool(self.engine.has_unfinished_requests())

    def add(self, request_id: str, prompt: Prompt, params: Any) -> str:
        from vllm.sampling_params import RequestOutputKind

        text, tokens = tokens_of(prompt, self.tokenizer)
        wanted = {"prompt_token_ids": tokens} if text is None else {"prompt_token_ids": tokens, "prompt": text}
        params = params.clone()
        params.output_kind = RequestOutputKind.CUMULATIVE
        self.engine.add_request(request_id, wanted, params)
        return request_id

    def step(self) -> list[Any]:
        found: dict[str, Any] = {}
        for output in self.engine.step():
            # vLLM streams each sample of a request on its own.
            samples = self._samples.setdefault(output.request_id, {})
            for sample in output.outputs:
                # Its list goes on growing, and an output is what there was at its step.
                samples[sample.index] = replace(sample, token_ids=list(sample.token_ids))
            output.outputs = [samples[index] for index in sorted(samples)]
            found[output.request_id] = output
        return list(found.values())

    def abort(self, ids: Sequence[str]) -> None:
        if self.unfinished():
            self.engine.abort_request(list(ids))


def _one_each(params: Any, count: int, driver: _OurDriver | _VLLMDriver) -> list[Any]:
    """Return parameters for each of `count` prompts, from one for all or one each."""
    listed = list(params) if isinstance(params, Sequence) else [params] * count
    if len(listed) != count:
        raise ValueError(f"params has {len(listed)} entries for {count} prompts; give one for all, or one each")
    wanted = driver.params_class
    for one in listed:
        if not isinstance(one, wanted):
            source = "vllm" if isinstance(driver, _VLLMDriver) else "course_lib.serving"
            raise ValueError(  # noqa: TRY004  the one error of a wrong call here
                f"params are of {type(one).__module__}.{type(one).__name__}; expected {source}.SamplingParams"
            )
    return listed
