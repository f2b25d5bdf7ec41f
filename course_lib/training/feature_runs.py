"""Each of DeepSpeed's further features, used on the tiny policy: run as one job by `features.try_feature`, never in a notebook.

    python -m course_lib.training.feature_runs NAME OUTCOME.json

A function here takes the feature through what it is for and returns one sentence of what was measured; what DeepSpeed raises
where it can't is the reason that the reader gets.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from course_lib import machine
from course_lib.models import load_policy

MIB = 2**20
ROWS, LENGTH = 4, 64
RATE = 1e-3
Engine = Any


def offload_states() -> str:
    """Move the trainer's state to the host and back between steps, and compare with a run that never did."""
    on_gpu = machine.tier() == "gpu"
    plain, engine = (_engine({"zero_optimization": {"stage": 2}}) for _ in range(2))
    expected = [_step(plain) for _ in range(3)]
    del plain
    found, freed, seconds = [], 0, 0.0
    for _ in range(3):
        found.append(_step(engine))
        start, before = time.perf_counter(), _allocated()
        engine.offload_states(pin_memory=on_gpu)
        freed, seconds = before - _allocated(), time.perf_counter() - start
        engine.reload_states()
    gap = max(abs(one - other) for one, other in zip(found, expected, strict=True))
    _require(gap < 0.05, f"the losses changed: {found}, and {expected} without.")
    states = ", ".join(sorted(state.value for state in _offloadable()))
    where = (
        f"{freed / MIB:.0f} of {before / MIB:.0f} MiB of the GPU came free"
        if on_gpu
        else "on this tier the device is the host, so nothing comes free"
    )
    # On a GPU attention's backward pass adds in no fixed order, so two runs alike differ in the last bits.
    same = f"the losses differ by {gap:.0e}" if gap else "the losses are the same to the last bit"
    return f"{states} went to the host in {1e3 * seconds:.0f} ms and came back; {where}; {same}."


def muon() -> str:
    """Train the matrices with Muon and the rest with Adam, and count what the optimizer holds."""
    engine = _engine({"zero_optimization": {"stage": 2}}, {"type": "Muon", "params": {"lr": 0.02, "torch_adam": True}})
    losses = [_step(engine) for _ in range(4)]
    weights = sum(weight.numel() for weight in engine.module.parameters())
    held = sum(value.numel() for state in engine.optimizer.optimizer.state.values() for value in _tensors(state))
    return f"loss {_falls(losses)} in 4 steps; the optimizer holds {held / weights:.2f} numbers a weight, AdamW 2."


def autotp() -> str:
    """Split each layer's matrices over two ranks, and compare the loss with the whole model's."""
    whole, ids = _tiny(), _ids()
    with torch.no_grad():
        expected = float(whole(input_ids=ids, labels=ids, use_cache=False).loss)
    ranks = int(os.environ["WORLD_SIZE"])
    engine = _engine({"zero_optimization": {"stage": 1}, "tensor_parallel": {"autotp_size": ranks}})
    losses = [_step(engine) for _ in range(4)]
    _require(
        abs(losses[0] - expected) < 0.02, f"the split model's loss is {losses[0]:.3f}, the whole one's {expected:.3f}."
    )
    share = sum(w.numel() for w in engine.module.parameters()) / sum(w.numel() for w in whole.parameters())
    return (
        f"each of {ranks} ranks holds {share:.0%} of the weights; first loss {losses[0]:.3f}, the whole model's"
        f" {expected:.3f}; {_falls(losses)} in 4 steps."
    )


def deepcompile() -> str:
    """Compile a ZeRO-3 engine with its communication in the graph, and time its steps against eager ones."""
    eager = _engine({"zero_optimization": {"stage": 3}})
    before = [_step(eager) for _ in range(6)]
    pace = _seconds(eager)
    engine = _engine({"zero_optimization": {"stage": 3}, "compile": {"deepcompile": True}})
    start = time.perf_counter()
    engine.compile()
    losses = [_step(engine) for _ in range(6)]
    seconds = time.perf_counter() - start
    _require(abs(losses[-1] - before[-1]) < 0.2, f"the losses are {losses}, and {before} without.")
    return f"{1e3 * _seconds(engine):.0f} ms a step, eager {1e3 * pace:.0f} ms; the first 6 steps took {seconds:.0f} s."


def zenflow() -> str:
    """Offload the optimizer; the tenth of the gradient's columns that matters most is applied at once on the device."""
    zero = {
        "stage": 2,
        "offload_optimizer": {"device": "cpu", "pin_memory": machine.tier() == "gpu"},
        "zenflow": {"topk_ratio": 0.1, "select_strategy": "step", "select_interval": 4, "update_interval": 4},
    }
    engine = _engine({"zero_optimization": zero}, {"type": "AdamW", "params": {"lr": RATE}})
    losses = [_step(engine) for _ in range(12)]
    return f"loss {_falls(losses)} in 12 steps, of which the host's optimizer took part in 3."


def superoffload() -> str:
    """Offload ZeRO-3's optimizer to a process of its own on the host."""
    zero = {"stage": 3, "offload_optimizer": {"device": "cpu", "pin_memory": True, "super_offload": True}}
    engine = _engine({"zero_optimization": zero})
    losses = [_step(engine) for _ in range(4)]
    return f"loss {_falls(losses)} in 4 steps, {1e3 * _seconds(engine):.0f} ms each; the optimizer ran in a process of its own."


RUNS: dict[str, Callable[[], str]] = {
    run.__name__: run for run in (offload_states, autotp, deepcompile, zenflow, superoffload, muon)
}


def main() -> None:
    """Run one feature and write `{"worked", "text", "seconds"}`: rank 0 for all."""
    name, out = sys.argv[1:]
    machine.prepare()
    # Compiling Muon's five matrix products takes longer on a CPU than all that they do here.
    if name == "muon" and machine.tier() == "cpu":
        os.environ["TORCHDYNAMO_DISABLE"] = "1"
    start = time.perf_counter()
    try:
        outcome = {"worked": True, "text": RUNS[name]()}
    except Exception as error:  # noqa: BLE001  whatever DeepSpeed raises is the answer
        outcome = {"worked": False, "text": f"DeepSpeed says: {_reason(error)}"}
    if os.environ["RANK"] == "0":
        Path(out).write_text(json.dumps(outcome | {"seconds": round(time.perf_counter() - start, 1)}))


def _engine(config: dict[str, Any], optimizer: dict[str, Any] | None = None) -> Engine:
    """Return an engine on the tiny policy in bf16: with an optimizer of DeepSpeed's by its configuration, or torch's AdamW."""
    import deepspeed

    model = _tiny()
    base = {"train_micro_batch_size_per_gpu": ROWS, "bf16": {"enabled": True}, "zero_force_ds_cpu_optimizer": False}
    if optimizer is None:
        chosen: dict[str, Any] = {"optimizer": torch.optim.AdamW(model.parameters(), lr=RATE)}
    else:
        chosen = {"model_parameters": list(model.parameters())}
        base |= {"optimizer": optimizer}
    return deepspeed.initialize(model=model, config=base | config, **chosen)[0]


def _tiny() -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    model: Any = AutoModelForCausalLM.from_pretrained(load_policy("tiny"), dtype=torch.bfloat16)
    return model.to(machine.device())


def _ids() -> Tensor:
    """Return the same random tokens each time, rows of one length: something to learn by heart."""
    chance = torch.Generator().manual_seed(0)
    return torch.randint(3, 512, (ROWS, LENGTH), generator=chance).to(machine.device())


def _step(engine: Engine) -> float:
    ids = _ids()
    loss = engine(input_ids=ids, labels=ids, use_cache=False).loss
    engine.backward(loss)
    engine.step()
    return float(loss.detach())


def _seconds(engine: Engine, steps: int = 5) -> float:
    """Return the seconds of a step; reading its loss waits for the GPU."""
    start = time.perf_counter()
    for _ in range(steps):
        _step(engine)
    return (time.perf_counter() - start) / steps


def _falls(losses: list[float]) -> str:
    _require(losses[-1] < losses[0] - 0.1, f"the loss did not fall: {losses}.")
    return f"{losses[0]:.2f} -> {losses[-1]:.2f}"


def _allocated() -> int:
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


def _offloadable() -> list[Any]:
    from deepspeed.runtime.zero.offload_config import OffloadStateTypeEnum

    return list(OffloadStateTypeEnum)


def _tensors(state: dict[str, Any]) -> list[Tensor]:
    return [value for value in state.values() if isinstance(value, Tensor)]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise RuntimeError(message)


def _reason(error: Exception) -> str:
    """Return the error in a line: of a failed build the compiler's first complaint says more than its last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    fatal = next((line[line.index("error:") :] for line in lines if "error:" in line), None)
    text = fatal or (lines[0] if lines else type(error).__name__)
    return text if len(text) < 300 else text[:300] + " ..."


if __name__ == "__main__":
    main()
