"""`load_policy`: from a name to a model folder."""

import difflib
import re
from collections.abc import Callable
from os import PathLike, fspath
from pathlib import Path

from course_lib.models import smollm2, tiny
from course_lib.models.cache import Recipe, materialise
from course_lib.models.errors import PolicyError
from course_lib.models.folder import check_folder
from course_lib.models.hub import fetch

OWN: dict[str, Callable[[], Recipe]] = {"tiny": tiny.recipe, "smollm2": smollm2.recipe}
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_CHOICES = (
    "'tiny' (random weights, for tests), 'smollm2' (SmolLM2-135M-Instruct, needs no network), "
    "a folder that holds a model, or a hub name such as 'Qwen/Qwen3-4B-Instruct-2507'"
)


def load_policy(name: str | PathLike[str]) -> Path:
    """Return a Hugging Face model folder: config, safetensors, tokenizer, chat template.

    The course's own policies win over a folder of the same name; write `./tiny` for the folder.

    Args:
        name: `"tiny"`, `"smollm2"`, a folder, or a hub name (`"org/name"`).

    Raises:
        PolicyError: There is no such policy, or it can't be made, read or fetched; the message says what to do.
    """
    text = fspath(name)
    if text in OWN:
        return materialise(OWN[text]())
    path = Path(text).expanduser()
    if text and path.is_dir():
        return check_folder(path)
    if text and path.exists():
        raise PolicyError(f"{text!r} is a file, and a policy is the folder around it: give {str(path.parent)!r}.")
    if _HUB_NAME.fullmatch(text) and text[0] not in ".~":
        return fetch(text)
    if "/" in text:
        raise PolicyError(f"There is no folder {text!r} (looked for {path.absolute()}). A policy is {_CHOICES}.")
    close = difflib.get_close_matches(text.lower(), OWN, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise PolicyError(f"There is no policy {text!r}.{hint} A policy is {_CHOICES}.")
