"""Where training's memory goes on each rank, and what its ranks tell one another, worked out before anything runs.

Mixed precision with Adam holds 16 bytes a parameter (Rajbhandari et al., ZeRO, arXiv 1910.02054, section 3.1): a bf16 weight
and gradient, 2 + 2, and in fp32 what the optimizer adds up in, where bf16 would lose a small update: a master copy of the
weight and Adam's two moments, 4 + 4 + 4. ZeRO cuts these over N ranks: stage 1 the optimizer's 12, stage 2 the gradients too,
stage 3 the weights too.

What DeepSpeed 0.19 really takes differs, and is counted here (`buffers`):

    the step            copies the bf16 gradients to fp32 beside themselves: 4 bytes a parameter more in stage 0, 6 / N in the
                        others. With few tokens that is the fullest moment: 20 bytes a parameter, and not 16.
    the bucket          stages 1 to 3 reduce gradients in a bucket of `reduce_bucket_size` numbers, 1 GB whatever the model.
    gathered weights    stage 3 keeps up to `stage3_max_live_parameters` = 1e9 gathered weights from a forward pass to the end
                        of its backward pass: a smaller model is whole on each rank while it computes.
    persistent weights  stage 3 never gives back a weight of up to 1e5 numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from course_lib.kv_cache.cost import ModelShape
from course_lib.training.logprobs import VOCABULARY_CHUNK

CATEGORIES = ("weights", "gradients", "master", "exp_avg", "exp_avg_sq", "activations", "buffers")
"""What training holds; `exp_avg` and `exp_avg_sq` are Adam's moments, by torch's names."""

REDUCE_BUCKET = 500_000_000
MAX_LIVE = 1_000_000_000
SUB_GROUP = 1_000_000_000
PERSISTENT = 100_000
"""DeepSpeed's defaults, in numbers: `reduce_bucket_size`, `stage3_max_live_parameters`, `sub_group_size` (what stage 3 steps at
once) and `stage3_param_persistence_threshold`."""

_BF16, _FP32 = 2, 4
_HEAD = 16  # bytes a token and vocabulary column that `token_logprobs` works in: fp32 logits, their exponentials, the last chunk's


@dataclass(frozen=True)
class ZeroPlan:
    """How a model's training is laid out over ranks.

    Attributes:
        stage: ZeRO's: 0 replicates everything, 1 partitions the optimizer's state, 2 the gradients too, 3 the weights too.
        ranks: processes, one a GPU.
        offload_optimizer: keep master weights and moments in host memory, and step there.
        offload_param: keep stage 3's weights there too.
        gradient_checkpointing: keep each layer's input only and run the layer again in the backward pass.

    Raises:
        ValueError: no such stage, no rank, or an offload that the stage does not have.
    """

    stage: int
    ranks: int = 1
    offload_optimizer: bool = False
    offload_param: bool = False
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        if self.stage not in (0, 1, 2, 3):
            raise ValueError(f"stage is {self.stage!r}; ZeRO has 0, 1, 2 and 3.")
        if self.ranks < 1:
            raise ValueError(f"ranks is {self.ranks}; training needs at least 1.")
        if self.offload_optimizer and self.stage == 0:
            raise ValueError(
                "offload_optimizer needs a stage of 1, 2 or 3: stage 0 has no optimizer of its own to offload."
            )
        if self.offload_param and self.stage != 3:
            raise ValueError(
                f"offload_param needs stage 3, and this is stage {self.stage}: only stage 3 parts with weights."
            )

    def __str__(self) -> str:
        switches = ("offload_optimizer", "offload_param", "gradient_checkpointing")
        on = "".join(f", {name.replace('_', ' ')}" for name in switches if getattr(self, name))
        return f"ZeRO-{self.stage} on {self.ranks} rank{'s' * (self.ranks > 1)}{on}"


@dataclass(frozen=True)
class MemoryBudget:
    """What one rank holds at its fullest moment, in bytes by category (`CATEGORIES`).

    Attributes:
        device: in the GPU's memory. `buffers` is what the fullest moment holds beyond the other categories.
        host: in the host's memory.
    """

    device: Mapping[str, int]
    host: Mapping[str, int]

    @property
    def device_bytes(self) -> int:
        """All bytes in the GPU's memory."""
        return sum(self.device.values())

    @property
    def host_bytes(self) -> int:
        """All bytes in the host's memory."""
        return sum(self.host.values())

    def __repr__(self) -> str:
        parts = {f"{name} {size / 2**30:.2f}" for name, size in self.device.items() if size}
        listed = ", ".join(sorted(parts))
        return f"MemoryBudget({self.device_bytes / 2**30:.2f} GiB: {listed}; host {self.host_bytes / 2**30:.2f} GiB)"


def training_memory(shape: ModelShape, plan: ZeroPlan, tokens: int, length: int) -> MemoryBudget:
    """Return what each rank holds at its fullest moment when `PolicyTrainer` trains with DeepSpeed's defaults.

    Gradients are those of a step of several micro-batches, which add up in bf16: whole in stages 0 and 1 until the step, and
    a partition in stages 2 and 3. Norms, biases and padding (0.1 % of the parameters) are left out.

    Args:
        shape: the model's; Llama, Qwen2 and Qwen3 are what `PolicyTrainer` trains.
        plan: stage, ranks and what is offloaded.
        tokens: of one micro-batch on one rank, rows * length, padding counted. All are taken for response tokens.
        length: of one row.

    Raises:
        ValueError: tokens are not rows of that length, or the model's MLP is not gated, whose activations are not known here.
    """
    if not 1 <= length <= tokens or tokens % length:
        raise ValueError(f"tokens={tokens}, length={length}: expected rows * length tokens in rows of at least 1.")
    if not shape.gated_mlp:
        raise ValueError(
            f"{shape.name} has an MLP of two matrices; the trainer knows gated ones: Llama, Qwen2 and Qwen3."
        )
    device, host = _states(shape, plan)
    saved = saved_activations(shape, tokens, length, gradient_checkpointing=plan.gradient_checkpointing)
    again = layer_activations(shape, tokens, length) if plan.gradient_checkpointing else 0
    device["activations"] = saved + again
    device["buffers"] = _fullest(shape, plan, tokens, saved, again) - saved - again
    return MemoryBudget(device, host)


def layer_activations(shape: ModelShape, tokens: int, length: int) -> int:
    """Return the bytes that one layer leaves for its backward pass: what autograd saves of it, each piece of memory once.

    As in Korthikanti et al. (Reducing Activation Recomputation in Large Transformer Models, arXiv 2205.05198, section 4), for
    this family: no dropout, RMSNorm in fp32, SwiGLU, and scaled_dot_product_attention, which keeps no attention matrix (their
    5as²b) but keeps the mask, in bf16, in each layer. With H = hidden, A = heads * head_dim, K = kv_heads * head_dim, I =
    intermediate, bytes a token:

        2 norms         16 H + 8    their input in fp32 (4 H), normalized in bf16 (2 H), times the weight (2 H, which the
                                    projections share), and 1 / rms in fp32 (4)
        query/key norm  6 (A + K) + 4 (heads + kv_heads)    Qwen3's, the same without the last
        attention       8 A + 4 heads + 2 length    queries, output, and keys and values repeated for each query head, since
                                    Policy's mask keeps SDPA from its grouped kernel (a single KV head's are not copied: 4 A +
                                    4 K); the log of the softmax's sum in fp32; the mask
        MLP             8 I         gate, silu(gate), up, and their product
    """
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    repeated = queries if shape.kv_heads > 1 else keys
    per_token = 16 * shape.hidden + 8 + 4 * (queries + repeated) + 4 * shape.heads + 2 * length + 8 * shape.intermediate
    if shape.qk_norm:
        per_token += 6 * (queries + keys) + 4 * (shape.heads + shape.kv_heads)
    return tokens * per_token


def saved_activations(shape: ModelShape, tokens: int, length: int, *, gradient_checkpointing: bool = False) -> int:
    """Return the bytes that a forward pass leaves for the backward pass.

    Beside the layers: the last norm (6 H + 4 bytes a token), its output for `token_logprobs` (2 H) with index, target and
    softmax's sum (20), and the rotation's cosines and sines. With checkpointing a layer leaves its input only, 2 H.
    """
    per_token = 8 * shape.hidden + 24
    if gradient_checkpointing:
        return tokens * (per_token + 2 * shape.layers * shape.hidden)
    return tokens * (per_token + 4 * shape.head_dim) + shape.layers * layer_activations(shape, tokens, length)


def communication_bytes(shape: ModelShape, plan: ZeroPlan) -> int:
    """Return the bytes that a step moves through each rank by the ZeRO paper (arXiv 1910.02054, section 7), one micro-batch.

    An all-reduce of Ψ numbers is a reduce-scatter and an all-gather, each of which moves Ψ (a ring sends and receives
    (N - 1) / N of it). Plain data parallelism all-reduces the gradients: 2 Ψ. Stages 1 and 2 do it in two halves, gradients
    reduce-scattered and new weights gathered: 2 Ψ again. Stage 3 gathers the weights for the forward pass and again for the
    backward pass: 3 Ψ. DeepSpeed moves something else: `deepspeed_communication_bytes`.
    """
    if plan.ranks == 1:
        return 0
    return (3 if plan.stage == 3 else 2) * shape.parameters * _BF16


def deepspeed_communication_bytes(shape: ModelShape, plan: ZeroPlan, micro_batches: int = 1) -> int:
    """Return the bytes that a step of DeepSpeed 0.19 moves through each rank by its defaults, counted as the paper counts.

    stage 0    2 Ψ          one all-reduce, after the last micro-batch
    stage 1    3 Ψ          an all-reduce (`use_multi_rank_bucket_allreduce`) where the paper has a reduce-scatter; an
                            all-gather of the weights
    stage 2    (2 k + 1) Ψ  that all-reduce after each of k micro-batches, since no rank keeps the whole gradient
    stage 3    2 k Ψ        for each micro-batch one all-gather and one reduce-scatter: up to 1e9 weights stay gathered from
                            forward to backward. 3 k Ψ for a larger model, and for any in its first pass, in which
                            DeepSpeed learns the order of the layers and gives each back at once
    """
    if plan.ranks == 1:
        return 0
    whole = shape.parameters
    if plan.stage < 3:
        return (2, 3, 2 * micro_batches + 1)[plan.stage] * whole * _BF16
    gathers, persistent = 1 if whole <= MAX_LIVE else 2, persistent_parameters(shape)
    return (micro_batches * (gathers * (whole - persistent) + whole) + persistent) * _BF16  # those once, after the step


def persistent_parameters(shape: ModelShape) -> int:
    """Return the numbers in matrices that stage 3 leaves whole on each rank, being too small to be worth gathering."""
    return sum(count * size for count, size in _matrices(shape) if size <= PERSISTENT)


def _matrices(shape: ModelShape) -> list[tuple[int, int]]:
    """Return how many matrices of which size the model has."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    return [
        (1 if shape.tied_embeddings else 2, shape.head_weights),
        (2 * shape.layers, shape.hidden * queries),
        (2 * shape.layers, shape.hidden * keys),
        (3 * shape.layers, shape.hidden * shape.intermediate),
    ]


def _states(shape: ModelShape, plan: ZeroPlan) -> tuple[dict[str, int], dict[str, int]]:
    """Return what device and host hold of weights, gradients and optimizer, and what offloading keeps on the host for it."""
    whole, share, largest = _sizes(shape, plan)
    device, host = dict.fromkeys(CATEGORIES, 0), dict.fromkeys(CATEGORIES, 0)
    (host if plan.offload_param else device)["weights"] = _BF16 * (share if plan.stage == 3 else whole)
    if _gathers(plan):
        device["weights"] += _BF16 * persistent_parameters(shape)
    for state in ("master", "exp_avg", "exp_avg_sq"):
        (host if plan.offload_optimizer else device)[state] = _FP32 * (share if plan.stage else whole)
    device["gradients"] = _BF16 * (share if plan.stage >= 2 else whole)
    if plan.offload_optimizer:
        host["gradients"] = _FP32 * share  # for the step, which is taken there
        if plan.stage >= 2:
            host["gradients"] += _BF16 * share  # where micro-batches add up; stage 1 does that on the device
            device["gradients"] = 0
        if plan.stage <= 2:
            host["buffers"] = _BF16 * (share + largest)  # new weights on their way to the device, and one gradient
    return device, host


def _fullest(shape: ModelShape, plan: ZeroPlan, tokens: int, saved: int, again: int) -> int:
    """Return what the fullest moment holds on the device beside weights, gradients and optimizer.

    Args:
        shape: the model's.
        plan: stage, ranks and what is offloaded.
        tokens: of a micro-batch.
        saved: bytes of activations that the forward pass left.
        again: bytes of activations that the backward pass makes again, a layer at a time.
    """
    whole, share, largest = _sizes(shape, plan)
    bucket = _BF16 * REDUCE_BUCKET if plan.stage else 0
    always = _BF16 * (min(whole, MAX_LIVE) - persistent_parameters(shape)) if _gathers(plan) else 0
    if plan.offload_optimizer and plan.stage <= 2:
        always += _BF16 * largest  # a gradient on its way to the host
    # The head's gradient waits through the backward pass for the embedding's, which is the same tensor where they are tied.
    always += _BF16 * shape.head_weights
    head = _HEAD * tokens * min(shape.vocab, VOCABULARY_CHUNK)
    # Stage 2 makes its bucket with the first gradient of a pass; stage 1 has it from the micro-batch before, stage 3 always.
    at_head = saved + head + always + (0 if plan.stage == 2 else bucket)
    in_layers = saved + again + always + bucket
    return max(at_head, in_layers, _at_reduction(plan, whole, bucket, always), _at_step(plan, whole, share, bucket))


def _at_reduction(plan: ZeroPlan, whole: int, bucket: int, always: int) -> int:
    """Return what the end of the backward pass holds beside the states: a copy of the bucket, laid out by ranks."""
    if plan.stage < 2:
        return 0
    return bucket + _BF16 * min(whole, REDUCE_BUCKET) + (always if plan.stage == 3 else 0)


def _at_step(plan: ZeroPlan, whole: int, share: int, bucket: int) -> int:
    """Return what the optimizer's step holds beside the states: no activations, but gradients in fp32."""
    if plan.stage == 0:
        return _FP32 * whole
    if plan.offload_optimizer:
        return bucket if plan.stage == 3 else 0
    copies = (_BF16 + _FP32) * (min(share, SUB_GROUP) if plan.stage == 3 else share)  # flattened, then in fp32
    if plan.stage == 1:
        return copies - _BF16 * (whole - share)  # the gradients of other ranks' partitions are gone by then
    return copies + (bucket if plan.stage == 3 else 0)


def _sizes(shape: ModelShape, plan: ZeroPlan) -> tuple[int, int, int]:
    """Return the numbers in the model, in one rank's share of it, and in its largest matrix."""
    largest = max(size for _, size in _matrices(shape))
    return shape.parameters, -(-shape.parameters // plan.ranks), largest


def _gathers(plan: ZeroPlan) -> bool:
    """Return whether a pass works on gathered copies of the weights."""
    return plan.stage == 3 and (plan.ranks > 1 or plan.offload_param)
