"""Exercises of lesson 02."""

from course_lib.grading.exercises.fragmentation import batches, buddies, counting, first_fit, fitting, moving

EXERCISES = [
    fitting.best_fit,
    first_fit.first_fit,
    counting.count_waste,
    buddies.give_back,
    moving.compaction_plan,
    batches.end_steps,
]
