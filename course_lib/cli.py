"""The command `course`. Engines are imported inside the commands, so that `course --help` answers at once."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(
    help="A course on LLM inference and RL training: run its loop, grade your exercises, look at the set-up.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
bench = typer.Typer(help="Measure the course's engines beside others.", no_args_is_help=True)
app.add_typer(bench, name="bench")
_ROOT = Path(__file__).resolve().parent.parent
_RECORD = typer.Option(help="Write the record there, as JSON.")
_PLOT = typer.Option(help="Draw it there: a file that ends in .svg, .png or .pdf.")
_COMMIT = typer.Option(help="The commit to name, where git is not there to be asked.")
_STYLES = {"ok": "green", "warning": "yellow", "failed": "bold red"}


@app.command()
def doctor(
    *,
    imports: Annotated[bool, typer.Option(help="Import each engine, which takes most of the time.")] = True,
) -> None:
    """Look at the machine and the set-up, and say what to mend. The exit status is 1 where something failed."""
    from course_lib.machine.doctor import diagnose
    from course_lib.machine.facts import ENGINES, gather, try_import

    console = Console()
    tried = []
    with console.status("") as status:
        for module in ENGINES if imports else ():
            status.update(f"Importing {module} ...")
            tried.append(try_import(module))
    try:
        checks = diagnose(gather(tuple(tried)))
    except ValueError as error:
        _stop(error)
    table = Table("check", "", "found", "what to do", title="The machine and the set-up", title_justify="left")
    for check in checks:
        style = _STYLES[check.status]
        table.add_row(check.name, f"[{style}]{check.status}[/]", _plain(check.found), _plain(check.advice))
    console.print(table)
    failed = sum(check.status == "failed" for check in checks)
    warned = sum(check.status == "warning" for check in checks)
    console.print(f"{len(checks)} checks: {failed} failed, {warned} warnings.")
    raise typer.Exit(1 if failed else 0)


@app.command()
def policy(
    name: Annotated[str, typer.Argument(help="tiny, smollm2, a folder, or a hub name such as org/name.")],
) -> None:
    """Prepare a policy, if it is not there yet, and print its folder."""
    from course_lib.models import PolicyError, load_policy

    try:
        print(load_policy(name))
    except PolicyError as error:
        _stop(error)


@app.command()
def capstone(
    *,
    policy: Annotated[str, typer.Option(help="The policy to train; see `course policy --help`.")] = "smollm2",
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps; the tier's own number without it.")] = None,
    seed: Annotated[int, typer.Option(help="Of problems and samples.")] = 0,
    algorithm: Annotated[str, typer.Option(help="reinforce, rloo, grpo, dr_grpo, dapo, gspo or ppo.")] = "dr_grpo",
    run: Annotated[Path | None, typer.Option(help="The run's folder; runs/capstone, or a new one beside it.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint of --run.")] = False,
    reward_model: Annotated[
        Path | None, typer.Option(help="A reward model's folder, which judges through vLLM instead of the rule.")
    ] = None,
    ranks: Annotated[
        int, typer.Option(min=1, help="Processes on this machine, each with an engine; one GPU each.")
    ] = 1,
    hostfile: Annotated[Path | None, typer.Option(help="Machines and their slots, for a run on several.")] = None,
    node_rank: Annotated[int | None, typer.Option(min=0, help="Which line of the hostfile this machine is.")] = None,
    master_addr: Annotated[str | None, typer.Option(help="Address of the hostfile's first machine.")] = None,
    gpu_memory_utilization: Annotated[
        float | None, typer.Option(min=0.001, max=0.99, help="vLLM's share of a GPU's memory; 0.4 without it.")
    ] = None,
    micro_batch_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens that the trainer takes at once; lower it when memory runs out.")
    ] = None,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory for the trainer, and more time.")
    ] = False,
) -> None:
    """Run the whole loop: vLLM generates, rewards are computed, DeepSpeed trains, the policy goes back into vLLM."""
    from course_lib.capstone import Memory, Order, run_capstone

    memory = Memory(gpu_memory_utilization, micro_batch_tokens, gradient_checkpointing)
    order = Order(
        policy, steps, seed, algorithm, run, resume, reward_model, ranks, hostfile, node_rank, master_addr, memory
    )
    raise typer.Exit(run_capstone(order))


@app.command("reward-model")
def reward_model(
    preferences: Annotated[
        str, typer.Argument(help="A file that collect_preferences() wrote, or synthetic:200 for 200 made up ones.")
    ],
    *,
    out: Annotated[Path, typer.Option(help="Folder of the reward model.")] = Path("runs/judge"),
    policy: Annotated[str, typer.Option(help="The policy whose body it starts from.")] = "smollm2",
    epochs: Annotated[int, typer.Option(min=1, help="How often each pair is seen.")] = 3,
    seed: Annotated[int, typer.Option(help="Of the head, and of the order of pairs.")] = 0,
) -> None:
    """Train a reward model on preferences, for `course capstone --reward-model`."""
    from course_lib.models import PolicyError, load_policy
    from course_lib.training import find_preferences, train_reward_model

    try:
        pairs = find_preferences(preferences)
        fit = train_reward_model(
            load_policy(policy),
            pairs,
            out,
            epochs=epochs,
            seed=seed,
            on_epoch=lambda epoch, fit: print(
                f"epoch {epoch}/{epochs}  loss {fit.losses[-1]:.3f} nats  held-out agreement {fit.accuracies[-1]:.0%}"
            ),
        )
    except (OSError, ValueError, PolicyError) as error:
        _stop(error)
    print(f"{fit!r}\n\n{out} is the reward model; let it judge with: course capstone --reward-model {out}")


@app.command()
def dashboard(
    run: Annotated[Path, typer.Argument(help="A run's folder, such as runs/capstone.")],
    *,
    compare: Annotated[Path | None, typer.Option(help="A second run, drawn over it.")] = None,
    out: Annotated[Path | None, typer.Option(help="The file to write; dashboard.html in the run's folder.")] = None,
) -> None:
    """Write a run as one HTML file: curves, the phases' timeline, receipts, and samples token by token."""
    from course_lib.viz import dashboard_html

    try:
        print(dashboard_html(run, out, compare))
    except (OSError, ValueError) as error:
        _stop(error)


@app.command()
def grade(
    exercises: Annotated[
        list[str] | None, typer.Argument(help="Lessons such as 01, exercises such as 01.kv_bytes, 08 for the capstone.")
    ] = None,
    *,
    solutions: Annotated[bool, typer.Option("--solutions", help="Grade solutions/ instead of exercises/.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for grade_report.{json,md,html}.")] = None,
    cell_seconds: Annotated[float, typer.Option(min=1, help="Seconds that a cell may take.")] = 120,
    judge_seconds: Annotated[float, typer.Option(min=1, help="Seconds that the checks of an exercise may take.")] = 90,
    memory: Annotated[float, typer.Option(min=0.5, help="GiB that a notebook's kernel may hold.")] = 6,
) -> None:
    """Grade your exercises and the newest capstone run (08: milestones and run); exit status 1 where one is not solved yet."""
    from course_lib.grading.cli import main
    from course_lib.grading.runner import Limits

    limits = Limits(cell_seconds, judge_seconds, int(memory * 2**30))
    raise typer.Exit(main(exercises or [], solutions=solutions, out=out, limits=limits))


@app.command()
def progress() -> None:
    """Show which exercises you have solved, and what comes next."""
    from course_lib.grading.cli import show_progress

    raise typer.Exit(show_progress())


@app.command()
def update() -> None:
    """Pull a newer course; your work in exercises/ is carried over into its notebooks."""
    from course_lib.grading.update import UpdateError
    from course_lib.grading.update import update as pull

    try:
        pull(_ROOT)
    except UpdateError as error:
        _stop(error)


@bench.command()
def serve(
    *,
    policy: Annotated[
        str,
        typer.Option(
            help="As for the capstone, or random:NAME for random weights in a model's shape: random:Qwen3-0.6B."
        ),
    ] = "smollm2",
    requests: Annotated[int | None, typer.Option(min=1, help="32 on a CPU and 256 on a GPU without it.")] = None,
    longest: Annotated[int | None, typer.Option(min=1, help="Most tokens of a prompt and of an output.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns that each engine gets; the fastest counts.")] = 2,
    engines: Annotated[
        str, typer.Option(help="Which, with commas between: ours, vllm, transformers, and on a GPU our engine's rungs.")
    ] = "ours,vllm,transformers",
    limit: Annotated[float, typer.Option(min=1, help="Seconds that an engine may take for a round.")] = 600,
    out: Annotated[Path | None, _RECORD] = None,
    plot: Annotated[Path | None, _PLOT] = None,
    commit: Annotated[str, _COMMIT] = "",
) -> None:
    """Serve the same requests with our engine, vLLM and transformers: tokens a second, and percent of the roofline floor."""
    from course_lib.bench import bench_serve

    raise typer.Exit(bench_serve(policy, requests, longest, rounds, engines.split(","), limit, out, plot, commit))


@bench.command()
def loop(
    *,
    policy: Annotated[str, typer.Option(help="As for the capstone.")] = "smollm2",
    steps: Annotated[int | None, typer.Option(min=1, help="6 on a CPU and 60 on a GPU without it.")] = None,
    loops: Annotated[str, typer.Option(help="Which, with commas between: ours, engine, trl.")] = "ours,trl",
    limit: Annotated[float, typer.Option(min=1, help="Seconds that a loop may take.")] = 600,
    out: Annotated[Path | None, _RECORD] = None,
    plot: Annotated[Path | None, _PLOT] = None,
    commit: Annotated[str, _COMMIT] = "",
) -> None:
    """Train the same with our loop and TRL's GRPOTrainer: seconds a step, and the rewards."""
    from course_lib.bench import bench_loop

    raise typer.Exit(bench_loop(policy, steps, loops.split(","), limit, out, plot, commit))


@bench.command()
def scale(
    *,
    policy: Annotated[str, typer.Option(help="As for `bench serve`: random:Qwen3-4B has random weights.")] = "smollm2",
    ranks: Annotated[str, typer.Option(help="Numbers of processes, with commas between; one GPU each.")] = "1,2",
    zero: Annotated[str, typer.Option(help="ZeRO stages, with commas between.")] = "2,3",
    steps: Annotated[int | None, typer.Option(min=1, help="6 on a CPU and 12 on a GPU without it; 3 warm up.")] = None,
    weak: Annotated[bool, typer.Option("--weak", help="Also with as much work for each rank as one has.")] = False,
    sleep: Annotated[bool, typer.Option("--sleep", help="vLLM and the trainer take turns with the memory.")] = False,
    offload: Annotated[bool, typer.Option("--offload", help="Keep the optimizer's state on the host.")] = False,
    micro_batch_tokens: Annotated[int | None, typer.Option(min=1, help="Lower it when memory runs out.")] = None,
    limit: Annotated[float, typer.Option(min=1, help="Seconds that a combination may take.")] = 600,
    out: Annotated[Path | None, _RECORD] = None,
    plot: Annotated[Path | None, _PLOT] = None,
    commit: Annotated[str, _COMMIT] = "",
) -> None:
    """Run whole steps of the loop by number of ranks and ZeRO stage: seconds, scaling, memory, what a weight sync moves."""
    from course_lib.bench import bench_scale

    changes = {"steps": steps, "sleep": sleep, "offload": offload, "micro_batch_tokens": micro_batch_tokens}
    raise typer.Exit(bench_scale(policy, ranks, zero, changes, weak, limit, out, plot, commit))


@bench.command("plot")
def plot_record(
    record: Annotated[Path, typer.Argument(help="What a benchmark's --out wrote.")],
    out: Annotated[Path, typer.Argument(help="A file that ends in .svg, .png or .pdf.")],
) -> None:
    """Draw a benchmark's record."""
    from course_lib.bench import plot_record as draw

    raise typer.Exit(draw(record, out))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def notebooks(context: typer.Context) -> None:
    """Build notebooks/, exercises/ and solutions/ from lessons/; options go to tools/build_notebooks.py."""
    command = [sys.executable, str(_ROOT / "tools" / "build_notebooks.py"), *context.args]
    raise typer.Exit(subprocess.run(command, check=False).returncode)


def _plain(text: str) -> str:
    """Return text that rich shows as it stands: a path may hold square brackets."""
    return text.replace("[", r"\[")


def _stop(error: Exception) -> None:
    print(error, file=sys.stderr)
    raise typer.Exit(1)
