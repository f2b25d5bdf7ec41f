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
# # 08 Capstone: the complete loop
#
# **After this lesson** you can run a reinforcement-learning loop on two real engines, say what each arrow of it moves, read
# its curves, and prove that the engine that generates really holds the weights that were trained.
#
# **Time** 45 minutes, of which about 6 are the run on a CPU and 2 on a GPU. **You need** a language model's logits and
# gradients to mean something to you. The other lessons are not required; whoever did their exercises, and those of this
# lesson ([`exercises/08_capstone.ipynb`](../exercises/08_capstone.ipynb)), finds their own block pool, scheduler, reward,
# advantage and loss at work in the loop below.
#
# > **The question.** A small language model adds two numbers up to 20 rightly four times in ten. Nobody shows it a single
# > worked answer. It is only told, of its own attempts, which were right. How far does that take it in a few minutes, and
# > what can silently go wrong on the way?

# %% [markdown]
# ![The loop](../docs/loop.svg)
#
# Two engines, because two jobs pull in different directions. **Generating** makes one token at a time for many samples and
# lives from a paged KV cache and large batches: vLLM. **Training** makes all logprobs of a sample at once, and needs
# gradients, an fp32 copy of every weight and two moments: DeepSpeed. Both hold the policy's weights, so after every step the
# new ones have to travel. That arrow is the one that breaks without a sound.

# %%
import os
import time
from dataclasses import replace

from course_lib import grading, machine, viz
from course_lib.models import describe, load_policy
from course_lib.rl import Addition, EngineRollout, RLLoop, VLLMRollout, capstone, find_room, free_folder
from course_lib.rl.summary import summarize
from course_lib.training import PolicyTrainer

machine.versions()

# %% [markdown]
# ## The policy, held twice
#
# The policy is a Hugging Face folder: `smollm2` is SmolLM2-135M-Instruct, made from a package without any model hub. Both
# engines start from this one folder, in this one process. The numbers of the run are the tier's recipe: the same cells take
# 128 samples a step on a CPU and 512 on a GPU. A GPU has to have room for both: before anything starts, `find_room` adds up what
# they take, and where that is more than is free, says which settings to lower.

# %%
folder = load_policy(os.environ.get("COURSE_POLICY", "smollm2"))
recipe = capstone.recipe(steps=int(os.environ.get("COURSE_STEPS", "0")) or None, seed=1)
find_room(folder, recipe.trainer, recipe.rollout)
describe(folder)

# %%
trainer = PolicyTrainer(folder, recipe.trainer)
rollout = VLLMRollout(folder, **recipe.rollout)
trainer, rollout

# %% [markdown]
# ## The task: right or wrong, by a rule
#
# Two numbers, a question in plain English. The rule that judges: the last number in the answer is the sum. Whatever the
# model says before it is free, and that matters: this model adds well only after it has written `7 + 5 =`.
#
# The held-out problems share no **unordered** pair with the training problems. Who has been rewarded for 3 + 5 knows
# 5 + 3, and a test on it would measure memory.
#
# What the rewards do to the policy is the algorithm's business: lesson 07 has seven. All of them run in this loop; the
# recipe's choice is printed below.

# %%
task = Addition()
loop = RLLoop(
    trainer, rollout, task, free_folder("../runs", "capstone"), algorithm=recipe.algorithm, config=recipe.loop
)
recipe.algorithm

# %% [markdown]
# ## Before: what can it do?
#
# **Predict, then measure.** Write down the share of held-out sums that the untrained policy gets right. Then look.

# %%
problems = task.held_out[:10]
before = loop.answers(problems)
print(f"held-out accuracy before: {loop.evaluate():.2f}")
viz.answers_table(problems, before, before)

# %% [markdown]
# ## One step, slowly
#
# **Generate.** For each prompt several samples, drawn at temperature 1 so that they differ. vLLM returns each token's
# logprob with it: the probability with which it was really drawn.
#
# **Reward.** 1 or 0, by the rule.
#
# **Advantage.** Here reward minus the mean of the same prompt's samples: a right answer to a hard question stands out, and
# where all siblings are right, or all wrong, nothing can be learned and every advantage is 0.

# %%
batch = loop.generate(1)
loop.judge(batch)
viz.samples_table({"step": 1, "samples": batch.table()})

# %% [markdown]
# **Train.** The gradient makes tokens of samples with a positive advantage more likely, and the others less:
#
# $$ L = -\sum_{\text{tokens}} \frac{w}{N}\,\min\bigl(\rho A,\ \mathrm{clip}(\rho, 1-\epsilon, 1+\epsilon) A\bigr),
# \qquad \rho = \frac{\pi(\text{token})}{\pi_\text{old}(\text{token})},
# \qquad w = \min\Bigl(\frac{\pi_\text{old}(\text{token})}{\pi_\text{vLLM}(\text{token})},\ 2\Bigr) $$
#
# $N$ is the algorithm's divisor: for Dr. GRPO the samples of the **whole** batch times the longest response that they could
# have had, so that neither a response's length nor how the batch is cut into micro-batches changes a token's weight.
# With one update per batch $\rho$ is 1 and the clip sleeps. The weight $w$ does not: trainer and sampler hold the same weights
# and still disagree a little, because two implementations round bf16 in different places. How much, the next section measures.
#
# The samples of a prompt share its tokens. The trainer packs them in one row, the prompt once and then every response, with a
# mask that lets no response see another: the same logprobs as one by one, from a fraction of the tokens.

# %%
from course_lib.training import pack

groups = batch.groups()
alone = sum(len(group.prompt_ids) + len(response) for group in groups for response in group.responses)
packed = sum(group.length for group in groups)
print(f"{alone} tokens one by one, {packed} packed: {alone / packed:.1f} times fewer")
pack(groups[:1])

# %% [markdown]
# ## The arrow that breaks silently
#
# After a step, the new weights go into the running vLLM. Four things can go wrong, and none of them raises an error:
#
# | what is forgotten | what happens |
# |---|---|
# | the sync itself | samples come from an ever older policy |
# | a tensor | one layer stays old |
# | packing `lm_head` again (CPU) | vLLM keeps its own packed copy of a matrix that is tied to the embedding, and it stays old |
# | resetting the prefix cache | new tokens attend to keys and values of the old weights |
#
# So every sync ends in a **receipt**. It reads weights back *through vLLM's own kernels*: a linear layer that is given a unit
# vector returns one column of its matrix, exactly. It looks whether the first prompt after the sync was served from the
# cache. And it compares logprobs of fixed prompts with the trainer's, against the noise floor that was measured when both
# held the same file.
#
# **Predict, then measure.** Same weights, two engines, bf16: by how many nats does a typical token's logprob differ?

# %%
receipt = loop.sync.push()
print(f"noise floor: {loop.sync.noise_floor:.3f} nats at equal weights")
print(receipt)

# %% [markdown]
# ## The run
#
# Now the same four arrows, again and again. Ctrl-C (the stop button) ends the run after the current step, with a checkpoint
# that it resumes from. The dashboard draws while it runs: curves above, then which phase ran when, with the KV cache's use
# under it, the receipts, and the newest samples token by token. Point at a token: which weights drew it, with what
# probability, what the trainer thought of it, and what it was worth.
#
# **Predict, then measure.** Which phase takes the most time on this machine? And what will the accuracy be at the end?

# %%
start = time.perf_counter()
records = loop.run(viz.Dashboard())
summary = summarize(records, time.perf_counter() - start)
summary["held_out"], summary["seconds"]

# %% [markdown]
# ## What happened
#
# The reward of the samples (drawn at temperature 1) and the accuracy on held-out sums (greedy) rise together: what was
# rewarded on some pairs carries over to pairs that were never asked.

# %%
viz.reward_curve(records)

# %% [markdown]
# Entropy falls while the reward rises: the policy settles on one way to answer. That is also what ends learning, because
# samples that are all alike have no better and worse among them. The responses get shorter as explanations give way to sums.

# %%
viz.entropy_and_length(records)

# %% [markdown]
# Where the time goes, step by step. Groups without a signal are not trained on, since their gradient is exactly zero, so
# training gets cheaper as the policy gets better.

# %%
viz.phase_times(records)

# %% [markdown]
# ## Did the weights arrive?
#
# Every sync's receipt: all tensors equal, no stale cache, and a logprob gap that stays near the noise floor. The gap on the
# samples themselves shrinks as the policy gets sure of its words: rounding matters less where one token takes all.

# %%
viz.mismatch_curve(records)

# %%
viz.receipt_table(records, limit=8)

# %% [markdown]
# ## After

# %% [markdown]
# The same questions again, before and after. Nobody ever showed the model a right answer.

# %%
after = loop.answers(problems)
viz.answers_table(problems, before, after)

# %% [markdown]
# ## Take it with you
#
# The run's folder holds everything: `metrics.jsonl` (a line a step), `samples.jsonl`, the plot, the dashboard as one web page
# that needs no kernel (`course dashboard RUN --compare OTHER` draws two over one another), checkpoints to resume from, and the
# policy as a Hugging Face folder that vLLM and transformers load.

# %%
policy = loop.export()
viz.run_figure(records, loop.run_folder.path / "plot.png")
viz.dashboard_html(loop.run_folder.path)
for path in sorted(loop.run_folder.path.iterdir()):
    print(path)

# %% [markdown]
# The proof of the pudding: transformers alone, without any of this course's code, loads the folder and adds.

# %%
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained(policy), AutoModelForCausalLM.from_pretrained(policy)
chat = [{"role": "user", "content": problems[0].question}]
prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**prompt, max_new_tokens=24, do_sample=False)[0, prompt["input_ids"].shape[1] :]
print(problems[0].question, "->", tokenizer.decode(answer, skip_special_tokens=True))

# %% [markdown]
# ## Forget the sync, on purpose
#
# A common way to check a sync is to compare logprobs alone. **Predict, then measure.** The trainer takes one more step, in a
# random direction, and nobody tells the engine. Will the logprob gap give it away?

# %%
import torch

batch = loop.generate(loop.completed + 1)
batch.advantages = torch.randn(len(batch.completions))
loop.train(batch)
print(loop.sync.inspect())

# %% [markdown]
# The gap is noise as before: one small step moves logprobs by less than two implementations differ anyway. A check of
# logprobs alone passes while the engine goes stale, step by step. The columns that were read back are equal bit for bit, or
# they are not, and they are not. Push, and look again.

# %%
print(loop.sync.push())

# %% [markdown]
# ## Your own parts in the loop
#
# vLLM can be replaced, and so can everything else. Below, the course's own engine samples instead, with **your** block pool
# handing out its KV blocks and **your** scheduler choosing who runs; **your** reward judges, and **your** advantage and loss
# train. What is not solved yet, or fails its checks, is the course's own part; the table says which.

# %%
rollout.shutdown()
parts = grading.learners_parts("08")
parts

# %% [markdown]
# Trainer and engine have to start with the same weights, so the policy is written once more: the trainer has moved since. The
# receipt is the one of before; it knows nothing of who built the engine.

# %%
policy = loop.export()
own_parts = {"block_pool": parts["MyBlockPool"], "scheduler": parts["MyScheduler"]}
own_engine = EngineRollout(policy, gpu_memory_utilization=0.8, **own_parts)  # the trainer has its share of a GPU
own_loop = RLLoop(
    trainer,
    own_engine,
    task,
    free_folder("../runs", "my-capstone"),
    reward=parts["my_reward"],
    advantage=parts["my_advantage"],
    loss=parts["my_loss"],
    config=replace(recipe.loop, steps=3, evaluate_every=3),
)
own_records = own_loop.run()
viz.receipt_table(own_records)

# %% [markdown]
# Three steps don't teach a trained policy much. They show that the parts are real: a pool that hands a block out twice, or a
# scheduler that forgets a request, ends in a message that says so, and a wrong loss would undo what the run above learned.

# %%
print(f"held-out accuracy {own_records[0]['held_out']:.2f} -> {own_records[-1]['held_out']:.2f} with these parts")
own_engine.shutdown()
own_loop

# %% [markdown]
# ## Which algorithm?
#
# The same loop, the same seed, four algorithms on two CPU cores, each run by `course capstone --algorithm ...`. **Predict,
# then measure.** Lesson 07 showed how much the four losses differ on one batch. How much will the curves differ?

# %%
from course_lib.machine.record import RESULTS
from course_lib.rl.study import recorded
from course_lib.viz import lesson_08

curves = recorded(RESULTS / "algorithms_cpu.json")
lesson_08.accuracy_by_time(curves)

# %%
lesson_08.reached_table(curves)

# %% [markdown]
# Less than their names promise. With one update a batch every ratio is 1, so clipping never acts and GSPO's gradient is GRPO's:
# these two curves part by rounding alone, and how far they part is how much one run says. DAPO replaces groups that are all
# right or all wrong, so each of its steps learns more and takes longer. A share of 0.9 of 64 problems has a standard error of
# 0.04, and from one measurement to the next the same run moves by as much: one seed ranks nobody.

# %% [markdown]
# ## A judge instead of a rule
#
# Most things that people want have no rule. So people compare answers (lesson 07's widget writes the file), a reward model
# learns from the comparisons (lesson 06), and vLLM serves it in the loop:
#
# ```
# course reward-model preferences.jsonl --out runs/judge
# course capstone --reward-model runs/judge
# ```
#
# Two recorded runs: one judge was trained on 200 made-up preferences (`synthetic:200`), the other on comparisons that one of
# the course's authors made by reading pairs of answers from a run's first steps (`results/preferences_addition.jsonl`). Accuracy
# is watched, never rewarded. **Predict, then measure.** Will it rise all the same?

# %%
lesson_08.judged_curves(recorded(RESULTS / "judged_cpu.json"))

# %% [markdown]
# The judges' rewards rise by seven and nine points, and accuracy does not follow: it gains a little in the first steps, when
# rambling gives way to answers, and then nothing more (64 problems, a standard error of 0.06). Look at what the policy says:
#
# | before | after 20 steps |
# |---|---|
# | In mathematical terms, this is a straightforward equation with 2. | 13 + 14 equals 27. |
# | To solve this problem without using a calculator or step-by-step logic, | 12 + 6 equals 7. |
#
# It learned the **manner** of the chosen answers, which any token shows, and not to add, which neither judge had learned to
# check (lesson 06: of four kinds of rejected answers, wrong sums were told last). A reward is not what you want. It is what you
# measure.

# %% [markdown]
# ## On several processes
#
# `course capstone --ranks 2` starts the same loop twice with DeepSpeed's launcher (and `--hostfile` on several machines).
# Every rank has its own vLLM and generates a share of the prompts; rewards are computed once; every rank trains on a share of
# the groups while ZeRO partitions the optimizer; and every rank's engine gets the weights and signs its own receipt. Each
# sample's seed comes from its place in the whole batch, so it is the same sample, whichever rank draws it.
#
# **Predict, then measure.** One process against two, same seed: will the curves be equal, and if not, why not?

# %%
one, two = recorded(RESULTS / "ranks_cpu.json")
lesson_08.one_and_two_ranks(one, two)

# %% [markdown]
# Equal at first and then parting is what rounding does: sums in another order, a probability that differs in its last bits,
# and one day a sample gets another token. A test of the course holds two ranks to one within that noise
# (`tests/rl/test_world.py`).

# %% [markdown]
# ## Kill it
#
# A run that takes days meets a power cut, a full disk, an impatient colleague. `kill -9` at any moment, `--resume`, and the
# curve has to be the one that an undisturbed run would have drawn: problems and samples come from the seed and the step, and a checkpoint
# counts only when it is whole. Eighteen kills, ten of them at random moments and the others at nasty ones, each resumed:

# %%
lesson_08.kill_table(RESULTS / "kill_resume_cpu.json")

# %% [markdown]
# ## Your report
#
# What this run came to, in points: accuracy reached, receipts clean, budget kept. `make grade` prints the same, with the
# exercises.

# %%
grading.report_run(loop.run_folder.path)

# %% [markdown]
# ## What was measured
#
# On this machine, in this notebook:

# %%
held_out, seconds = summary["held_out"], summary["seconds"]["a_step"]
print(f"held-out accuracy   {held_out['first']:.2f} -> {held_out['last']:.2f} (best {held_out['best']:.2f})")
print(f"run                 {summary['steps']} steps in {summary['seconds']['run']:.0f} s")
print("a step              " + ", ".join(f"{phase} {seconds[phase]:.2f} s" for phase in ("generate", "train", "sync")))
print(f"receipts            {summary['receipts']['clean']} of {summary['receipts']['all']} clean")
print(f"peak memory         {summary['peak_memory']['host']:.1f} GiB")

# %% [markdown]
# The same cells on GPUs, recorded. There the recipe draws 512 samples a step, and vLLM replays its decode steps as CUDA graphs.
# Two GPUs halve neither phase: a step of this small model is made of launches and of what Python does between them, and each
# rank signs its own receipt.

# %%
lesson_08.machines_table(summary, RESULTS / "capstone_h200.json", RESULTS / "capstone_2x_h200.json")

# %% [markdown]
# ### Four billion parameters
#
# SmolLM2 leaves such a GPU nearly empty. A model of Qwen3-4B's shape does not: its trainer takes 16 bytes a parameter (lesson 06),
# 64 GB, before any activation, and vLLM wants its share. So the two take turns, with `VLLMRollout(..., sleep_mode=True)`: vLLM gives
# its memory up while the policy is trained, and while vLLM has it, the optimizer's states lie on the host. Recorded with random
# weights (`course bench scale --policy random:Qwen3-4B --sleep`). **Predict**: which phases pay for the turns?

# %%
from course_lib.machine.record import read_record
from course_lib.viz.bench_plots import scale_plot

scale_plot(read_record(RESULTS / "scale_qwen3_4b_h200.json", "course bench scale"))

# %% [markdown]
# `train` begins with the states' way back, and `sync` with their way out: 12 bytes a parameter, 48 GB, each way and in each step. The
# weights themselves, 8 GB from one engine to the other on the same GPU, are 0.03 s of `sync`. Two ranks have half of the states each, so
# they save time in both phases; and each generates half of the samples.

# %% [markdown]
# ## How others do it
#
# - DeepSpeed ships the interface that our `VLLMRollout` fills in, and no vLLM behind it:
#   `deepspeed/runtime/rollout/base.py`. TRL's colocated vLLM is in `trl/generation/vllm_generation.py`.
# - vLLM's reload in place, and its limits with tied weights: `vllm/model_executor/model_loader/reload/`. That it leaves the
#   prefix cache to its caller is deliberate (vLLM pull request 46125).
#
# ## Sources
#
# - Shao et al., *DeepSeekMath* (arXiv 2402.03300): group-relative advantages. Liu et al., *Understanding R1-Zero-like training*
#   (arXiv 2503.20783): why the CPU recipe does not divide them by the standard deviation.
# - Schulman et al., *Proximal policy optimization* (arXiv 1707.06347): the clip.
# - Yao et al. (2025), *Your efficient RL framework secretly brings you off-policy RL training*: the weight $w$.
# - Yu et al., *DAPO* (arXiv 2503.14476): one mean over all tokens of the batch.
