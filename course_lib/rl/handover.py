"""Memory handover: on one GPU, the engine that generates and the one that trains take turns with the memory."""

from typing import Any

import torch

from course_lib import machine
from course_lib.rl.rollout_engine import PolicyRollout
from course_lib.training import PolicyTrainer


class MemoryHandover:
    """Lets the rollout engine sleep while the policy is trained, and the trainer's state lie on the host while it is not.

    vLLM gives up weights and KV cache (sleep mode, level 2), and gets the weights back by the sync that follows a training
    step anyway. Of the 16 bytes a parameter that mixed-precision Adam holds, DeepSpeed's `offload_states` takes the 12 of the
    fp32 copy and Adam's two moments to the host under ZeRO-1 and -2. Under ZeRO-3, where it knows its own FusedAdam alone, and
    without ZeRO, the 8 of the moments go. The bf16 weights stay on the GPU: the sync reads them.

    An engine that can't sleep, such as one on the CPU tier, keeps its memory, and so does a trainer there.

    Args:
        trainer: the loop's trainer.
        rollout: its engine, made with `sleep_mode=True` if it is to sleep.
    """

    def __init__(self, trainer: PolicyTrainer, rollout: PolicyRollout):
        self.trainer, self.rollout = trainer, rollout
        # What is on the host from the start has nowhere to go; and where the engine keeps its own, nobody needs the room.
        self._moves_states = rollout.can_sleep and machine.tier() == "gpu" and not trainer.config.offload_optimizer
        self._offloaded = False

    def to_rollout(self) -> None:
        """Bring the trainer's optimizer state to the host, then wake the rollout engine up; a sync must follow."""
        if self._moves_states and not self._offloaded:
            self._offload()
            self._offloaded = True
            torch.cuda.empty_cache()  # or torch would keep for itself what vLLM is to take
        self.rollout.wake_up()

    def to_trainer(self) -> None:
        """Put the rollout engine to sleep, then bring the trainer's optimizer state back."""
        self.rollout.sleep()
        if self._offloaded:
            self._reload()
            self._offloaded = False

    @property
    def _by_deepspeed(self) -> bool:
        return self.trainer.config.zero_stage in (1, 2)

    def _offload(self) -> None:
        if self._by_deepspeed:
            from deepspeed.runtime.zero.offload_config import OffloadStateTypeEnum as State

            self.trainer.engine.offload_states(include=[State.hp_params, State.optim_states])
        else:
            self._move_moments("cpu")

    def _reload(self) -> None:
        if self._by_deepspeed:
            self.trainer.engine.reload_states()
        else:
            self._move_moments(self.trainer.engine.device)

    def _move_moments(self, device: torch.device | str) -> None:
        states: Any = self.trainer.engine.optimizer.optimizer.state
        for state in states.values():
            for name in ("exp_avg", "exp_avg_sq"):
                if name in state:
                    state[name].data = state[name].data.to(device)

    def __repr__(self) -> str:
        if not self.rollout.can_sleep:
            return f"MemoryHandover(does nothing: {self.rollout!r} can't sleep, on the {machine.tier()} tier)"
        return f"MemoryHandover({self.trainer!r}, {self.rollout!r}, optimizer {'on the host' if self._offloaded else 'in place'})"
