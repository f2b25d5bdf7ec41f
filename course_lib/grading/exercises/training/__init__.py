"""Exercises of lesson 06."""

from course_lib.grading.exercises.training import (
    accumulating,
    consolidating,
    labelling,
    memory,
    mixing,
    preferring,
    sharding,
)

EXERCISES = [
    memory.zero_memory,
    sharding.partition,
    accumulating.accumulate,
    mixing.master_weights,
    labelling.sft_labels,
    preferring.bradley_terry,
    consolidating.checkpoint,
]
