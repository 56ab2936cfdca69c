# From raw input to figures and paper. `make` alone lists the targets.
#   PROFILE=demo        notebooks/profiles/<name>.yaml; demo: the notebooks' own defaults, generated data
#   P="epochs=2 seed=3" parameters, for the notebooks that have them; drawn below build/, never over figures/
#   ONLY="03 04"        some notebooks: names, numbers, or figures
#   FROM=scratch        figures after their long results are computed anew (make results)
#   -j4                 four notebooks at once (default 2, those that measure time alone);  -n: what would run, and why
#   PYTHON=python3.12   the Python that .venv is made with
ifeq ($(filter grouped-target,$(.FEATURES)),)
$(error GNU Make 4.3 or later is needed, this is $(MAKE_VERSION); on macOS: brew install make, then use gmake)
endif
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-builtin-rules
.SUFFIXES:
.DEFAULT_GOAL := help

PROFILE ?= demo
P       ?=
ONLY    ?=
FROM    ?=
PYTHON  ?=
$(if $(filter-out scratch,$(FROM)),$(error FROM=$(FROM) is unknown; FROM=scratch computes the long results anew))
bases   := $(or $(PYTHON),python3.12 python3.11 python3 python)

# An active conda environment named cmf, or the one that repo2docker (Binder) makes of environment.yml, is used as it
# is; otherwise .venv is made from requirements.lock.
LOCKED := .venv/.lock-$(shell cat requirements.lock pyproject.toml | cksum | cut -d' ' -f1)
ifneq ($(filter cmf,$(CONDA_DEFAULT_ENV))$(NB_PYTHON_PREFIX),)
RUN := python
READY :=
else
RUN := .venv/bin/python
READY := $(LOCKED)
endif
ifneq ($(CMF_DATA),)
export CMF_DATA := $(abspath $(CMF_DATA))
endif

FIGURES := $(shell sed -nE 's/.*plots\.save.[^"]*"([a-z0-9_]+)".*/\1/p' notebooks/*.py 2>/dev/null)
PAIRS   := $(wildcard notebooks/[0-9][0-9]_*.ipynb)

# make's own flags, for the runner: -n becomes --plan, -j4 becomes --jobs 4
plan = $(if $(findstring n,$(filter-out --%,$(firstword -$(MAKEFLAGS)))),--plan)
jobs = $(addprefix --jobs ,$(patsubst -j%,%,$(filter -j%,$(MAKEFLAGS))))
some = $(if $(ONLY)$(1),--only $(ONLY) $(1))
book = $(if $(plan),$(if $(wildcard $(RUN)),$(RUN),python3),$(RUN)) -m cmf.book
draw = $(book) figures --profile $(PROFILE) $(foreach p,$(P),-p '$(p)') $(call some,$(1)) $(jobs) $(plan)

.PHONY: help setup figures notebooks results encoders data test coverage lint paper site audit faults benchmarks clean distclean $(FIGURES)

help: ## list the targets
	@echo "make TARGET [PROFILE=demo] [P=\"epochs=2\"] [ONLY=03] [-j4] [-n]"; echo
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "  %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  <figure>    one figure by its name, by what it rests on alone (seconds where results are committed):"
	@echo "$(or $(strip $(FIGURES)),(none yet))" | fold -s -w 90 | sed 's/^/              /'

setup: $(READY) ## make .venv with the locked packages (or use the active conda environment cmf)

figures: $(READY) $(if $(FROM),results) ## run the notebooks that are out of date and draw their figures
	+@$(call draw,)

$(FIGURES): $(READY)
	+@$(call draw,$@)

notebooks: $(READY) ## write notebooks/*.ipynb: executed pairs of the .py sources, default parameters
	+@$(if $(plan),$(book) figures $(call some,) --plan,$(RUN) -m cmf.book notebooks $(call some,) $(jobs))

results: $(READY) ## recompute the long results that are committed below figures/ (some six hours)
	$(RUN) -m cmf.results --profile $(PROFILE)

# Threads that spin while they wait make training several times slower where other work runs beside it.
encoders: $(READY) ## train the small CLIP, BLIP and DistilBERT on generated scenes, and score them (twenty minutes)
	OMP_WAIT_POLICY=passive $(RUN) -m cmf.studies.twins

data: $(READY) ## list data sets and weights, where they are and how to get them
	@$(RUN) -m cmf data list

paper: $(READY) ## typeset the paper from the figures and numbers that are there
	$(RUN) -m cmf.paper

site: $(READY) ## notebooks, figures, reference and how-to pages as a static site: build/site/index.html
	$(RUN) -m cmf.site

lint: $(READY) ## check the style of the code
	$(RUN) -m ruff check .

# Threads are limited so that two workers do not fight over the cores; notebooks are executed anew and
# compared with their stored outputs, progress bars switched off.
test: $(READY) ## unit, property, architecture and notebook tests, with counts
	@mkdir -p build/test; rm -f build/test/*.xml; status=0; \
	OMP_NUM_THREADS=1 $(RUN) -m pytest tests -q -n 2 --dist loadfile -m "not benchmarks" \
	    --junitxml=build/test/tests.xml || status=1; \
	if [ -n "$(PAIRS)" ]; then \
	    CMF_PROGRESS=/dev/null TQDM_DISABLE=1 PYTHONHASHSEED=0 $(RUN) -m pytest -q --nbval-lax \
	        --nbval-current-env --nbval-cell-timeout=900 --junitxml=build/test/notebooks.xml $(PAIRS) || status=1; \
	fi; \
	if command -v nvidia-smi >/dev/null; then \
	    $(RUN) -m pytest tests -q -m gpu --junitxml=build/test/gpu.xml || status=1; \
	fi; \
	$(RUN) tests/counts.py build/test/*.xml || status=1; exit $$status

coverage: $(READY) ## the tests with line coverage of cmf; fails below 90 %, or when a raise is not reached
	OMP_NUM_THREADS=1 $(RUN) -m pytest tests -q -n 2 --dist loadfile -m "not benchmarks" \
	    --cov --cov-report=json:build/coverage.json
	$(RUN) tests/reached.py build/coverage.json

audit: $(READY) ## clone, install, build twice, compare: one page, build/audit/index.md (half an hour; VENV=1: no install)
	$(RUN) -m cmf.audit $(if $(VENV),--venv) $(call some,)

faults: $(READY) ## kill, starve and damage the work some hundred times and compare what it ends with (fifteen minutes)
	PYTHONPATH=tests $(RUN) -m faults

benchmarks: $(READY) ## timings beside named alternatives, printed as ratios
	$(RUN) -m pytest tests -m benchmarks -s -q

clean: ## remove what was built; committed figures and results stay
	rm -rf build .pytest_cache .ruff_cache .hypothesis

distclean: clean ## remove .venv as well
	rm -rf .venv

# The stamp is written last, so that an installation that was cut short is taken up again.
$(LOCKED):
	@base=""; for p in $(bases); do \
	    if $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info)' 2>/dev/null; then base=$$p; break; fi; \
	done; \
	if [ -z "$$base" ]; then \
	    echo "Python 3.11 or later is needed and none was found (tried: $(bases));" \
	         "install it, or name it: make setup PYTHON=/path/to/python3.12" >&2; exit 1; \
	fi; \
	if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then \
	    echo "making .venv with $$($$base --version)"; rm -rf .venv; $$base -m venv .venv; \
	fi; \
	echo "installing $$(wc -l < requirements.lock) locked packages; on Linux several GB, torch brings CUDA"; \
	.venv/bin/python -m pip install --disable-pip-version-check -r requirements.lock \
	    | awk '/ [0-9]+\.[0-9]+ [MG]B\)/ && !/ [0-9]\.[0-9]+ MB/ {print "  " $$1, $$2, $$3, $$4; fflush()} \
	           /^Installing/ {print "  unpacking and installing, some minutes"; fflush()}'; \
	.venv/bin/python -m pip install --disable-pip-version-check --quiet --no-build-isolation --no-deps -e .; \
	rm -f .venv/.lock-*; touch $@; echo ".venv is ready"
