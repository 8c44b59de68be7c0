# make demo: the study "why diffusion" on real data, then report.html
# make test: the whole test suite
# Both set up .venv first, once, from setup.py and constraints.txt.

VENV ?= .venv
PYTHON ?= python3
DEMO ?= demo
# Parallel test processes; each compiles, so more than the cores gains nothing. With worksteal the
# tests of a file stay together, and with them what they share.
JOBS ?= 2
bin := $(VENV)/bin
ready := $(VENV)/.ready
peers := $(VENV)/.peers

.PHONY: demo test test-slow test-gpu test-all lint format benchmark reference clean

demo: $(ready)
	$(bin)/twofold ablate --study=configs/ablations/why_diffusion.py:demo --workdir=$(DEMO)
	cp $(DEMO)/report.html $(DEMO)/table.md .
	@echo "Open report.html"

test: $(ready)
	$(bin)/python -m pytest -n $(JOBS) --dist=worksteal -m "not slow and not peers and not gpu"

# What `make test` leaves out: long tests, further cases of quick ones, programs compiled for TPUs,
# and the comparisons against PyTorch, diffusers and transformers.
test-slow: $(peers)
	$(bin)/python -m pytest -n $(JOBS) --dist=worksteal -m "(slow or peers) and not gpu"

# Needs a GPU; elsewhere every test is skipped.
test-gpu: $(ready)
	$(bin)/python -m pytest -m gpu

test-all: test test-slow

lint: $(ready)
	$(bin)/ruff check .
	$(bin)/ruff format --check .

format: $(ready)
	$(bin)/ruff format .
	$(bin)/ruff check --fix .

benchmark: $(peers)
	$(bin)/twofold benchmark --out=benchmarks.md

# docs/reference.md: everything that a flag can name; docs/papers.md: the configs of papers.
reference: $(ready)
	$(bin)/twofold list --markdown > docs/reference.md
	$(bin)/twofold list --papers > docs/papers.md

$(ready): setup.py constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("twofold needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Choose another: make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(bin)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

$(peers): $(ready)
	$(bin)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,peers,tpu]'
	touch $@

clean:
	rm -rf $(VENV) .cache build *.egg-info
