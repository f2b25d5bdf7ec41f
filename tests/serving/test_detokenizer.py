"""Text as it comes: what was shown stays, no half characters, no half stop strings, and in the end all of it."""

import types
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from course_lib.serving import LLM, SamplingParams
from course_lib.serving.detokenizer import Detokenizer

quick = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def tokenizer(make_llm: Any) -> Any:
    return make_llm().get_tokenizer()


@quick
@given(st.text(max_size=30))
def test_text_comes_character_by_character(tokenizer: Any, text: str) -> None:
    """What is shown is always a beginning of the text: no character is shown before its last byte came."""
    detokenizer = Detokenizer(tokenizer, skip_special_tokens=False)
    for token in tokenizer.encode(text):
        detokenizer.add(token)
        assert text.startswith(detokenizer.visible)
    detokenizer.finish()
    assert detokenizer.visible == text


@quick
@given(st.lists(st.integers(0, 511), max_size=40), st.booleans())
def test_any_tokens_give_the_tokenizers_text(tokenizer: Any, tokens: list[int], skip: bool) -> None:
    """Broken UTF-8 too: what was shown never changes, and the end is what the tokenizer makes of all tokens at once."""
    detokenizer, shown = Detokenizer(tokenizer, skip_special_tokens=skip), ""
    for token in tokens:
        detokenizer.add(token)
        assert detokenizer.visible.startswith(shown)
        shown = detokenizer.visible
    detokenizer.finish()
    detokenizer.finish()  # harmless
    assert detokenizer.visible.startswith(shown)
    assert detokenizer.visible == tokenizer.decode(tokens, skip_special_tokens=skip)


@quick
@given(
    st.text("abc", max_size=25), st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3), st.booleans()
)
def test_stops_at_the_first_stop_string(tokenizer: Any, text: str, stops: list[str], include: bool) -> None:
    detokenizer, found = Detokenizer(tokenizer, stops, include), None
    tokens, shown = [tokenizer.encode(letter)[0] for letter in text], ""
    for number, token in enumerate(tokens, 1):
        found = detokenizer.add(token)
        assert detokenizer.visible.startswith(shown)
        shown = detokenizer.visible
        if found:
            assert text[:number].endswith(found)  # as soon as it is complete
            break
        assert not any(stop in text[:number] for stop in stops)
        # Held back is what may become a stop string, and no more than that.
        held = text[len(shown) : number]
        assert held == "" or any(stop.startswith(held) for stop in stops)
    detokenizer.finish()
    if found is None:
        assert detokenizer.visible == text
    else:
        before = text[: text.find(found)] if len(stops) == 1 else text[:number].removesuffix(found)
        assert detokenizer.visible == before + (found if include else "")


@quick
@given(
    st.lists(st.text("abc", min_size=1, max_size=6), max_size=8),
    st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=4),
    st.booleans(),
)
def test_several_stop_strings_in_one_token_stop_as_in_vllm(pieces: list[str], stops: list[str], include: bool) -> None:
    """A token may be long enough to complete several: token i is piece i here."""
    vllm = pytest.importorskip("vllm.v1.engine.detokenizer")
    if "completes earliest" not in (vllm.check_stop_strings.__doc__ or ""):
        pytest.skip("this vLLM takes the first of the list that is there")
    pick = types.SimpleNamespace(decode=lambda tokens, **_: "".join(pieces[token] for token in tokens))
    detokenizer, text = Detokenizer(pick, stops, include), ""
    for token, piece in enumerate(pieces):
        text += piece
        found = detokenizer.add(token)
        theirs = vllm.check_stop_strings(text, len(piece), stops, include)
        assert found == (theirs and theirs[0])
        if theirs:
            assert detokenizer.visible == (text if theirs[1] == -1 else text[: theirs[1]])
            return


def test_stop_strings_wait_for_min_tokens(tokenizer: Any) -> None:
    detokenizer = Detokenizer(tokenizer, ["a"], min_tokens=2)
    assert [detokenizer.add(tokenizer.encode(letter)[0]) for letter in "aaba"] == [None, None, None, "a"]
    assert detokenizer.visible == "aab"


@pytest.mark.parametrize("options", [{}, {"stop": [" the", "e"]}, {"n": 2}, {"logprobs": 2}], ids=str)
def test_the_streams_end_is_what_generate_returns(make_llm: Any, options: dict[str, Any]) -> None:
    llm: LLM = make_llm(max_num_batched_tokens=16)
    prompts = [llm.get_tokenizer().encode("Once upon a time"), list(range(50, 90)), [7]]
    params = [SamplingParams(seed=i, temperature=0.5, max_tokens=30, **options) for i in range(3)]
    whole = llm.generate(prompts, params)
    last: dict[str, Any] = {}
    for output in llm.stream(prompts, params):
        before = last.get(output.request_id)
        for index, sample in enumerate(output.outputs):
            if before is not None:
                old = before.outputs[index]
                assert sample.text.startswith(old.text)
                assert sample.token_ids[: len(old.token_ids)] == old.token_ids
        assert before is None or not before.finished
        last[output.request_id] = output
    # Request ids go on counting; they sort in the order of the prompts.
    for want, got in zip(whole, sorted(last.values(), key=lambda output: int(output.request_id)), strict=True):
        assert got.finished
        assert got.outputs == want.outputs


def test_whoever_stops_listening_ends_the_requests(llm: LLM) -> None:
    stream = llm.stream([[5, 6], [7]], SamplingParams(max_tokens=50))
    next(stream)
    stream.close()
    assert not llm.has_unfinished_requests()
    assert len(llm.generate([5], SamplingParams(max_tokens=2))[0].outputs[0].token_ids) == 2
