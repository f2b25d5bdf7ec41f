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
# **Time** 30 minutes, of which about 6 are the run on a CPU and 2 on a GPU. **You need** a language model's logits and
# gradients to mean something to you; the other lessons are not required.
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

from course_lib import machine, viz
from course_lib.models import describe, load_policy
from course_lib.rl import Addition, RLLoop, VLLMRollout, capstone, free_folder
from course_lib.rl.summary import summarize
from course_lib.training import PolicyTrainer

machine.versions()

# %% [markdown]
# ## The policy, held twice
#
# The policy is a Hugging Face folder: `smollm2` is SmolLM2-135M-Instruct, made from a package without any model hub. Both
# engines start from this one folder, in this one process. The numbers of the run are the tier's recipe: the same cells take
# 64 samples a step on a CPU and 512 on a GPU.

# %%
folder = load_policy(os.environ.get("COURSE_POLICY", "smollm2"))
recipe = capstone.recipe(steps=int(os.environ.get("COURSE_STEPS", "0")) or None, seed=2)
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

# %%
task = Addition()
loop = RLLoop(
    trainer, rollout, task, free_folder("../runs", "capstone"), advantage=recipe.advantage, config=recipe.loop
)
task, task.held_out[:3]

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
# **Advantage.** Reward minus the mean of the same prompt's samples: a right answer to a hard question stands out, and where
# all siblings are right, or all wrong, nothing can be learned and every advantage is 0.

# %%
batch = loop.generate(1)
loop.judge(batch)
viz.samples_table({"step": 1, "samples": batch.table()})

# %% [markdown]
# **Train.** The gradient makes tokens of samples with a positive advantage more likely, and the others less:
#
# $$ L = -\frac{1}{N}\sum_{\text{tokens}} w\,\min\bigl(\rho A,\ \mathrm{clip}(\rho, 1-\epsilon, 1+\epsilon) A\bigr),
# \qquad \rho = \frac{\pi(\text{token})}{\pi_\text{old}(\text{token})},
# \qquad w = \min\Bigl(\frac{\pi_\text{old}(\text{token})}{\pi_\text{vLLM}(\text{token})},\ 2\Bigr) $$
#
# $N$ counts the response tokens of the **whole** batch, not of a micro-batch, so that how the batch is cut changes nothing.
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
# that it resumes from.
#
# **Predict, then measure.** Which phase takes the most time on this machine? And what will the accuracy be at the end?

# %%
start = time.perf_counter()
records = loop.run()
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
# The run's folder holds everything: `metrics.jsonl` (a line a step), `samples.jsonl`, the plot, checkpoints to resume from,
# and the policy as a Hugging Face folder that vLLM and transformers load.

# %%
policy = loop.export()
viz.run_figure(records, loop.run_folder.path / "plot.png")
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
rollout.shutdown()

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
