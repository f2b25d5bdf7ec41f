"""What a model folder says about itself, for arithmetic on bytes: read from its headers, no weight is loaded."""

from dataclasses import dataclass
from math import prod
from pathlib import Path

from course_lib.models.folder import check_folder, read_json

_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True)
class PolicyInfo:
    """The sizes of a decoder; `heads` are query heads, `kv_bytes_per_token` is keys and values over all layers."""

    parameters: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    vocab: int
    dtype: str
    kv_bytes_per_token: int


def describe(folder: Path) -> PolicyInfo:
    """Return the sizes of the model in `folder`; tied weights count once.

    Raises:
        PolicyError: The folder is not a whole model.
    """
    from safetensors import safe_open

    config = read_json(check_folder(folder) / "config.json") or {}
    parameters, dtype = 0, ""
    for path in sorted(folder.glob("model*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (the handle is no mapping)
                header = file.get_slice(name)
                parameters, dtype = parameters + prod(header.get_shape()), header.get_dtype()
    heads = int(config["num_attention_heads"])
    kv_heads = int(config.get("num_key_value_heads") or heads)
    head_dim = int(config.get("head_dim") or config["hidden_size"] // heads)
    layers = int(config["num_hidden_layers"])
    return PolicyInfo(
        parameters=parameters,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        hidden=int(config["hidden_size"]),
        vocab=int(config["vocab_size"]),
        dtype=dtype,
        kv_bytes_per_token=2 * layers * kv_heads * head_dim * _BYTES[dtype],
    )
