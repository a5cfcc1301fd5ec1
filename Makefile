# Every target works from a bare clone with Python 3.11 and pip: it makes .venv and installs what it needs.
PYTHON ?= python3
BIN := .venv/bin
DISTS := . plugins/math plugins/chat plugins/reasoning plugins/local
SHELL := /bin/bash

.PHONY: install demo demo-seeds test test-authors test-embedded test-interop test-reasoning test-wheels test-newcomer check bench \
	bench-lag bench-local bench-memory bench-soak docs docs-newcomer wheels

install: .venv/.installed

# torch first and through the constraints: any open range brings several GB of CUDA packages.
.venv/.installed: pyproject.toml plugins/math/pyproject.toml plugins/chat/pyproject.toml \
		plugins/reasoning/pyproject.toml plugins/local/pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]' -e 'plugins/math[verify]' -e plugins/chat -e plugins/reasoning \
		-e plugins/local
	touch $@

# A language model learns to add, on this machine, without a key.
demo: install
	$(BIN)/cookbook local setup
	$(BIN)/cookbook run math/arithmetic

# The same with three seeds, and the table that stands in docs/02-first-run.md.
demo-seeds: install
	$(BIN)/cookbook local setup
	$(BIN)/python bench/demo_seeds.py

test: install
	$(BIN)/python -m pytest

# What an author of a plugin meets: `cookbook check` with its zoo of faulty plugins, `cookbook new`, pitfalls.
test-authors: install
	$(BIN)/python -m pytest -m authors

# What needs the embedded model.
test-embedded: install
	$(BIN)/cookbook local setup
	$(BIN)/python -m pytest -m embedded

# Every family of reasoning-gym, the slow ones too; ten minutes or so.
test-reasoning: install
	REASONING_PROBLEMS=60 $(BIN)/python -m pytest -m 'slow_family or not slow_family' plugins/reasoning

# Other people's Tinker scripts on this machine, in an environment of their own.
test-interop: install .interop/.installed
	$(BIN)/cookbook local setup
	$(BIN)/python -m pytest -m interop tests/interop

.interop/.installed: tests/interop/requirements.txt bench/adapters/peer.txt constraints.txt | install
	$(PYTHON) -m venv .interop
	echo '*' > .interop/.gitignore
	$(BIN)/pip freeze --exclude-editable > .interop/ours.txt
	.interop/bin/pip install --quiet -c constraints.txt torch
	.interop/bin/pip install --quiet -c .interop/ours.txt -r tests/interop/requirements.txt
	.interop/bin/pip install --quiet --no-deps tinker-cookbook==0.6.1
	.interop/bin/pip install --quiet -c .interop/ours.txt -e . -e plugins/local
	touch $@

# The dists as a user gets them, in a new environment.
test-wheels: install wheels
	$(BIN)/python -m pytest -m wheels

# What a new user types, from the wheels in a new environment: five minutes, and the network for pip.
test-newcomer: install wheels
	$(BIN)/python -m pytest -m newcomer -s

# The same, written into docs/transcript.md.
docs-newcomer: install wheels
	COOKBOOK_WRITE_TRANSCRIPT=1 $(BIN)/python -m pytest -m newcomer -s

# The outputs of the commands in docs/ as they are now, and the catalogue.
docs: install
	$(BIN)/cookbook local setup
	$(BIN)/python tests/consoles.py --embedded
	$(BIN)/cookbook list --markdown > docs/catalogue.md

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# Beside tinker-cookbook, in an environment of its own with the versions of ours where both need a package. The
# goldens of the renderers and of grading lie beside the clone; without them these are passed over.
bench: install .bench/.installed
	$(BIN)/python bench/startup.py
	$(BIN)/python bench/core.py .bench/bin/python
	$(BIN)/python bench/renderers.py --peer .bench/bin/python
	$(BIN)/python bench/grading.py --peer .bench/bin/python

# The wall time of a step at max_lag 1 over that at 0.
bench-lag: install
	$(BIN)/cookbook local setup
	$(BIN)/python bench/lag.py

# Memory over 300 steps.
bench-memory: install
	$(BIN)/cookbook local setup
	$(BIN)/python bench/memory.py

# 100,000 gradings, and what is left of them when they are interrupted.
bench-soak: install
	$(BIN)/python bench/soak_grading.py

# The local engine beside TRL and transformers, in an environment of its own: PARTS="train sample" for some.
bench-local: install .bench-local/.installed
	$(BIN)/cookbook local setup
	$(BIN)/python bench/local.py $(PARTS)

.bench-local/.installed: bench/adapters/trl.txt constraints.txt
	$(PYTHON) -m venv .bench-local
	echo '*' > .bench-local/.gitignore
	.bench-local/bin/pip install --quiet -c constraints.txt torch
	.bench-local/bin/pip install --quiet -c constraints.txt -r bench/adapters/trl.txt
	touch $@

.bench/.installed: bench/adapters/peer.txt constraints.txt | install
	$(PYTHON) -m venv .bench
	echo '*' > .bench/.gitignore
	$(BIN)/pip freeze --exclude-editable > .bench/ours.txt
	.bench/bin/pip install --quiet -c constraints.txt torch
	.bench/bin/pip install --quiet -c .bench/ours.txt -r bench/adapters/peer.txt
	.bench/bin/pip install --quiet --no-deps tinker-cookbook==0.6.1
	touch $@

wheels: install
	rm -rf dist
	$(BIN)/pip wheel --quiet --no-deps -w dist $(DISTS)
	ls dist
