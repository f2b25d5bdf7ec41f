"""What `save` leaves on the disk: whole or not at all, and turned into a Hugging Face folder that vLLM loads."""

import contextlib
import io
import json
import shutil
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import logging

from course_lib import machine
from course_lib.models.folder import check_folder

_TAGS = ("deepspeed", "deepspeed_2")  # a save goes beside the last one
_LATEST = "latest"  # DeepSpeed's own tools read it too
_LAYOUT = "layout.json"
_PREFIX = "model."  # a trainer's module holds the Hugging Face model under this name


@dataclass(frozen=True)
class Layout:
    """What decides how a checkpoint is cut into files."""

    zero_stage: int
    ranks: int

    @property
    def files(self) -> list[str]:
        """Return the names of the files that DeepSpeed writes: with ZeRO, one a rank holds the optimizer and fp32 master."""
        if self.zero_stage == 0:
            return ["mp_rank_00_model_states.pt"]
        optimizer = [f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in range(self.ranks)]
        if self.zero_stage < 3:
            return ["mp_rank_00_model_states.pt", *optimizer]
        return [f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt" for rank in range(self.ranks)] + optimizer


def next_tag(folder: Path) -> str:
    """Return the name under which the next save in `folder` goes: not that of the newest whole one."""
    latest = folder / _LATEST
    return next(tag for tag in _TAGS if not latest.is_file() or latest.read_text() != tag)


def publish(folder: Path, tag: str, layout: Layout) -> None:
    """Make a save that every rank has finished the one that `find` finds, in one step, and drop the one before it."""
    # `torch.load` notices no bit that a disk has flipped: it becomes a weight, and training goes on. `find` notices.
    described = asdict(layout) | {"crc32": _checksums(folder / tag, layout)}
    (folder / tag / _LAYOUT).write_text(json.dumps(described))
    draft = folder / f"{_LATEST}.partial"
    draft.write_text(tag)
    draft.replace(folder / _LATEST)
    for old in _TAGS:
        if old != tag:
            shutil.rmtree(folder / old, ignore_errors=True)


def find(folder: str | Path) -> tuple[str, Layout]:
    """Return the tag of the newest whole checkpoint in `folder`, and its layout; every file is read and compared.

    Raises:
        FileNotFoundError: there is none, or files of it are gone; the message names them.
        OSError: files of it are not what was written any more, or can't be read; the message names them.
    """
    folder = Path(folder)
    try:
        tag = (folder / _LATEST).read_text()
        described = json.loads((folder / tag / _LAYOUT).read_text())
        written = dict(described.pop("crc32"))
        layout = Layout(**described)
    except (OSError, ValueError, TypeError, KeyError) as error:  # DeepSpeed's own answer is an empty AssertionError
        begun = any((folder / tag).is_dir() for tag in _TAGS)
        what = (
            "only a save that was cut short or damaged, no whole DeepSpeed checkpoint"
            if begun
            else "no DeepSpeed checkpoint"
        )
        raise FileNotFoundError(
            f"{folder} holds {what}; give a folder that a trainer's save() wrote to its end."
        ) from error
    missing = [name for name in layout.files if not (folder / tag / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder} holds a DeepSpeed checkpoint of ZeRO stage {layout.zero_stage} on {layout.ranks} rank(s) that lacks"
            f" {len(missing)} of its {len(layout.files)} files: {', '.join(missing[:3])}{', ...' if missing[3:] else ''}."
            f" Each rank wrote its own: bring them together in {folder / tag}, or use another checkpoint."
        )
    sums = _checksums(folder / tag, layout)
    changed = [name for name in layout.files if sums[name] != written.get(name)]
    if changed:
        raise OSError(
            f"{folder} holds a DeepSpeed checkpoint that is damaged: {len(changed)} of its {len(layout.files)} files are not what"
            f" was written: {', '.join(changed[:3])}{', ...' if changed[3:] else ''}. Use another checkpoint."
        )
    return tag, layout


def _checksums(folder: Path, layout: Layout) -> dict[str, str]:
    """Return the CRC-32 of each file of a checkpoint. A GB takes about a second, files are read at the same time."""
    with ThreadPoolExecutor() as pool:
        return dict(zip(layout.files, pool.map(_crc32, (folder / name for name in layout.files)), strict=True))


def _crc32(file: Path) -> str:
    checksum = 0
    with file.open("rb") as chunks:
        while chunk := chunks.read(1 << 20):
            checksum = zlib.crc32(chunk, checksum)
    return f"{checksum:08x}"


def consolidate(
    checkpoint: str | Path, policy_folder: str | Path, out: str | Path, dtype: torch.dtype = torch.bfloat16
) -> Path:
    """Turn what `PolicyTrainer.save` wrote into a Hugging Face folder, without GPUs and without the ranks that wrote it.

    The weights come out of the optimizer's fp32 master copy, put together from the ranks' parts by DeepSpeed's own
    `zero_to_fp32`, which knows ZeRO 1 to 3; stage 0 has no parts.

    Args:
        checkpoint: the folder given to `save`; any stage, any number of ranks.
        policy_folder: the folder that the trainer started from: its config and tokenizer.
        out: the folder to write, for transformers and vLLM.
        dtype: torch.float32 for the master copy as it is, torch.bfloat16 for the weights that the trainer computed with.

    Returns:
        `out`.

    Raises:
        OSError: there is no whole checkpoint; the message names what is missing (then it is a FileNotFoundError) or damaged.
        PolicyError: `policy_folder` is not a model.
        ValueError: the checkpoint is of another model, or dtype is neither of the two.
    """
    import transformers

    if dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"dtype is {dtype}; it must be torch.float32 or torch.bfloat16.")
    tag, layout = find(checkpoint)
    source = check_folder(Path(policy_folder))
    config = transformers.AutoConfig.from_pretrained(source, dtype=dtype)
    with torch.device("meta"):
        model = getattr(transformers, config.architectures[0])(config).to(dtype)
    saved = _master_weights(Path(checkpoint), tag, layout)
    shapes = {name: weight.shape for name, weight in model.named_parameters()}
    found = {name: saved[_PREFIX + name].shape for name in shapes if _PREFIX + name in saved}
    if found != shapes:
        wrong = [name for name in shapes if found.get(name) != shapes[name]]
        raise ValueError(
            f"{checkpoint} is not of the model in {source}: {len(wrong)} weights are missing or of another shape ({wrong[0]}"
            " is one). Give the folder that the trainer started from."
        )
    write_folder(model, {name: saved.pop(_PREFIX + name).contiguous().to(dtype) for name in shapes}, source, Path(out))
    return Path(out)


def write_folder(model: nn.Module, weights: Mapping[str, Tensor], source: Path, out: Path) -> None:
    """Write weights as a Hugging Face folder, with the tokenizer and whatever else `source` has beside its own weights."""
    logging.disable_progress_bar()  # writing takes a second
    save: Any = model.save_pretrained
    save(out, state_dict=dict(weights))
    for file in source.iterdir():
        if file.is_file() and not file.name.endswith((".safetensors", ".bin", ".index.json")):
            if not (out / file.name).exists():
                shutil.copy2(file, out / file.name)


def _master_weights(folder: Path, tag: str, layout: Layout) -> dict[str, Any]:
    """Return the fp32 master copy by name; what DeepSpeed gathers lazily has `contiguous` and `shape`, as a tensor has."""
    if layout.zero_stage == 0:
        return _stage_0_weights(torch.load(folder / tag / layout.files[0], map_location="cpu", weights_only=False))
    machine.prepare()
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # it tells of each step
        return dict(get_fp32_state_dict_from_zero_checkpoint(str(folder), tag=tag, lazy_mode=True))


def _stage_0_weights(saved: dict[str, Any]) -> dict[str, Tensor]:
    """Name the fp32 copies: they come in the order of the weights that are trained, and round to them."""
    masters = [master for group in saved["optimizer"]["fp32_groups"] for master in group]
    named: dict[str, Tensor] = {}
    for name, weight in saved["module"].items():
        trained = masters and masters[0].shape == weight.shape and torch.equal(masters[0].to(weight.dtype), weight)
        named[name] = masters.pop(0) if trained else weight.float()
    return named
