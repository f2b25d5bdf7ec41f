"""Exercises of lesson 05."""

from course_lib.grading.exercises.serving import chatting, chunking, flooring, nucleus, sizing, stopping

EXERCISES = [
    sizing.kv_pool,
    chatting.chat_prompt,
    nucleus.sampling_probs,
    stopping.stream_text,
    chunking.stream_chunks,
    flooring.least_seconds,
]
