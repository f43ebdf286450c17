# The two commands of the README. VENV and PYTHON may be set: make demo PYTHON=python3.12
VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin
# Python keeps the byte code of what it imports; of all that is installed, that is a small part and a minute less.
export PYTHONDONTWRITEBYTECODE =

.PHONY: demo test
demo: $(VENV)/demo
	$(BIN)/python shards/build.py demo --images 6000 --out data/demo
	$(BIN)/torchrun --standalone --nproc_per_node 2 -m dist_plm.train --config configs/demo.yaml

test: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@# The tests of Slurm wait for its timers (2 min of CPU in 8), so they run beside the others. Of those, the files in their
	@# order: by default xdist ends with the files of few tests, which are the long ones.
	$(BIN)/pytest tests/slurm & slurm=$$!; \
	$(BIN)/pytest -n 4 --dist loadfile --no-loadscope-reorder --durations 15 --ignore tests/slurm; others=$$?; \
	wait $$slurm && exit $$others

$(VENV)/demo: EXTRAS = report
$(VENV)/dev: EXTRAS = dev
$(VENV)/demo $(VENV)/dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile -c constraints.txt -e ".[$(EXTRAS)]"
	touch $@
