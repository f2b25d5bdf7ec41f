#!/bin/sh
# Prints the Python that the set-up runs with. A candidate counts only when it runs: pyenv puts a python3.12 on PATH
# that fails unless that version is switched on, and an environment outlives the Python that it was made from.
# Order: $PYTHON; the course's own conda environment, where that is active; the environment made before; PATH.

version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }
fits() { case "$(version "$1")" in 3.11 | 3.12) return 0 ;; *) return 1 ;; esac; }

cd "$(dirname "$0")/.." || exit 1

if [ -n "$PYTHON" ]; then
    fits "$PYTHON" && { command -v "$PYTHON"; exit 0; }
    found=$(version "$PYTHON")
    found_text=${found:+is Python $found}
    echo "PYTHON=$PYTHON ${found_text:-does not run}: the course needs Python 3.11 or 3.12. Pass one of these, or leave PYTHON out." >&2
    exit 1
fi
if [ "$CONDA_DEFAULT_ENV" = llm-rl-course ]; then
    fits "$CONDA_PREFIX/bin/python" && { echo "$CONDA_PREFIX/bin/python"; exit 0; }
    echo "The conda environment llm-rl-course has no Python 3.11 or 3.12: remake it with conda env create -f environment.yml --yes" >&2
    exit 1
fi
for candidate in .venv/bin/python python3.11 python3.12 python3; do
    fits "$candidate" && { command -v "$candidate"; exit 0; }
done

tried=$(for candidate in python3.11 python3.12 python3; do
    found=$(version "$candidate")
    printf '%s (%s) ' "$candidate" "${found:-not there or does not run}"
done)
cat >&2 <<END
The course needs Python 3.11 or 3.12, and found none. Tried: $tried
  Debian 12:     sudo apt-get install python3.11 python3.11-venv python3.11-dev
  Ubuntu 24.04:  sudo apt-get install python3.12 python3.12-venv python3.12-dev
  elsewhere:     install one of them (python.org, pyenv, conda) and pass it: make PYTHON=/path/to/python3.12
END
exit 1
