"""Three bugs between samples and loss: some tokens count too little, too much, or not at all."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from unittest.mock import patch

from jaxtyping import Bool, Float, Int
from torch import Tensor

from course_lib.rl.batch import Batch
from course_lib.rl.bugs.bug import Bug, Evidence
from course_lib.rl.bugs.lab import BugLab
from course_lib.rl.bugs.loss_pass import IGNORED, LossPass

_ROUNDING = 0.01
"""How far weights that should be 1 may be off it."""


class MaskByValue(LossPass):
    """`tokenizer.pad_token = tokenizer.eos_token`, and then `mask = ids != pad_id`."""

    def mask(self, batch: Batch, eos_id: int) -> Bool[Tensor, "samples longest"]:
        """Return which tokens differ from the pad token: all but the padding, and all but the EOS that was sampled."""
        start = batch.rollout.input_ids.shape[1] - batch.rollout.logprobs.shape[1]
        padded = batch.rollout.input_ids[:, start:].masked_fill(~batch.rollout.response_mask, eos_id)
        return padded != eos_id


class MicroBatchMean(LossPass):
    """Each micro-batch takes its own mean, and the step the mean of these: right only where all have as many tokens."""

    def share(self, loss: Float[Tensor, " kept"], tokens: int, passes: int) -> Float[Tensor, ""]:  # noqa: ARG002
        """Return the micro-batch's mean over gradient_accumulation_steps."""
        return loss.mean() / passes


class LabelsInPlace(LossPass):
    """A slice is a view: what is written into the targets is written into the labels."""

    def targets(self, labels: Int[Tensor, "samples length"]) -> Int[Tensor, "samples length-1"]:
        """Return what each token is to predict; the caller's labels say from now on that 0 is to be learned everywhere."""
        targets = labels[:, 1:]
        targets[targets == IGNORED] = 0
        return targets


def _loss_pass(kind: type[LossPass]) -> Callable[[BugLab], AbstractContextManager[object]]:
    return lambda lab: patch.object(lab, "loss_pass", kind())


def _ends(lab: BugLab) -> Evidence:
    audit = lab.audit()
    lost, finished = int((audit.ends == 0).sum()), len(audit.ends)
    finding = (
        f"pad is EOS: {lost} of {finished} finished responses end in an EOS that got no gradient ({audit.trained} of"
        f" {lab.batch.tokens} response tokens were trained), so the policy can't learn to stop; mask by length, not by value"
    )
    return Evidence(audit.of_tokens, lost / max(1, finished), finding if lost else None)


def _sizes(lab: BugLab) -> Evidence:
    """One micro-batch against several: the shares of a mean over the step don't depend on the cut."""
    groups = lab.batch.groups()
    longest = max(group.length for group in groups)
    whole, cut = lab.audit(longest * len(groups)), lab.audit(3 * longest)
    change = float((cut.of_tokens / whole.of_tokens - 1).abs().max())
    finding = (
        f"micro-batch mean: cut into {cut.stats.micro_batches} micro-batches instead of {whole.stats.micro_batches}, the same"
        f" step gives single tokens up to {change:.0%} more or less weight (gradient norm {whole.stats.grad_norm:.3f} and"
        f" {cut.stats.grad_norm:.3f}); divide each micro-batch's sum by the tokens of the whole step"
    )
    return Evidence(cut.of_tokens, change, finding if change > _ROUNDING else None)


def _shares(lab: BugLab) -> Evidence:
    audit = lab.audit(reference_pass=True)
    finding = (
        f"labels changed in place: the tokens' shares of the loss add up to {audit.total:.3f} and not to 1: its normaliser"
        " counts tokens that are not responses; count before anything may write to the labels, or clone them"
    )
    return Evidence(audit.of_tokens, audit.total, finding if abs(audit.total - 1) > _ROUNDING else None)


def _no_ends(lab: BugLab) -> str | None:
    finished = bool(lab.batch.rollout.finished.any())
    return (
        None if finished else "no response of the batch ended by itself: give a larger max_new_tokens or more samples"
    )


LOSS_BUGS = (
    Bug(
        name="pad_is_eos",
        title="pad is EOS",
        what="Padding is masked by its token id, which is the EOS's too: the EOS that the policy sampled is masked with it.",
        source="TRL issues 2708 and 4970, verl issue 3805, DeepSpeedExamples issue 672",
        detector="an audit of the loss: which sampled EOS tokens get a gradient?",
        figure="share of sampled EOS tokens without a gradient",
        signature="token_weight",
        switch=_loss_pass(MaskByValue),
        look=_ends,
        absent=_no_ends,
    ),
    Bug(
        name="micro_batch_mean",
        title="micro-batch mean",
        what="The loss is a mean of micro-batches' means, so a token in a small micro-batch counts more than one in a large one.",
        source="verl issue 3741, TRL issue 6654, open-instruct issue 1161; transformers until October 2024",
        detector="an audit of the loss at two micro-batch sizes",
        figure="largest change of a token's weight between the sizes",
        signature="token_weight",
        switch=_loss_pass(MicroBatchMean),
        look=_sizes,
    ),
    Bug(
        name="labels_in_place",
        title="labels changed in place",
        what="Computing logprobs overwrites the -100 in the caller's labels; who counts response tokens later counts all tokens.",
        source="nano-aha-moment's script counts after the pass over the reference; its notebook counts before",
        detector="an audit of the loss: do the tokens' shares add up to 1?",
        figure="sum of the tokens' shares",
        signature="token_weight",
        switch=_loss_pass(LabelsInPlace),
        look=_shares,
    ),
)
"""Bugs between samples and loss."""
