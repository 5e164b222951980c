# Everything a developer or a new user runs; `make help` lists it.
SHELL := /bin/bash
.DEFAULT_GOAL := help
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: help setup models up down demo test test-tools test-vllm contract-environments fuzz check format docs lock \
  clean bench-statistics bench-gateway bench-doctor bench-resume bench-training bench-search bench-estimates

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

environment: # quick when nothing changed: the script compares the lock's hash with that of the last time
	@scripts/setup

setup: environment models ## Create .venv and fetch the models; reuses what is there

models: environment
	@$(BIN)/uplift models pull smollm2-135m-instruct all-minilm-l6-v2

up: setup ## Start the platform, return when it is ready
	@$(BIN)/uplift up

down: ## Stop the platform; nothing is left running
	@test ! -x $(BIN)/uplift || $(BIN)/uplift down

demo: setup ## Run the demo experiment end to end and serve the winner
	@scripts/demo

test: setup contract-environments ## Run every test; most of the time they wait, so several at once
	@$(BIN)/python -m pytest -n 3 $(PYTEST_ARGS)

test-tools: setup contract-environments ## Run LangChain and LlamaIndex against a running platform (a part of test)
	@$(BIN)/python -m pytest tests/contract/test_tools.py $(PYTEST_ARGS)

test-vllm: setup ## Load what we export in the real vLLM (an environment of 2 GB, about 5 minutes); not a part of test
	@UPLIFT_VLLM_PYTHON="$$(scripts/vllm-environment)" $(BIN)/python -m pytest tests/vllm $(PYTEST_ARGS)

contract-environments: environment # the older client and the tools, each in an environment of its own; quick when there
	@scripts/contract-environments > /dev/null

fuzz: setup ## Fuzz the whole API for a quarter of an hour; FUZZ_ARGS="--seconds 60 --seed 1"
	@$(BIN)/python -m tests.contract.fuzzing $(FUZZ_ARGS)

check: environment ## Format, lint, types, import rules
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q tests/architecture

format: environment ## Format and mend what ruff can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench-statistics: environment ## Coverage and false alarms of the intervals, simulated (about 10 minutes)
	@$(BIN)/python -m tests.benchmarks.statistics_coverage

bench-doctor: environment ## Runs made sick on purpose, and what the doctor says of each: a confusion matrix
	@$(BIN)/python -m tests.benchmarks.doctor_study

bench-gateway: setup ## What the door costs beside the engine, and 200 streaming clients at once (about 10 minutes)
	@$(BIN)/python -m tests.benchmarks.door_alone
	@$(BIN)/python -m tests.benchmarks.gateway_overhead

bench-resume: environment ## Kill one training run 20 times and compare every loss with the unbroken run's (about 5 minutes)
	@$(BIN)/python -m tests.benchmarks.resume_study $(RESUME_ARGS)

bench-estimates: setup ## How near a run's estimates come to its true end and its true memory (about 12 minutes)
	@$(BIN)/python -m tests.benchmarks.estimates $(ESTIMATES_ARGS)

bench-training: setup ## Our training beside TRL's and transformers' (about 15 minutes); BENCH_ARGS="--rounds 1 --passages"
	@$(BIN)/python -m tests.benchmarks.training_speed --peers "$$(scripts/benchmark-environment)" $(BENCH_ARGS)

bench-search: setup ## Search on the demo, then its best recipe against the default on test questions; SEARCH_ARGS="--minutes 60"
	@$(BIN)/python -m tests.benchmarks.search_on_demo $(SEARCH_ARGS)

docs: environment ## Write the generated pages
	@$(BIN)/python -m scripts.generate_events
	@$(BIN)/python -m scripts.generate_openapi
	@$(BIN)/python -m scripts.generate_conformance

lock: environment ## Pin every dependency by hash (torch apart: its CPU and CUDA builds share a version)
	@$(BIN)/pip-compile --quiet --extra dev --generate-hashes --allow-unsafe --strip-extras --unsafe-package torch \
	  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host -o requirements.lock pyproject.toml
	@sed -i '/^# The following packages are considered/,$$d' requirements.lock
	@cd tests/contract && for name in openai2 tools; do \
	  ../../$(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-emit-index-url \
	    --no-emit-find-links --no-emit-trusted-host -o requirements-$$name.txt requirements-$$name.in; done
	@cd tests/vllm && ../../$(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras \
	  $(addprefix --unsafe-package ,torch torchaudio torchcodec torchvision triton) \
	  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host -o requirements.txt requirements.in
	@sed -i '/^# The following packages are considered/,$$d' tests/vllm/requirements.txt

clean: down ## Remove the environment and the caches (the home stays)
	@rm -rf .venv .venv-contract .venv-benchmarks .venv-vllm .mypy_cache .ruff_cache .pytest_cache build *.egg-info
