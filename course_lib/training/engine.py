"""What the trainers of this room share: DeepSpeed with ZeRO, bf16 weights over an fp32 master copy."""

import math
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from course_lib import machine
from course_lib.models.folder import check_folder
from course_lib.training import checkpoints
from course_lib.training.config import TrainerConfig
from course_lib.training.packing import Group, PackedBatch, pack
from course_lib.training.unpartitioned import step_at_once


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


class DeepSpeedTrainer(ABC):
    """A module of packed samples under DeepSpeed: steps, checkpoints, export.

    Args:
        folder: a Hugging Face model folder, as `models.load_policy` returns it.
        config: the run's decisions.

    Raises:
        PolicyError: the folder is not a model; the message names what it lacks.
        ValueError: the model is of a family that the trainer does not know.
    """

    def __init__(self, folder: str | Path, config: TrainerConfig | None = None):
        self.folder = check_folder(Path(folder))
        machine.prepare()
        machine.announce_first_build()
        import deepspeed  # only now: it reads the environment that prepare() sets

        # On an H100 torch would take cuDNN's attention, which plans for a second whenever a batch has a new shape. vLLM turns it
        # off for its process too (vllm/platforms/cuda.py).
        torch.backends.cuda.enable_cudnn_sdp(False)
        self.config = config or TrainerConfig()
        module: Any = self._module()
        if self.config.gradient_checkpointing:
            module.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        module.to(machine.device())
        optimizer = torch.optim.AdamW(
            [weight for weight in module.parameters() if weight.requires_grad],
            lr=0.0,  # a step sets it
            betas=self.config.betas,
            weight_decay=self.config.weight_decay,
            fused=True,
        )
        self.engine, *_ = deepspeed.initialize(
            model=module, optimizer=optimizer, config=self.config.for_deepspeed(), dist_init_required=None
        )
        if self.config.zero_stage == 0:
            # DeepSpeed's stage 0 allocates Adam's state by a step with zero gradients (its weight decay is nothing at the
            # learning rate of 0 above). Forget it: its count would start the bias correction one step late (a first
            # update of 0.74 of what it should be).
            self.engine.optimizer.optimizer.state.clear()
            step_at_once(self.engine.optimizer)
        self.world_size = int(self.engine.world_size)
        if self.config.zero_stage == 0 and self.world_size == 1:
            # Nobody to sum gradients with, and DeepSpeed would copy all of them into one buffer and back: 0.4 s of a step of
            # SmolLM2 on two cores.
            self.engine.enable_backward_allreduce = False
        if self.config.zero_stage in (1, 2) and not self.config.offload_optimizer:
            # DeepSpeed would look at each gradient (13 launches apiece, two fifths of a small model's step on a GPU) for what
            # their norm says right after: one value that isn't finite makes it so, and DeepSpeed refuses such a norm.
            self.engine.optimizer.check_overflow = lambda partition_gradients: None  # noqa: ARG005  DeepSpeed's name
        self.steps = 0
        self._unfinished = False

    @abstractmethod
    def _module(self) -> nn.Module:
        """Return what is trained: its `model` is the Hugging Face model, its forward pass takes a `PackedBatch`."""

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield each weight's Hugging Face name and its whole bf16 tensor, gathered from the ranks one at a time under ZeRO-3.

        A collective call under ZeRO-3: every rank has to run through it.
        """
        import deepspeed

        partitioned = self.config.zero_stage == 3
        for name, parameter in self.engine.module.model.named_parameters():
            with deepspeed.zero.GatheredParameters([parameter], enabled=partitioned):
                # The gathered tensor is freed on leaving, while its reader may still hold it: hand out a copy.
                yield name, parameter.data.clone() if partitioned else parameter.data

    def save(self, folder: str | Path, state: dict[str, Any] | None = None) -> None:
        """Save weights, fp32 master, optimizer and `state` under `folder`, for `load` with the same ZeRO stage and ranks.

        A save that is cut short leaves what was saved in `folder` before it; one that is whole replaces it.
        """
        folder = Path(folder)
        tag = checkpoints.next_tag(folder)
        if self.engine.global_rank == 0:
            shutil.rmtree(
                folder / tag, ignore_errors=True
            )  # what a save that was cut short left; the others wait below
        self.engine.save_checkpoint(
            str(folder), tag=tag, client_state={"steps": self.steps, "caller": state or {}}, save_latest=False
        )  # it ends with a barrier: all ranks have written
        if self.engine.global_rank == 0:
            checkpoints.publish(folder, tag, self._layout)
        if self.world_size > 1:
            torch.distributed.barrier()

    def load(self, folder: str | Path) -> dict[str, Any]:
        """Go back to what `save` left in `folder`, and return its `state`.

        Raises:
            FileNotFoundError: there is no whole checkpoint in `folder`; the message names what is missing.
            ValueError: it was saved with another ZeRO stage or number of ranks.
        """
        tag, saved = checkpoints.find(folder)
        if saved != self._layout:
            raise ValueError(
                f"{folder} was saved with ZeRO stage {saved.zero_stage} on {saved.ranks} rank(s), and this trainer has stage"
                f" {self._layout.zero_stage} on {self._layout.ranks}. Load it with the stage and ranks that saved it, or"
                " consolidate() it into a model folder and start from that."
            )
        _, client_state = self.engine.load_checkpoint(str(folder), tag=tag)
        self.steps = int(client_state["steps"])
        caller: dict[str, Any] = client_state["caller"]
        return caller

    def export(self, folder: str | Path) -> None:
        """Write the model as a Hugging Face folder (bf16), with the tokenizer of the folder that it started from."""
        weights = {name: tensor.cpu() for name, tensor in self.named_weights()}
        if self.engine.global_rank == 0:
            checkpoints.write_folder(self.engine.module.model, weights, self.folder, Path(folder))

    @property
    def _layout(self) -> checkpoints.Layout:
        return checkpoints.Layout(self.config.zero_stage, self.world_size)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.folder.name}, ZeRO-{self.config.zero_stage}, {self.world_size} rank(s),"
            f" {self.steps} steps)"
        )

    def _step(self, batches: Sequence[Sequence[Group]], share: Callable[[PackedBatch], Tensor]) -> StepStats:
        """Take one optimizer step on this rank's micro-batches; `share` is what each adds to the step's loss.

        Gradients of all micro-batches and ranks add up, as the shares do: what a step does depends on the samples, and not
        on how they are cut. A step that `share` or Ctrl-C cuts short leaves nothing behind: the next one starts from zero
        gradients.
        """
        aligned = self._aligned(batches)
        if self._unfinished:
            self._forget_gradients()
        self._unfinished = True
        rate = self._set_learning_rate()
        self.engine.train()
        total = torch.zeros((), device=self.engine.device)
        for index, (batch, weight) in enumerate(aligned):
            self.engine.set_gradient_accumulation_boundary(index == len(aligned) - 1)
            loss = share(pack(batch, device=self.engine.device)) * weight
            # A loss that isn't finite must spoil its gradient, so that DeepSpeed refuses the step: inf * 0 is NaN.
            loss = loss * (1 + 0 * loss.detach())
            total += loss.detach()
            # DeepSpeed averages over the ranks; shares add up.
            self.engine.backward(loss * self.world_size, scale_wrt_gas=False)
            self.engine.step()
        self._unfinished = False
        applied = bool(self.engine.was_step_applied())
        self.steps += applied
        norm = self.engine.get_global_grad_norm()
        return StepStats(
            float(self._sum_over_ranks(total)), math.nan if norm is None else float(norm), applied, len(aligned), rate
        )

    def _set_learning_rate(self) -> float:
        rate = self.config.rate(self.steps)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _forget_gradients(self) -> None:
        """Drop what an unfinished step accumulated: a NaN makes DeepSpeed refuse it and clear, whatever the ZeRO stage."""
        self.engine.train()
        self.engine.set_gradient_accumulation_boundary(True)
        output = self.engine(pack([Group(prompt_ids=[0], responses=[[0]], samples=[0])], device=self.engine.device))
        first = output[0] if isinstance(output, tuple) else output
        self.engine.backward(first.sum() * math.nan, scale_wrt_gas=False)
        self.engine.step()

    def _aligned(self, batches: Sequence[Sequence[Group]]) -> list[tuple[Sequence[Group], float]]:
        """Weigh this rank's micro-batches 1, and add copies that weigh 0 until every rank has as many passes.

        Raises:
            ValueError: a rank has no groups.
        """
        shortest = longest = len(batches)
        if self.world_size > 1:
            # One reduction for both: the largest of the negative counts is the smallest count.
            counts = torch.tensor([longest, -shortest], device=self.engine.device)
            torch.distributed.all_reduce(counts, torch.distributed.ReduceOp.MAX)
            longest, shortest = int(counts[0]), -int(counts[1])
        if shortest == 0:  # every rank raises: one alone would leave the others waiting for it
            raise ValueError("a rank of the trainer got no groups; give each at least one group with a response.")
        return [(batch, 1.0) for batch in batches] + [(batches[-1], 0.0)] * (longest - len(batches))

    def _sum_over_ranks(self, values: Tensor) -> Tensor:
        if self.world_size > 1:
            torch.distributed.all_reduce(values)
        return values
