"""vLLM takes both policies: one process for both, as its start costs more than all that is asked of it."""

import json
import subprocess
import sys
import textwrap

import pytest

Answers = dict[str, list[tuple[list[int], list[int], str]]]  # by policy: prompt, new tokens, text; of a chat and a text

ASK = textwrap.dedent("""
    import json
    from course_lib.machine import prepare
    prepare()
    from vllm import LLM, SamplingParams
    from course_lib.models import load_policy

    found = {}
    prompt = "What is 2+3? Answer with just the number."
    for name in ("tiny", "smollm2"):
        # The default KV cache is some gigabytes, and its pages take the kernel longer to give than all the rest.
        small = {"max_model_len": 256, "max_num_seqs": 4, "kv_cache_memory_bytes": 64 << 20}
        llm = LLM(model=str(load_policy(name)), enforce_eager=True, **small)
        greedy = SamplingParams(temperature=0, max_tokens=8, ignore_eos=name == "tiny")
        chat = llm.chat([{"role": "user", "content": prompt}], greedy, use_tqdm=False)
        text = llm.generate(["The capital of France is"], greedy, use_tqdm=False)
        both = chat[0], text[0]
        found[name] = [[[*out.prompt_token_ids], [*out.outputs[0].token_ids], out.outputs[0].text] for out in both]
        llm.llm_engine.engine_core.shutdown()
        del llm
    print("\\nFOUND" + json.dumps(found))
""")


@pytest.fixture(scope="module")
def answers() -> Answers:
    run = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.rsplit("FOUND", 1)[1])


def test_tiny_generates(answers: Answers) -> None:
    for prompt, tokens, _ in answers["tiny"]:
        assert len(tokens) == 8
        assert all(0 <= token < 512 for token in [*prompt, *tokens])
    assert answers["tiny"][0][0][0] == 1  # <|im_start|>


def test_smollm2_answers(answers: Answers) -> None:
    chat, text = answers["smollm2"]
    assert chat[2].startswith("2 + 3 = 5")
    assert text[2].startswith(" Paris")
    assert chat[0][:2] == [1, 9690]  # the template's system prompt
