# ruff: noqa: ARG001, D103  (what each gets wrong stands in its decorator; a stub's arguments are given)
"""The KV pool."""

from wrong_answers import wrong


def _pool(left, shape, block_size, bytes_per_number, prompt, output):
    if left <= 0:
        raise ValueError("nothing is left")
    blocks = int(left // (2 * shape.layers * shape.kv_heads * shape.head_dim * bytes_per_number * block_size))
    return blocks, (blocks - 1) // -(-(prompt + output - 1) // block_size)


@wrong("05.kv_pool", "share-of-the-rest", "Takes the share of what weights and activations leave.")
def share_of_rest(shape, gpu_bytes, utilization, weights, activations, block_size, bytes_per_number, prompt, output):
    left = (gpu_bytes - weights - activations) * utilization
    return _pool(left, shape, block_size, bytes_per_number, prompt, output)


@wrong("05.kv_pool", "share-ignored", "Fills the whole GPU.")
def whole_gpu(shape, gpu_bytes, utilization, weights, activations, block_size, bytes_per_number, prompt, output):
    return _pool(gpu_bytes - weights - activations, shape, block_size, bytes_per_number, prompt, output)


@wrong("05.kv_pool", "weights-forgotten", "Counts on memory that holds the weights.")
def no_weights(shape, gpu_bytes, utilization, weights, activations, block_size, bytes_per_number, prompt, output):
    return _pool(gpu_bytes * utilization - activations, shape, block_size, bytes_per_number, prompt, output)


@wrong("05.kv_pool", "activations-forgotten", "Leaves a step no memory to compute in.")
def no_activations(shape, gpu_bytes, utilization, weights, activations, block_size, bytes_per_number, prompt, output):
    return _pool(gpu_bytes * utilization - weights, shape, block_size, bytes_per_number, prompt, output)


@wrong("05.kv_pool", "keys-only", "Counts the keys and forgets the values.")
def keys_only(shape, gpu_bytes, utilization, weights, activations, block_size, bytes_per_number, prompt, output):
    left = gpu_bytes * utilization - weights - activations
    return _pool(2 * left, shape, block_size, bytes_per_number, prompt, output)


@wrong("05.kv_pool", "one-layer", "Takes a layer's page for a block.")
def one_layer(shape, gpu_bytes, utilization, weights, activations, block_size, bytes_per_number, prompt, output):
    left = gpu_bytes * utilization - weights - activations
    return _pool(left * shape.layers, shape, block_size, bytes_per_number, prompt, output)


@wrong("05.kv_pool", "query-heads", "Counts query heads.")
def query_heads(shape, gpu_bytes, utilization, weights, activations, block_size, bytes_per_number, prompt, output):
    left = int(gpu_bytes * utilization) - weights - activations
    blocks = left // (2 * shape.layers * shape.heads * shape.head_dim * bytes_per_number * block_size)
    return blocks, (blocks - 1) // -(-(prompt + output - 1) // block_size)


@wrong("05.kv_pool", "counts-tokens", "Returns tokens where blocks are asked for.")
def tokens(shape, gpu_bytes, utilization, weights, activations, block_size, bytes_per_number, prompt, output):
    left = int(gpu_bytes * utilization) - weights - activations
    fits = left // (2 * shape.layers * shape.kv_heads * shape.head_dim * bytes_per_number)
    return fits, fits // (prompt + output)


@wrong("05.kv_pool", "shared-blocks", "Deals out all slots as if requests shared blocks.")
def shared_blocks(shape, gpu_bytes, utilization, weights, activations, block_size, bytes_per_number, prompt, output):
    left = int(gpu_bytes * utilization) - weights - activations
    blocks, _ = _pool(left, shape, block_size, bytes_per_number, prompt, output)
    return blocks, (blocks - 1) * block_size // (prompt + output - 1)


@wrong("05.kv_pool", "prompt-only", "Admits by the prompts, which are all there is at first.")
def prompt_only(shape, gpu_bytes, utilization, weights, activations, block_size, bytes_per_number, prompt, output):
    left = int(gpu_bytes * utilization) - weights - activations
    return _pool(left, shape, block_size, bytes_per_number, prompt, 1)


@wrong("05.kv_pool", "null-block-given-away", "Gives block 0 to a request.")
def null_block(shape, gpu_bytes, utilization, weights, activations, block_size, bytes_per_number, prompt, output):
    left = int(gpu_bytes * utilization) - weights - activations
    blocks, _ = _pool(left, shape, block_size, bytes_per_number, prompt, output)
    return blocks, blocks // -(-(prompt + output - 1) // block_size)


@wrong("05.kv_pool", "slot-for-the-last-token", "Keeps a slot for the answer's last token.")
def last_token(shape, gpu_bytes, utilization, weights, activations, block_size, bytes_per_number, prompt, output):
    left = int(gpu_bytes * utilization) - weights - activations
    return _pool(left, shape, block_size, bytes_per_number, prompt, output + 1)


@wrong("05.kv_pool", "no-error", "Returns a pool of less than no blocks.")
def negative(shape, gpu_bytes, utilization, weights, activations, block_size, bytes_per_number, prompt, output):
    left = int(gpu_bytes * utilization) - weights - activations
    blocks = left // (2 * shape.layers * shape.kv_heads * shape.head_dim * bytes_per_number * block_size)
    return blocks, max(0, (blocks - 1) // -(-(prompt + output - 1) // block_size))
