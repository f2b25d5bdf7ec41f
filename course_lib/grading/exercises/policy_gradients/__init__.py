"""Exercises of lesson 07."""

from course_lib.grading.exercises.policy_gradients import (
    averaging,
    clipping,
    divergence,
    estimating,
    grouping,
    leaving_out,
    masking,
    mismatch,
    rewarding,
    sequences,
)

EXERCISES = [
    rewarding.number_reward,
    masking.response_mask,
    leaving_out.leave_one_out,
    grouping.group_advantages,
    clipping.clipped_loss,
    averaging.loss_shares,
    sequences.sequence_ratio,
    divergence.kl_estimate,
    mismatch.mismatch_weights,
    estimating.gae,
]
