"""Blocks, block tables, prefix caching, and attention through a block table."""
