# `make demo` and `make test` make what they need: a virtual environment in .venv, installed once and again only
# when pyproject.toml or constraints.txt change. `make PYTHON=/path/to/python3.12 test` picks the interpreter.

VENV := .venv
BIN := $(VENV)/bin

# The first of these that runs and is new enough; macOS's own python3 is not.
CANDIDATES := python3 python3.14 python3.13 python3.12 python3.11
IS_311 := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in $(CANDIDATES); do $$p -c '$(IS_311)' >/dev/null 2>&1 && echo $$p && break; done)

EXTRAS_demo := demo
EXTRAS_test := test,dev
EXTRAS_site := tutorials
EXTRAS_browser := browser

SITE := build/site

.PHONY: help demo test lint bench zoo site check-site clean

help:
	@echo "make demo    explain a digit pair and a photo; says where the pictures and pages are"
	@echo "make test    lint, type check and tests"
	@echo "make lint    lint and type check"
	@echo "make bench   time and memory of one iteration"
	@echo "make zoo     a table of networks, each traced, timed and certified; ARGS=--all for every one"
	@echo "make site    the tutorials, run, and the reference, as pages that open from disk; says where"
	@echo "make check-site    open every page of the site in Chromium, and say what is wrong"
	@echo "make clean   remove the virtual environment and everything made"

demo: $(VENV)/demo.installed
	$(BIN)/dmbp explain --html --out demo/digit-pair
	$(BIN)/dmbp explain skimage:chelsea --out demo/photo
	@echo "The pictures:"; ls $(CURDIR)/demo/*/*.png
	@echo "To look into the digit pair, open in a browser:"; ls $(CURDIR)/demo/digit-pair/*.html

test: lint
	$(BIN)/python -m pytest -n auto --dist loadgroup --no-loadscope-reorder

lint: $(VENV)/test.installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# Benchmarks are not tests: their file names keep them out of `make test`.
bench: $(VENV)/test.installed
	$(BIN)/python -m pytest -s -o python_files='bench_*.py' tests/benchmarks

zoo: $(VENV)/test.installed
	$(BIN)/python tests/benchmarks/bench_zoo.py $(ARGS)

# From nothing each time: every tutorial runs, and a warning fails.
site: $(VENV)/site.installed
	rm -rf $(SITE)
	$(BIN)/python -m sphinx -W -T -c tutorials/site tutorials $(SITE)
	@echo "The site: $(CURDIR)/$(SITE)/index.html"

check-site: $(VENV)/browser.installed
	$(BIN)/python tutorials/site/check.py $(SITE)

clean:
	rm -rf $(VENV) demo build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/%.installed: pyproject.toml constraints.txt | $(BIN)/pip
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[$(EXTRAS_$*)]"
	@touch $@

$(BIN)/pip:
	@"$(PYTHON)" -c '$(IS_311)' >/dev/null 2>&1 || { \
	  echo "Python 3.11 or newer is needed, and $(or $(PYTHON),none of $(CANDIDATES)) is not that." \
	    "Name one: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)"; exit 1; }
	"$(PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
