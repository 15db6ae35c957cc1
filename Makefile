# Everything is made inside this folder, .venv and build/, and nothing uses a fixed port: two checkouts never meet.
# Needs Python 3.11 or newer (with venv and headers), make and a C++20 compiler; all else comes as wheels into .venv.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
TORCH ?= torch==2.13.0
JOBS ?= $(shell nproc)
ARGS ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# CMake and Ninja are wheels in .venv.
WITH_TOOLS := PATH='$(CURDIR)/$(BIN)':"$$PATH"
NATIVE_SOURCES := $(shell find native -name '*.h' -o -name '*.cpp')
# Folders too: their times tell when a source was added or removed.
BUILD_INPUTS := pyproject.toml CMakeLists.txt native/CMakeLists.txt $(NATIVE_SOURCES) $(shell find native -type d)

# Prints what pyproject.toml requires to build and to run, and for the extras that are named.
requirements := $(BIN)/python -c 'import sys, tomllib; t = tomllib.load(open("pyproject.toml", "rb")); p = t["project"]; \
	extras = p["optional-dependencies"]; print(*t["build-system"]["requires"], *p["dependencies"], \
	*(r for name in sys.argv[1:] for r in extras[name]), sep="\n")'

.PHONY: help demo test test-long test-engines engines lint format sanitize asan tsan bench bench-disk survival replay docs proto clean

help:  ## This list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: .venv/.stamp-package  ## The main job: a node, an engine that prefills, a second engine that loads the KV
	$(BIN)/kvstore demo $(ARGS)

test: .venv/.stamp-package  ## All tests, native ones included; ARGS="-k keys" selects
	$(BIN)/python -m pytest $(ARGS)

test-long: .venv/.stamp-package  ## The tests that take too long for every commit
	$(BIN)/python -m pytest -m slow $(ARGS)

test-engines: .venv/.stamp-package  ## The connectors in real engines, in environments of their own; ARGS="--fast", "vllm"
	$(BIN)/python -m tests.engines.run $(ARGS)

engines: .venv/.stamp-package  ## Makes those environments (3 GB each); ARGS="vllm-0.32"
	$(BIN)/python -m tests.engines.environments $(ARGS)

lint: .venv/.stamp-lint  ## What CI checks besides the tests: lint, format, types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(NATIVE_SOURCES)

format: .venv/.stamp-lint  ## Formats Python and C++ in place
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(NATIVE_SOURCES)

sanitize: asan tsan  ## Native tests under AddressSanitizer with UndefinedBehaviorSanitizer, and ThreadSanitizer

# UCX hooks madvise, which a thread calls once more after ThreadSanitizer has forgotten it: a crash without this.
tsan: export UCX_MEM_MMAP_HOOK_MODE := none
asan tsan: .venv/.stamp-requirements
	$(WITH_TOOLS) cmake --preset $@ -DPython_EXECUTABLE='$(CURDIR)/$(BIN)/python'
	$(WITH_TOOLS) cmake --build --preset $@ -j$(JOBS)
	build/$@/native/native_tests

bench: .venv/.stamp-bench  ## Speed of each lane beside its bound; ARGS="--quick"
	$(BIN)/kvstore bench $(ARGS)

bench-disk: .venv/.stamp-package  ## Speed of the NVMe tier beside the raw disk; ARGS="--quick", "--recovery"
	$(BIN)/python -m benchmarks.disk $(ARGS)

survival: .venv/.stamp-package  ## A burst larger than memory, then restart and kill -9: how many blocks are left
	$(BIN)/python -m benchmarks.survival $(ARGS)

replay: .venv/.stamp-bench  ## Judges eviction policies by a request trace; TRACE=path
	@test -n '$(TRACE)' || { echo "make replay TRACE=path/to/trace.jsonl" >&2; exit 1; }
	$(BIN)/python -m benchmarks.replay '$(TRACE)' --synthetic $(ARGS)

docs: .venv/.stamp-lint  ## Rewrites the pages that are generated from the code
	$(BIN)/python -c 'from pathlib import Path; from kvstore.config import settings_markdown as page; \
	  Path("docs/SETTINGS.md").write_text(page())'

# The generator is older than what .venv runs with, on purpose: see proto/generate.py.
proto: build/proto/.stamp  ## Rewrites kvstore/proto from proto/
	build/proto/bin/python proto/generate.py

clean:  ## Removes .venv, build/ and caches
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find kvstore tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

.venv/.stamp-venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "kvstore needs Python 3.11 or newer: make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2> /dev/null \
	  || { echo "$(PYTHON) cannot make a virtual environment: install its venv package (Debian: python3.11-venv)" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	touch $@

.venv/.stamp-lint: .venv/.stamp-venv pyproject.toml
	$(requirements) lint | $(PIP) install -q -r /dev/stdin
	touch $@

# Torch apart and first, so that the version is ours to choose and not the newest.
.venv/.stamp-requirements: .venv/.stamp-venv pyproject.toml
	@echo "Installing what the package needs; the first time this takes minutes."
	$(PIP) install -q '$(TORCH)'
	$(requirements) test demo | $(PIP) install -q -r /dev/stdin
	touch $@

# Editable: Python sources are used where they lie, and only native sources lead to a build, an incremental one.
.venv/.stamp-package: .venv/.stamp-requirements $(BUILD_INPUTS)
	@$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' \
	  || { echo "$(PYTHON) has no headers: install its development package (Debian: python3.11-dev)" >&2; exit 1; }
	$(WITH_TOOLS) CMAKE_BUILD_PARALLEL_LEVEL=$(JOBS) \
	  $(PIP) install -q --no-deps --no-build-isolation -C build-dir=build/py -e .
	touch $@

.venv/.stamp-bench: .venv/.stamp-package
	$(requirements) bench | $(PIP) install -q -r /dev/stdin
	touch $@

build/proto/.stamp: proto/generate.py
	$(PYTHON) -m venv build/proto
	build/proto/bin/python -m pip --disable-pip-version-check install -q "$$(sed -n "s/.*pip install '\(grpcio-tools[^']*\)'.*/\1/p" $<)"
	touch $@
