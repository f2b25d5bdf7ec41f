"""Packing changes no logprob: each sample sees what it would see alone, whatever lies beside it."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, PreTrainedModel

from course_lib.training import Group, Policy, micro_batches, pack
from course_lib.training.policy import sample_logprobs

TOKEN = st.integers(0, 511)
PROMPT = st.lists(TOKEN, min_size=1, max_size=10)
RESPONSES = st.lists(st.lists(TOKEN, max_size=7), min_size=1, max_size=5)
TOLERANCE = 2e-4  # nats: fp32 sums in another order


@st.composite
def batches(draw: st.DrawFn) -> list[Group]:
    """Groups whose samples are numbered in no order: nothing may rely on theirs."""
    parts = draw(st.lists(st.tuples(PROMPT, RESPONSES), min_size=1, max_size=5))
    numbers = iter(draw(st.permutations(range(sum(len(responses) for _, responses in parts)))))
    return [Group(prompt, responses, [next(numbers) for _ in responses]) for prompt, responses in parts]


@pytest.fixture(scope="module")
def policy(tiny_folder: Path) -> Policy:
    return Policy(tiny_folder, dtype=torch.float32).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def plain(tiny_folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32).requires_grad_(False)


def alone(plain: PreTrainedModel, prompt: list[int], response: list[int]) -> torch.Tensor:
    """The response's logprobs by transformers' own forward pass: one sample, no padding, the whole softmax."""
    table = torch.log_softmax(plain(torch.tensor([prompt + response])).logits[0], dim=-1)
    return table[len(prompt) - 1 : -1].gather(1, torch.tensor(response, dtype=torch.long)[:, None])[:, 0]


def by_sample(policy: Policy, cut: list[list[Group]]) -> dict[int, torch.Tensor]:
    return sample_logprobs(policy, [(batch, True) for batch in cut], "cpu", 1.0)


@settings(max_examples=30, deadline=None)
@given(batches())
def test_packed_logprobs_are_those_of_each_sample_alone(
    policy: Policy, plain: PreTrainedModel, groups: list[Group]
) -> None:
    packed = by_sample(policy, [groups])
    samples = [sample for group in groups for sample in group.samples]
    assert sorted(packed) == sorted(samples)
    for group in groups:
        for sample, response in zip(group.samples, group.responses, strict=True):
            expected = alone(plain, group.prompt_ids, response)
            torch.testing.assert_close(packed[sample], expected, atol=TOLERANCE, rtol=0)


@settings(max_examples=30, deadline=None)
@given(groups=batches(), limits=st.lists(st.integers(1, 120), min_size=2, max_size=2))
def test_logprobs_do_not_depend_on_the_cut(policy: Policy, groups: list[Group], limits: list[int]) -> None:
    one, other = (by_sample(policy, list(micro_batches(groups, limit))) for limit in limits)
    assert one.keys() == other.keys()
    for sample in one:
        torch.testing.assert_close(one[sample], other[sample], atol=TOLERANCE, rtol=0)


@settings(deadline=None)
@given(batches())
def test_a_token_sees_its_prompt_and_its_own_past_and_nothing_else(groups: list[Group]) -> None:
    batch = pack(groups, pad_id=7)
    rows, length = batch.input_ids.shape
    assert batch.attention_mask.shape == (rows, 1, length, length)
    for row, group in enumerate(groups):
        owner = [-1] * len(group.prompt_ids)  # -1 the prompt, then each response's number
        for number, response in enumerate(group.responses):
            owner += [number] * len(response)
        for query in range(length):
            expected = {query}  # padding: itself, so that its softmax has something to sum
            if query < len(owner):
                expected = {key for key in range(query + 1) if owner[key] in (-1, owner[query])}
            seen = set(batch.attention_mask[row, 0, query].nonzero().flatten().tolist())
            assert seen == expected, f"row {row}, query {query}"
        assert (batch.input_ids[row, len(owner) :] == 7).all()


@given(batches())
def test_indices_lead_back_to_the_tokens(groups: list[Group]) -> None:
    batch = pack(groups)
    response_of = dict(
        zip([s for g in groups for s in g.samples], [r for g in groups for r in g.responses], strict=True)
    )
    prompt_of = {sample: group.prompt_ids for group in groups for sample in group.samples}
    assert len(batch.targets) == sum(map(len, response_of.values()))
    for target, sample, offset, predictor in zip(
        *(part.tolist() for part in (batch.targets, batch.samples, batch.offsets, batch.predictors)), strict=True
    ):
        prompt, response = prompt_of[sample], response_of[sample]
        assert target == response[offset]
        # The predictor is the token before it in the sample, at that token's position.
        assert batch.input_ids.flatten()[predictor] == (prompt + response)[len(prompt) + offset - 1]
        assert batch.position_ids.flatten()[predictor] == len(prompt) + offset - 1


@given(groups=batches(), limit=st.integers(1, 120))
def test_micro_batches_keep_each_sample_once_within_the_limit(groups: list[Group], limit: int) -> None:
    def content(pieces: list[Group]) -> list[tuple[int, list[int], list[int]]]:
        rows = [(s, g.prompt_ids, r) for g in pieces for s, r in zip(g.samples, g.responses, strict=True)]
        return sorted(rows)

    cut = list(micro_batches(groups, limit))
    assert content([piece for batch in cut for piece in batch]) == content(groups)
    for batch in cut:
        padded = len(batch) * max(piece.length for piece in batch)
        assert padded <= limit or (len(batch) == 1 and len(batch[0].responses) == 1)
    whole = {tuple(piece.samples) for batch in cut for piece in batch}
    assert all(tuple(group.samples) in whole for group in groups if group.length <= limit)


def test_a_group_over_the_limit_is_cut_and_repeats_its_prompt() -> None:
    group = Group([1, 2, 3], [[10, 11], [20, 21], [30, 31], [40] * 9], [4, 5, 6, 7])
    cut = list(micro_batches([group], 8))
    assert cut == [
        [Group([1, 2, 3], [[40] * 9], [7])],  # over the limit by itself: it comes all the same
        [Group([1, 2, 3], [[10, 11], [20, 21]], [4, 5])],
        [Group([1, 2, 3], [[30, 31]], [6])],
    ]


def test_padding_counts() -> None:
    short, long = Group([1], [[2]], [0]), Group([1] * 5, [[2] * 5], [1])
    assert len(list(micro_batches([short, long], 12))) == 2  # 12 tokens, but 20 with the short row's padding
    assert len(list(micro_batches([short, long], 20))) == 1


def test_no_groups_give_no_micro_batches() -> None:
    assert list(micro_batches([], 10)) == []


def test_pack_refuses_what_it_cannot_pack() -> None:
    with pytest.raises(ValueError, match="got no groups"):
        pack([])
    with pytest.raises(ValueError, match=r"prompt of samples \[3, 4\] is empty"):
        pack([Group([1], [[2]], [0]), Group([], [[2], [3]], [3, 4])])
    with pytest.raises(ValueError, match="zip"):
        pack([Group([1], [[2], [3]], [0])])  # a response without a sample's number


@settings(deadline=None)
@given(batches())
def test_each_response_s_end_is_its_last_token_or_the_prompt_s(groups: list[Group]) -> None:
    batch = pack(groups, pad_id=7)
    length = batch.input_ids.shape[1]
    expected = []
    for row, group in enumerate(groups):
        column = len(group.prompt_ids)
        for response in group.responses:
            column += len(response)
            expected.append(row * length + (column if response else len(group.prompt_ids)) - 1)
    assert batch.ends.tolist() == expected
