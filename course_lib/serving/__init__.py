"""The engine behind vLLM's offline interface: from prompts to tokens and text."""

from course_lib.serving.engine import LLMEngine, Step
from course_lib.serving.llm import LLM
from course_lib.serving.outputs import CompletionOutput, Logprob, RequestMetrics, RequestOutput
from course_lib.serving.sampling_params import SamplingParams

__all__ = [
    "LLM",
    "CompletionOutput",
    "LLMEngine",
    "Logprob",
    "RequestMetrics",
    "RequestOutput",
    "SamplingParams",
    "Step",
]
