"""The engine behind vLLM's offline interface, and the real vLLM beside it: from prompts to tokens and text."""

from course_lib.serving.capacity import KVPool, gpu_kv_bytes, predict_pool, read_pool
from course_lib.serving.engine import LLMEngine, Step
from course_lib.serving.llm import LLM
from course_lib.serving.metrics import EngineSample, RequestTimes, Watched, watch
from course_lib.serving.outputs import CompletionOutput, Logprob, RequestMetrics, RequestOutput
from course_lib.serving.reward_model import RewardModel, transformers_scores
from course_lib.serving.sampling_params import SamplingParams
from course_lib.serving.server import ServerError, VLLMServer
from course_lib.serving.streaming import deltas, stream
from course_lib.serving.vllm_engine import EngineError, start_vllm, stop_vllm

__all__ = [
    "LLM",
    "CompletionOutput",
    "EngineError",
    "EngineSample",
    "KVPool",
    "LLMEngine",
    "Logprob",
    "RequestMetrics",
    "RequestOutput",
    "RequestTimes",
    "RewardModel",
    "SamplingParams",
    "ServerError",
    "Step",
    "VLLMServer",
    "Watched",
    "deltas",
    "gpu_kv_bytes",
    "predict_pool",
    "read_pool",
    "start_vllm",
    "stop_vllm",
    "stream",
    "transformers_scores",
    "watch",
]
