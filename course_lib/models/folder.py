"""Is this folder a model? Asked before an engine is started on it: the engines' errors come late and name no file."""

import json
from pathlib import Path
from typing import Any

from course_lib.models.errors import PolicyError

_TOKENIZERS = (("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt"))
_INDEX = "model.safetensors.index.json"
_NAMED = 3  # a message names so many missing files at most


def check_folder(folder: Path) -> Path:
    """Return the folder, once it has a config, a tokenizer and every weight file that it needs.

    Raises:
        PolicyError: Something is missing or unreadable; the message names each such file.
    """
    missing = [*_config(folder), *_tokenizer(folder), *_weights(folder)]
    if missing:
        raise PolicyError(
            f"{folder} is not a whole model folder: {'; '.join(missing)}. Expected what transformers' save_pretrained "
            "writes for a model and its tokenizer: save both there, or use 'smollm2'."
        )
    return folder


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file, or None where there is none to read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _config(folder: Path) -> list[str]:
    path = folder / "config.json"
    if not path.is_file():
        return ["config.json is missing"]
    config = read_json(path)
    if config is None:
        return ["config.json is not a JSON object"]
    return [] if "model_type" in config else ["config.json has no model_type"]


def _tokenizer(folder: Path) -> list[str]:
    if any(all((folder / name).is_file() for name in names) for names in _TOKENIZERS):
        return []
    return [f"the tokenizer is missing ({' or '.join(' with '.join(names) for names in _TOKENIZERS)})"]


def _weights(folder: Path) -> list[str]:
    single = folder / "model.safetensors"
    if single.is_file():
        return _cut_short(single)
    if not (folder / _INDEX).is_file():
        return [f"the weights are missing (model.safetensors, or {_INDEX} and its parts)"]
    index = read_json(folder / _INDEX)
    places = index.get("weight_map") if index else None
    if not isinstance(places, dict) or not places:
        return [f"{_INDEX} has no weight_map"]
    parts = [folder / str(name) for name in sorted(set(places.values()))]
    gone = [part.name for part in parts if not part.is_file()]
    if gone:
        named = ", ".join(gone[:_NAMED]) + (", ..." if len(gone) > _NAMED else "")
        return [f"{len(gone)} of {len(parts)} weight files are missing ({named})"]
    return [wrong for part in parts for wrong in _cut_short(part)]


def _cut_short(path: Path) -> list[str]:
    """Opening a safetensors file reads its header and compares the offsets in it with the file's length."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt"):
            return []
    except (SafetensorError, OSError) as error:
        return [f"{path.name} is damaged or cut short ({error})"]
