"""From lessons (`lessons/*.py`, jupytext percent format) to notebooks: convert, execute, clean, lint and check."""
