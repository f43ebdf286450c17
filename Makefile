# The two commands of the README. VENV and PYTHON may be set: make demo PYTHON=python3.12
VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin

.PHONY: demo test
demo: $(VENV)/installed
	$(BIN)/python shards/build.py demo --images 6000 --out data/demo
	$(BIN)/torchrun --standalone --nproc_per_node 2 -m dist_plm.train --config configs/demo.yaml

test: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n 3 --dist loadfile --ignore tests/slurm
	$(BIN)/pytest tests/slurm

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@
