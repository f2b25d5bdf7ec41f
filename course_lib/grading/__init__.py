"""Checks of the exercises and their reports: one grading path for the cell, the command line and CI."""
