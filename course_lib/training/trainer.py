"""The policy's trainer: DeepSpeed with ZeRO, bf16 weights over an fp32 master copy."""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from course_lib import machine
from course_lib.training.config import TrainerConfig
from course_lib.training.packing import Group, PackedBatch, micro_batches, pack
from course_lib.training.policy import Policy, sample_logprobs

_LAYOUT = "layout.json"

LossFunction = Callable[[PackedBatch, Tensor, Tensor], Tensor]
"""`loss(batch, logprobs, entropy)`: this micro-batch's share of the step's loss, so that the shares add up to it."""


@dataclass(frozen=True)
class StepStats:
    """What one optimizer step did.

    Attributes:
        loss: the step's loss, all micro-batches together.
        grad_norm: global 2-norm of the gradient before clipping.
        applied: False where the step was refused because loss or gradient was not finite; the weights are untouched.
        micro_batches: forward and backward passes of this rank.
        learning_rate: the rate that the step used.
    """

    loss: float
    grad_norm: float
    applied: bool
    micro_batches: int
    learning_rate: float


class PolicyTrainer:
    """Trains a policy folder with DeepSpeed.

    Args:
        folder: a Hugging Face model folder, as `models.load_policy` returns it.
        config: the run's decisions.

    Raises:
        ValueError: the model is of a family that the trainer does not know.
    """

    def __init__(self, folder: str | Path, config: TrainerConfig | None = None):
        machine.prepare()
        machine.announce_first_build()
        import deepspeed  # only now: it reads the environment that prepare() sets

        self.folder = Path(folder)
        self.config = config or TrainerConfig()
        policy = Policy(self.folder)
        if self.config.gradient_checkpointing:
            policy.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        policy.to(machine.device())
        optimizer = torch.optim.AdamW(
            policy.parameters(),
            lr=0.0,  # step() sets it
            betas=self.config.betas,
            weight_decay=self.config.weight_decay,
            fused=True,
        )
        self.engine, *_ = deepspeed.initialize(
            model=policy, optimizer=optimizer, config=self.config.for_deepspeed(), dist_init_required=None
        )
        if self.config.zero_stage == 0:
            # DeepSpeed's stage 0 allocates Adam's state by a step with zero gradients (its weight decay is nothing at the
            # learning rate of 0 above). Forget it: its count would start the bias correction one step late (a first
            # update of 0.74 of what it should be).
            self.engine.optimizer.optimizer.state.clear()
        self.world_size = int(self.engine.world_size)
        self.steps = 0
        self._unfinished = False

    @property
    def policy(self) -> Policy:
        """The trained module; under ZeRO-3 its parameters are empty outside `named_weights`."""
        module: Policy = self.engine.module
        return module

    def step(self, groups: Sequence[Group], loss: LossFunction, temperature: float = 1.0) -> StepStats:
        """Take one optimizer step on the groups of this rank.

        Gradients of all micro-batches and ranks add up, as the loss's shares do: what a step does depends on the samples,
        and not on how they are cut.

        A step that the loss function or Ctrl-C cuts short leaves nothing behind: the next one starts from zero gradients.

        Raises:
            ValueError: a rank has no groups.
        """
        batches = self._aligned(list(micro_batches(groups, self.config.micro_batch_tokens)))
        if self._unfinished:
            self._forget_gradients()
        self._unfinished = True
        rate = self._set_learning_rate()
        self.engine.train()
        total = torch.zeros((), device=self.engine.device)
        for index, (batch, weight) in enumerate(batches):
            self.engine.set_gradient_accumulation_boundary(index == len(batches) - 1)
            packed = pack(batch).to(self.engine.device)
            share = loss(packed, *self.engine(packed, temperature)) * weight
            # A loss that isn't finite must spoil its gradient, so that DeepSpeed refuses the step: inf * 0 is NaN.
            share = share * (1 + 0 * share.detach())
            total += share.detach()
            # DeepSpeed averages over the ranks; shares add up.
            self.engine.backward(share * self.world_size, scale_wrt_gas=False)
            self.engine.step()
        self._unfinished = False
        applied = bool(self.engine.was_step_applied())
        self.steps += applied
        norm = self.engine.get_global_grad_norm()
        return StepStats(
            self._sum_over_ranks(total), math.nan if norm is None else float(norm), applied, len(batches), rate
        )

    def logprobs(self, groups: Sequence[Group], temperature: float = 1.0) -> dict[int, Tensor]:
        """Return `{sample: logprobs of its response tokens}` under the current weights, on the CPU, in fp32."""
        self.engine.eval()
        batches = self._aligned(list(micro_batches(groups, self.config.micro_batch_tokens)))
        return sample_logprobs(
            self.engine, [(batch, bool(weight)) for batch, weight in batches], self.engine.device, temperature
        )

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield each weight's Hugging Face name and its whole bf16 tensor, gathered from the ranks one at a time under ZeRO-3.

        A collective call under ZeRO-3: every rank has to run through it.
        """
        import deepspeed

        partitioned = self.config.zero_stage == 3
        for name, parameter in self.policy.model.named_parameters():
            with deepspeed.zero.GatheredParameters([parameter], enabled=partitioned):
                # The gathered tensor is freed on leaving, while its reader may still hold it: hand out a copy.
                yield name, parameter.data.clone() if partitioned else parameter.data

    def save(self, folder: Path, state: dict[str, Any] | None = None) -> None:
        """Save weights, fp32 master, optimizer and `state` under `folder`, for `load` with the same ZeRO stage and ranks."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        if self.engine.global_rank == 0:
            (Path(folder) / _LAYOUT).write_text(json.dumps(self._layout()))
        self.engine.save_checkpoint(
            str(folder), tag="deepspeed", client_state={"steps": self.steps, "caller": state or {}}
        )

    def load(self, folder: Path) -> dict[str, Any]:
        """Go back to what `save` left in `folder`, and return its `state`.

        Raises:
            FileNotFoundError: there is no checkpoint in `folder`.
            ValueError: it was saved with another ZeRO stage or number of ranks.
        """
        layout = Path(folder) / _LAYOUT
        if not layout.is_file():  # DeepSpeed's own answer is an empty AssertionError
            raise FileNotFoundError(
                f"{folder} holds no DeepSpeed checkpoint; give a folder that PolicyTrainer.save() wrote."
            )
        saved, mine = json.loads(layout.read_text()), self._layout()
        if saved != mine:
            raise ValueError(
                f"{folder} was saved with ZeRO stage {saved['zero_stage']} on {saved['ranks']} rank(s), and this trainer has"
                f" stage {mine['zero_stage']} on {mine['ranks']}. Load it with the stage and ranks that saved it."
            )
        _, client_state = self.engine.load_checkpoint(str(folder), tag="deepspeed")
        self.steps = int(client_state["steps"])
        caller: dict[str, Any] = client_state["caller"]
        return caller

    def export(self, folder: Path) -> None:
        """Write the policy as a Hugging Face model folder (bf16), with the tokenizer of the folder that it started from."""
        weights = {name: tensor.cpu() for name, tensor in self.named_weights()}
        if self.engine.global_rank != 0:
            return
        self.policy.model.save_pretrained(folder, state_dict=weights)
        for source in self.folder.iterdir():
            if source.is_file() and not source.name.endswith((".safetensors", ".bin", ".index.json")):
                if not (folder / source.name).exists():
                    shutil.copy2(source, folder / source.name)

    def _layout(self) -> dict[str, int]:
        """Return what decides how a checkpoint is cut into files."""
        return {"zero_stage": self.config.zero_stage, "ranks": self.world_size}

    def __repr__(self) -> str:
        return f"PolicyTrainer({self.folder.name}, ZeRO-{self.config.zero_stage}, {self.world_size} rank(s), {self.steps} steps)"

    def _set_learning_rate(self) -> float:
        rate = self.config.rate(self.steps)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _forget_gradients(self) -> None:
        """Drop what an unfinished step accumulated: a NaN makes DeepSpeed refuse it and clear, whatever the ZeRO stage."""
        self.engine.train()
        self.engine.set_gradient_accumulation_boundary(True)
        any_token = pack([Group(prompt_ids=[0], responses=[[0]], samples=[0])]).to(self.engine.device)
        self.engine.backward(self.engine(any_token)[0].sum() * math.nan, scale_wrt_gas=False)
        self.engine.step()

    def _aligned(self, batches: list[list[Group]]) -> list[tuple[list[Group], float]]:
        """Weigh this rank's micro-batches 1, and add copies that weigh 0 until every rank has as many passes."""
        shortest = longest = len(batches)
        if self.world_size > 1:
            # One reduction for both: the largest of the negative counts is the smallest count.
            counts = torch.tensor([longest, -shortest], device=self.engine.device)
            torch.distributed.all_reduce(counts, torch.distributed.ReduceOp.MAX)
            longest, shortest = int(counts[0]), -int(counts[1])
        if shortest == 0:  # every rank raises: one alone would leave the others waiting for it
            raise ValueError("a rank of the trainer got no groups; give each at least one group with a response.")
        return [(batch, 1.0) for batch in batches] + [(batches[-1], 0.0)] * (longest - len(batches))

    def _sum_over_ranks(self, value: Tensor) -> float:
        if self.world_size > 1:
            torch.distributed.all_reduce(value)
        return float(value)
