"""Contiguous allocation of KV memory, and its waste."""
