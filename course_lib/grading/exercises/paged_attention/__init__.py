"""Exercises of lesson 03."""

from course_lib.grading.exercises.paged_attention import attending, blocks, free_list, pool, prefix

EXERCISES = [
    blocks.slot_mapping,
    blocks.new_blocks,
    attending.paged_attention,
    pool.block_pool,
    free_list.give_back,
    prefix.cached_prefix,
]
