"""Wrong answers to 01.kv_bytes."""

# The mistakes are the content here: unused arguments, magic numbers and missing docstrings are what people write.
# ruff: noqa: D103, ARG001

from wrong_answers import wrong


def _sizes(config):
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads", heads)
    return config["num_hidden_layers"], heads, kv_heads, config.get("head_dim", config["hidden_size"] // heads)


@wrong("01.kv_bytes", "keys-only", "Counts the keys and forgets the values.")
def keys_only(config, bytes_per_number=2):
    layers, _, kv_heads, head_dim = _sizes(config)
    return layers * kv_heads * head_dim * bytes_per_number


@wrong("01.kv_bytes", "query-heads", "Counts query heads.")
def query_heads(config, bytes_per_number=2):
    layers, heads, _, head_dim = _sizes(config)
    return 2 * layers * heads * head_dim * bytes_per_number


@wrong("01.kv_bytes", "one-layer", "Forgets that each layer has its own keys and values.")
def one_layer(config, bytes_per_number=2):
    _, _, kv_heads, head_dim = _sizes(config)
    return 2 * kv_heads * head_dim * bytes_per_number


@wrong("01.kv_bytes", "head-dim-guessed", "Divides hidden_size by the heads although the config gives head_dim.")
def guessed_head_dim(config, bytes_per_number=2):
    layers, heads, kv_heads, _ = _sizes(config)
    return 2 * layers * kv_heads * (config["hidden_size"] // heads) * bytes_per_number


@wrong("01.kv_bytes", "two-bytes-always", "Takes every number for bf16.")
def always_bf16(config, bytes_per_number=2):
    layers, _, kv_heads, head_dim = _sizes(config)
    return 2 * layers * kv_heads * head_dim * 2


@wrong("01.kv_bytes", "bits", "Returns bits.")
def bits(config, bytes_per_number=2):
    layers, _, kv_heads, head_dim = _sizes(config)
    return 2 * layers * kv_heads * head_dim * bytes_per_number * 8


@wrong("01.kv_bytes", "not-an-integer", "Returns a float, from a division.")
def a_float(config, bytes_per_number=2):
    layers, heads, kv_heads, head_dim = _sizes(config)
    return 2 * layers * heads * head_dim * bytes_per_number / (heads / kv_heads)


@wrong("01.kv_bytes", "group-size", "Counts the query heads of a group, not the groups.")
def group_size(config, bytes_per_number=2):
    layers, heads, kv_heads, head_dim = _sizes(config)
    shared = heads if heads == kv_heads else heads // kv_heads
    return 2 * layers * shared * head_dim * bytes_per_number


@wrong("01.kv_bytes", "crash", "Expects num_key_value_heads in configs that were written before there was GQA.")
def needs_kv_heads(config, bytes_per_number=2):
    layers, _, _, head_dim = _sizes(config)
    return 2 * layers * config["num_key_value_heads"] * head_dim * bytes_per_number
