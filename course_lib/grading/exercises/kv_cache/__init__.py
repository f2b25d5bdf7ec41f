"""Exercises of lesson 01."""

from course_lib.grading.exercises.kv_cache import attending, caching, costs, decoding

EXERCISES = [
    attending.attention,
    costs.kv_bytes,
    caching.cache,
    decoding.decoding,
    costs.generation_flops,
    costs.ridge_batch,
]
