"""Exercises of lesson 04."""

from course_lib.grading.exercises.scheduling import admitting, catching_up, hits, latency, preempting, whole

EXERCISES = [
    latency.latencies,
    catching_up.plan_running,
    admitting.admit,
    hits.admission_cost,
    preempting.make_room,
    whole.scheduler,
]
