"""What a run of the loop decides."""

from dataclasses import dataclass

from course_lib.rl.rewards import OnError


@dataclass(frozen=True)
class LoopConfig:
    """What one step is made of, and how often the loop looks up.

    Attributes:
        steps: how many steps the run has in all.
        prompts_per_step: prompts drawn for a step.
        samples_per_prompt: samples of each prompt, the group that advantages compare.
        max_new_tokens: the longest response.
        temperature: of sampling, and of every logprob that is computed.
        updates_per_batch: optimizer steps on each batch of samples; clipping acts from the second on.
        evaluate_every: steps between two measurements of held-out accuracy; it is measured before and after in any case.
        checkpoint_every: steps between two checkpoints.
        seed: decides problems and samples; the same seed gives the same curve on the CPU tier.
        on_reward_error: where a reward fails on a sample, `stop` ends the run with a checkpoint and the sample's text;
            `go_on` leaves the sample out, writes it to `faults.jsonl` in the run's folder, and counts it in the metrics.
    """

    steps: int = 30
    prompts_per_step: int = 8
    samples_per_prompt: int = 8
    max_new_tokens: int = 24
    temperature: float = 1.0
    updates_per_batch: int = 1
    evaluate_every: int = 10
    checkpoint_every: int = 10
    seed: int = 0
    on_reward_error: OnError = "stop"

    def __post_init__(self) -> None:
        counts = (
            "steps",
            "prompts_per_step",
            "max_new_tokens",
            "updates_per_batch",
            "evaluate_every",
            "checkpoint_every",
        )
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more.")
        if self.samples_per_prompt < 2:
            raise ValueError(
                f"samples_per_prompt is {self.samples_per_prompt}; a group needs 2 or more to be compared."
            )
        if not self.temperature > 0:
            raise ValueError(
                f"temperature is {self.temperature}; it must be above 0, or all samples of a group are the same."
            )
        if self.on_reward_error not in ("stop", "go_on"):
            raise ValueError(f"on_reward_error is {self.on_reward_error!r}; it must be 'stop' or 'go_on'.")
