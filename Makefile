# Every target first does what set-up is still missing (tools/bootstrap.py); the second time that takes a moment.
#
#   TIER=cpu|gpu    the engines, where the machine's own are not the ones you want
#   POLICY=...      the policy to make ready, and to train: smollm2, tiny, a hub name or a folder
#   PYTHON=...      the Python 3.11 or 3.12 to make .venv from
#   ARGS="..."      options for the command: make capstone ARGS="--steps 3"

.DEFAULT_GOAL := help
.PHONY: help setup capstone lab grade progress update doctor notebooks test test-gpu lint format lock

POLICY ?= smollm2
BIN := $(if $(filter llm-rl-course,$(CONDA_DEFAULT_ENV)),$(CONDA_PREFIX)/bin,.venv/bin)
RUN := $(BIN)/python -m
BOOTSTRAP = python=$$(sh tools/find_python.sh) && "$$python" tools/bootstrap.py

help: ## Say what there is to do
	@echo "A course on LLM inference and RL training. Start with: make lab, or make capstone"
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1@\2/p' $(MAKEFILE_LIST) | awk -F@ '{ printf "%-18s %s\n", $$1, $$2 }'
	@echo
	@sed -n 's/^#   \([A-Z].*\)/  \1/p' $(MAKEFILE_LIST)

setup: ## Set up what is missing, and nothing else
	@$(BOOTSTRAP)

capstone: policy ## Run the whole loop: vLLM generates, DeepSpeed trains, the policy goes back
	@$(RUN) course_lib capstone --policy $(POLICY) $(ARGS)

lab: policy ## Open the course in JupyterLab
	@find notebooks notebooks_gpu exercises solutions -name '*.ipynb' -not -path '*/.*' -exec $(BIN)/jupyter trust {} + > .setup/trust.log 2>&1 || cat .setup/trust.log
	@$(RUN) jupyter lab $(ARGS)

grade: setup ## Grade your exercises
	@$(RUN) course_lib grade $(ARGS)

progress: setup ## Show which exercises you have solved, and what comes next
	@$(RUN) course_lib progress $(ARGS)

update: setup ## Pull a newer course, and keep your work in exercises/
	@$(RUN) course_lib update $(ARGS)

doctor: setup ## Look at the machine and the set-up, and say what to mend
	@$(RUN) course_lib doctor $(ARGS)

notebooks: setup ## Build notebooks/, exercises/ and solutions/ from lessons/
	@$(RUN) course_lib notebooks $(ARGS)

test: lint ## Run every check: lint, format, types, imports, tests
	@$(RUN) mypy
	@$(BIN)/lint-imports --no-logo
	@$(RUN) pytest -n 2 --dist loadfile $(ARGS)

test-gpu: setup ## Run the tests that need an NVIDIA GPU, in a few minutes; CI has none
	@$(RUN) pytest --timeout 240 $(ARGS) tests/*/test_gpu*.py tests/paged_attention/test_triton_attention.py

lint: setup ## Check style and format
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .

format: setup ## Mend style and format where that can be done by itself
	@$(RUN) ruff check --fix .
	@$(RUN) ruff format .

lock: setup ## Make requirements/*.txt anew from the .in files; UPGRADE=1 takes the newest versions
	@$(BIN)/python tools/lock.py $(if $(UPGRADE),--upgrade)

.PHONY: policy
policy:
	@$(BOOTSTRAP) --policy $(POLICY)
