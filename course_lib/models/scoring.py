"""A reward model's folder: a policy's body with one number out instead of a vocabulary."""

import json
import shutil
from os import PathLike
from pathlib import Path
from typing import Any

from course_lib.models.errors import PolicyError
from course_lib.models.folder import check_folder, read_json
from course_lib.models.policies import load_policy

_CAUSAL, _CLASSIFIER = "ForCausalLM", "ForSequenceClassification"
_OWN = ("config.json", "generation_config.json", "manifest.json", "model.safetensors.index.json")


def with_score_head(
    policy_folder: str | PathLike[str], out: str | PathLike[str], seed: int = 0, scale: float = 0.02
) -> Path:
    """Write a `*ForSequenceClassification` folder with the policy's weights and a random head, and return it.

    The head is one row, `score.weight`, of normal numbers: where the training of a reward model begins (Ouyang et al. 2022,
    section 3.5, replace the LM head so). transformers and vLLM load the folder.

    Args:
        policy_folder: a folder or a name that `load_policy` knows.
        out: the folder to write; what is in it under the same names is replaced.
        seed: of the head.
        scale: the head's standard deviation.

    Raises:
        PolicyError: there is no such policy, or it is no causal language model.
    """
    import torch
    from huggingface_hub import save_torch_state_dict
    from safetensors.torch import load_file

    folder, out = load_policy(policy_folder), Path(out)
    config = read_json(folder / "config.json") or {}
    architecture = (config.get("architectures") or [""])[0]
    if not architecture.endswith(_CAUSAL):
        raise PolicyError(
            f"{folder.name} is of the architecture {architecture or 'unknown'!r}; a reward model is made from a *{_CAUSAL} one, "
            "such as 'smollm2'."
        )
    if out.resolve() == folder.resolve():
        raise PolicyError(f"{out.name} is the policy's own folder: give another one to write the reward model to.")
    out.mkdir(parents=True, exist_ok=True)
    weights: dict[str, Any] = {}
    for path in sorted(folder.glob("model*.safetensors")):
        weights |= load_file(path)
    weights.pop("lm_head.weight", None)
    chance = torch.Generator().manual_seed(seed)
    dtype = next(iter(weights.values())).dtype
    weights["score.weight"] = (torch.randn((1, config["hidden_size"]), generator=chance) * scale).to(dtype)
    save_torch_state_dict(weights, out)
    (out / "config.json").write_text(json.dumps(_score_config(config, architecture), indent=2) + "\n")
    for path in folder.iterdir():
        if path.is_file() and path.suffix != ".safetensors" and path.name not in _OWN:
            shutil.copy(path, out)
    return check_folder(out)


def _score_config(config: dict[str, Any], architecture: str) -> dict[str, Any]:
    eos = config.get("eos_token_id")
    pad = config.get("pad_token_id")
    if pad is None:  # transformers finds a padded row's last token by it
        pad = eos[0] if isinstance(eos, list) else eos
    return config | {
        "architectures": [architecture.removesuffix(_CAUSAL) + _CLASSIFIER],
        "id2label": {"0": "score"},
        "label2id": {"score": 0},
        "pad_token_id": pad,
    }
