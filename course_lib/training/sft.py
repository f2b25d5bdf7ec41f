"""Supervised fine-tuning: the policy learns to say what the assistant of a conversation said."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from course_lib.training.chat import Conversation, split_last_turn
from course_lib.training.engine import StepStats
from course_lib.training.packing import Group, PackedBatch
from course_lib.training.trainer import LossFunction, PolicyTrainer


def supervised_groups(tokenizer: Any, conversations: Sequence[Conversation]) -> list[Group]:
    """Return a group for each of the assistant's turns: what was said before it, and the turn, which is what is trained.

    The turn ends with the template's end-of-turn token, which is trained too: who never learns it never stops. Every turn
    is rendered as it is at generation, with nothing after it, so that templates that rewrite earlier turns (Qwen3 drops
    their thoughts) give what the policy will see.

    Args:
        tokenizer: of the policy's folder; it has a chat template.
        conversations: messages with `role` and `content`; those of other roles than `assistant` are not trained.

    Raises:
        ValueError: a conversation is empty or malformed; the message gives its index.
    """
    groups: list[Group] = []
    for index, conversation in enumerate(conversations):
        try:
            for end in _assistant_turns(conversation):
                prompt, response = split_last_turn(tokenizer, conversation[:end])
                groups.append(Group(prompt, [response], [len(groups)]))
        except ValueError as error:
            raise ValueError(f"conversation {index}: {error}") from error
    return groups


def supervised_loss(total_tokens: int) -> LossFunction:
    """Return the loss of a step that trains `total_tokens` tokens: their mean negative logprob, in nats.

    Divided by the tokens of the whole step, over all its micro-batches and ranks: a mean of micro-batch means would give a
    token of a short micro-batch more weight than one of a long one.

    Raises:
        ValueError: there are no tokens.
    """
    if total_tokens < 1:
        raise ValueError(f"total_tokens is {total_tokens}; a step needs a token to train.")

    def loss(batch: PackedBatch, logprobs: Tensor, entropy: Tensor) -> Tensor:  # noqa: ARG001 (a LossFunction)
        return -logprobs.sum() / total_tokens

    return loss


def fine_tune(
    trainer: PolicyTrainer,
    conversations: Sequence[Conversation],
    steps: int,
    batch: int = 8,
    seed: int = 0,
    on_step: Callable[[StepStats], None] | None = None,
) -> list[StepStats]:
    """Take `steps` optimizer steps on the assistant's turns of conversations, and return what each did.

    Every epoch goes through the turns in a new order. Which ones a step sees depends on the seed and the number of steps
    that the trainer has taken, so that a trainer that was loaded from a checkpoint goes on where it was saved.

    Args:
        trainer: the policy; its folder has the tokenizer.
        conversations: see `supervised_groups`.
        steps: optimizer steps to take.
        batch: turns of one step, over all ranks; each rank takes its share.
        seed: of the order.
        on_step: is called after each step.

    Raises:
        ValueError: a conversation is malformed, or `batch` is below the number of ranks.
    """
    groups = supervised_groups(_tokenizer(trainer), conversations)
    rank, ranks = trainer.engine.global_rank, trainer.world_size
    if batch < ranks:
        raise ValueError(f"batch is {batch}, for {ranks} rank(s); each rank needs a turn to train.")
    found = []
    for step in range(trainer.steps, trainer.steps + steps):
        chosen = [groups[index] for index in batch_indices(len(groups), batch, step, seed)]
        stats = trainer.step(chosen[rank::ranks], supervised_loss(_tokens(chosen)))
        found.append(stats)
        if on_step:
            on_step(stats)
    return found


def held_out_loss(trainer: PolicyTrainer, conversations: Sequence[Conversation]) -> float:
    """Return the mean negative logprob of the assistant's tokens, in nats, without training on them.

    Raises:
        ValueError: a conversation is malformed.
    """
    groups = supervised_groups(_tokenizer(trainer), conversations)
    return -sum(float(values.sum()) for values in trainer.logprobs(groups).values()) / _tokens(groups)


def batch_indices(count: int, batch: int, step: int, seed: int) -> list[int]:
    """Return which of `count` examples the step sees: `batch` of a stream that runs through them in a new order each epoch."""
    orders: dict[int, list[int]] = {}
    for epoch in {place // count for place in range(step * batch, (step + 1) * batch)}:
        orders[epoch] = random.Random(f"{seed} {epoch}").sample(range(count), count)
    return [orders[place // count][place % count] for place in range(step * batch, (step + 1) * batch)]


def _tokens(groups: Sequence[Group]) -> int:
    return sum(len(response) for group in groups for response in group.responses)


def _tokenizer(trainer: PolicyTrainer) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(trainer.folder)


def _assistant_turns(conversation: Any) -> Iterator[int]:
    """Yield for each turn of the assistant the number of messages up to and with it, once all of them are well formed."""
    if isinstance(conversation, str) or not isinstance(conversation, Sequence) or not conversation:
        raise ValueError(f"is {conversation!r}; expected a list of messages, one or more.")
    for place, message in enumerate(conversation):
        well_formed = isinstance(message, Mapping) and all(isinstance(message.get(k), str) for k in ("role", "content"))
        if not well_formed:
            raise ValueError(f"message {place} is {message!r}; expected a dict with `role` and `content`, both text.")
    turns = [place for place, message in enumerate(conversation) if message["role"] == "assistant"]
    if not turns:
        roles = ", ".join(sorted({message["role"] for message in conversation}))
        raise ValueError(f"has no turn of the `assistant` (its roles: {roles}): there is nothing to learn from it.")
    for place in turns:
        if place == 0:
            raise ValueError("begins with the assistant; somebody else has to speak first.")
        if not conversation[place]["content"].strip():
            raise ValueError(f"message {place}, the assistant's, is empty; give what it should have said, or drop it.")
        yield place + 1
