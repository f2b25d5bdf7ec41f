"""Supervised fine-tuning: the right tokens, the right loss, and batches that a restart does not change."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from course_lib.models import load_policy
from course_lib.training import (
    Policy,
    PolicyTrainer,
    TrainerConfig,
    addition_conversations,
    fine_tune,
    held_out_loss,
    pack,
    supervised_groups,
    supervised_loss,
)
from course_lib.training.chat import split_last_turn
from course_lib.training.sft import batch_indices

# ChatML as the course's policies have it, with the mark that transformers reads an assistant's turns from.
MARKED = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
END = 2  # <|im_end|> of both
# Letters of one byte and of several, and white space, which merges with what is beside it. No control characters: SmolLM2's
# vocabulary lacks some of their bytes, and transformers finds no token where an answer of them begins.
CONTENT = st.text("ab 07\n.+,?é語🙂\u00a0", max_size=12) | st.sampled_from(
    ["\n\nyes", "  two", "7 + 5 = 12.", "so \n\n "]
)


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, str]]:
    """A system prompt or none, then turns of user and assistant, one to three each; the assistant always says something."""
    found = [{"role": "system", "content": draw(CONTENT)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        found.append({"role": "user", "content": draw(CONTENT)})
        found.append({"role": "assistant", "content": draw(CONTENT.filter(str.strip))})
    return found


@pytest.fixture(scope="module", params=["tiny", "smollm2"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    """A policy's own tokenizer, its template written so that transformers too can say what the assistant's tokens are."""
    found = AutoTokenizer.from_pretrained(load_policy(request.param))
    found.chat_template = MARKED
    return found


@settings(max_examples=150, deadline=None)
@given(conversation=conversations())
def test_the_tokens_are_those_of_transformers_assistant_mask(
    tokenizer: Any, conversation: list[dict[str, str]]
) -> None:
    groups = supervised_groups(tokenizer, [conversation])
    ends = [place + 1 for place, message in enumerate(conversation) if message["role"] == "assistant"]
    assert [group.samples for group in groups] == [[number] for number in range(len(ends))]
    for group, end in zip(groups, ends, strict=True):
        theirs = tokenizer.apply_chat_template(
            conversation[:end], tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        ids, mask = theirs["input_ids"], theirs["assistant_masks"]
        stop = len(mask) - mask[::-1].index(1)
        start = max(place for place in range(stop) if not mask[place]) + 1
        assert (group.prompt_ids, group.responses) == (ids[:start], [ids[start:stop]])
        assert group.responses[0][-1] == END


def test_the_course_s_own_templates_give_the_answer_and_its_end() -> None:
    for name in ("tiny", "smollm2"):
        tokenizer = AutoTokenizer.from_pretrained(load_policy(name))
        (group,) = supervised_groups(tokenizer, addition_conversations(1))
        assert tokenizer.decode(group.prompt_ids).endswith("<|im_start|>assistant\n")
        assert tokenizer.decode(group.responses[0]) == addition_conversations(1)[0][1]["content"] + "<|im_end|>"


USER, ANSWER = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ([], "one or more"),
        ("hi", "expected a list of messages"),
        ([USER, "hi"], "message 1 is 'hi'"),
        ([USER, {"role": "assistant"}], "message 1 is"),
        ([{"from": "human", "value": "hi"}, ANSWER], "message 0 is"),
        ([USER, {"role": "assistant", "content": 5}], "message 1 is"),
        ([USER], "no turn of the `assistant`"),
        ([ANSWER], "begins with the assistant"),
        ([USER, ANSWER, USER, {"role": "assistant", "content": " \n"}], "message 3, the assistant's, is empty"),
    ],
)
def test_a_malformed_conversation_is_named_by_its_index(tiny_folder: Path, wrong: Any, reason: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    with pytest.raises(ValueError, match=r"^conversation 2: ") as error:
        supervised_groups(tokenizer, [[USER, ANSWER], [USER, ANSWER, USER, ANSWER], wrong])
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (None, "has no chat template"),
        ("{{ raise_exception('roles must alternate') }}", "refuses the conversation: roles must alternate"),
        ("{% for m in messages %}{{ m['content'] + '\\n' }}{% endfor %}", "no special token"),
        ("{{ messages | length }}{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}", "in another way"),
    ],
)
def test_a_template_that_can_not_be_learned_from_is_refused(
    tiny_folder: Path, template: str | None, reason: str
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match=reason):
        split_last_turn(tokenizer, [USER, ANSWER])


@settings(max_examples=20, deadline=None)
@given(batch=st.lists(conversations(), min_size=1, max_size=4))
def test_the_loss_is_transformers_cross_entropy(plain: tuple[Policy, Any, Any], batch: list[Any]) -> None:
    policy, model, tokenizer = plain
    groups = supervised_groups(tokenizer, batch)
    total = sum(len(group.responses[0]) for group in groups)
    packed = pack(groups)
    found = supervised_loss(total)(packed, *policy(packed))

    theirs = [
        tokenizer.apply_chat_template(one, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
        for one in batch
    ]
    length = max(len(one["input_ids"]) for one in theirs)
    ids, labels = torch.zeros((len(batch), length), dtype=torch.long), torch.full((len(batch), length), -100)
    for row, one in enumerate(theirs):
        tokens, mask = torch.tensor(one["input_ids"]), torch.tensor(one["assistant_masks"]).bool()
        ids[row, : len(tokens)] = tokens
        labels[row, : len(tokens)][mask] = tokens[mask]
    torch.testing.assert_close(found, model(input_ids=ids, labels=labels).loss, atol=2e-4, rtol=0)


@pytest.fixture(scope="module")
def plain(tiny_folder: Path) -> tuple[Policy, Any, Any]:
    """The tiny policy in fp32, ours and transformers' own, and its tokenizer with the marked template."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    tokenizer.chat_template = MARKED
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32).requires_grad_(False)
    return Policy(tiny_folder, dtype=torch.float32).eval().requires_grad_(False), model, tokenizer


UNEQUAL = [[USER, {"role": "assistant", "content": "5"}] for _ in range(3)]
UNEQUAL += [[USER, {"role": "assistant", "content": "Write a short story about the old memory. " * 4}]]


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_token_weighs_the_same_in_a_short_micro_batch_and_in_a_long_one(stage: int, tiny_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    by_conversation = [-held_out(tiny_folder, one) for one in supervised_groups(tokenizer, UNEQUAL)]
    lengths = [len(values) for values in by_conversation]
    expected = float(torch.cat(by_conversation).mean())
    means = sum(float(values.mean()) for values in by_conversation) / len(lengths)
    assert abs(means - expected) > 0.02 * expected  # else the two would not be told apart

    whole, cut = (
        fine_tune(PolicyTrainer(tiny_folder, TrainerConfig(zero_stage=stage, micro_batch_tokens=tokens)), UNEQUAL, 1, 4)
        for tokens in (4096, 1)
    )
    assert (whole[0].micro_batches, cut[0].micro_batches) == (1, 4)
    assert [whole[0].loss, cut[0].loss] == pytest.approx([expected] * 2, rel=5e-3)
    assert cut[0].grad_norm == pytest.approx(whole[0].grad_norm, rel=1e-2)


def held_out(folder: Path, group: Any) -> torch.Tensor:
    policy = Policy(folder).eval().requires_grad_(False)
    return policy(pack([group]))[0]


def test_training_lowers_the_loss_on_conversations_that_it_does_not_see(tiny_folder: Path) -> None:
    data = addition_conversations(72)
    trainer = PolicyTrainer(tiny_folder, TrainerConfig(learning_rate=1e-3, warmup_steps=4))
    before = held_out_loss(trainer, data[64:])
    seen: list[float] = []
    steps = fine_tune(trainer, data[:64], steps=12, on_step=lambda stats: seen.append(stats.loss))
    assert seen == [step.loss for step in steps] and len(seen) == 12
    assert held_out_loss(trainer, data[64:]) < before - 3


def test_a_trainer_that_was_loaded_goes_on_with_the_data_where_it_was(tiny_folder: Path, tmp_path: Path) -> None:
    data, config = addition_conversations(10), TrainerConfig(learning_rate=1e-3)
    unbroken = fine_tune(PolicyTrainer(tiny_folder, config), data, steps=5, batch=4)
    first = PolicyTrainer(tiny_folder, config)
    begun = fine_tune(first, data, steps=2, batch=4)
    first.save(tmp_path)
    second = PolicyTrainer(tiny_folder, config)
    second.load(tmp_path)
    assert begun + fine_tune(second, data, steps=3, batch=4) == unbroken


@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 5), st.integers(0, 3))
def test_an_epoch_sees_everything_once(count: int, batch: int, epochs: int, seed: int) -> None:
    steps = -(-count * epochs // batch)
    stream = [index for step in range(steps) for index in batch_indices(count, batch, step, seed)]
    assert Counter(stream[: count * epochs]) == dict.fromkeys(range(count), epochs) if epochs else not stream


def test_epochs_and_seeds_differ_in_their_order() -> None:
    orders = [tuple(batch_indices(50, 50, step, seed)) for step in range(2) for seed in range(2)]
    assert len(set(orders)) == 4


def test_wrong_counts_are_refused(tiny_folder: Path) -> None:
    with pytest.raises(ValueError, match="total_tokens is 0"):
        supervised_loss(0)
    with pytest.raises(ValueError, match="batch is 0, for 1 rank"):
        fine_tune(PolicyTrainer(tiny_folder), addition_conversations(2), steps=1, batch=0)


@given(st.integers(1, 300), st.integers(0, 5))
def test_additions_are_right_and_share_no_pair_of_numbers(count: int, seed: int) -> None:
    pairs = []
    for user, assistant in addition_conversations(count, seed):
        a, b = map(int, user["content"].removeprefix("What is ").removesuffix("?").split("+"))
        assert assistant["content"] == f"{a} + {b} = {a + b}."
        pairs.append(tuple(sorted((a, b))))
    assert len(set(pairs)) == count


@pytest.mark.parametrize("count", [0, 1327])
def test_more_additions_than_there_are_is_an_error(count: int) -> None:
    with pytest.raises(ValueError, match="1326 different additions"):
        addition_conversations(count)
