"""Decoding with and without a KV cache, and what it costs."""
