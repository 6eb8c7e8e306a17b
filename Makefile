# `make` alone prints what there is. Needs Python >= 3.10 with venv and headers, a C++17 compiler and bash.

PYTHON ?= python3
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
BUILD := build/native
LITELLM := build/litellm
PEER := build/peer
STARTER_MODEL := models/SmolLM2-135M-Instruct.Q4_1.gguf
NODE_CLIENTS := tests/node/clients/node_modules/.package-lock.json
NODE_AGENTS := tests/node/agents/node_modules/.package-lock.json
NODE_PACKAGES := $(NODE_CLIENTS) $(NODE_AGENTS)
NPM_CI := npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
CXX_FILES := $(wildcard csrc/*/*.h csrc/*/*.cpp)
BUILD_FILES := $(CXX_FILES) CMakeLists.txt pyproject.toml $(wildcard third_party/llama_cpp.* third_party/amx_tile_config.* third_party/cpu_kernels.*)

CMAKE_BUILD_PARALLEL_LEVEL ?= $(shell getconf _NPROCESSORS_ONLN)
export CMAKE_BUILD_PARALLEL_LEVEL
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# Compiles with pip's whole talk in build/pip.log. The terminal gets the compiler's progress and, on failure, the end.
COMPILE = trap 'exit 130' INT; mkdir -p build && { $(1) 2>&1 | tee build/pip.log | sed -u -n -E \
	-e 's/^ *(\[[0-9]+\/[0-9]+\] .{0,100}).*/\1/p' -e t -e '/\[llama.cpp\]|^ *(Building|Successfully)|(warning|error):/p' \
	|| { tail -n 40 build/pip.log; echo "make: the build failed; everything it said is in build/pip.log" >&2; exit 1; }; }
EDITABLE = $(BIN)/python -m pip install -v --no-build-isolation --no-deps -C build-dir=$(BUILD) -e .

.PHONY: help dev build model serve clients test test-agents test-litellm test-asan test-tsan sbom lock soak bench-peer bench bench-full lint format wheel test-wheel docs clean

help: ## print this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

comma := ,

# Each stamp is written last: what Ctrl-C left half done is done again.

# A virtual environment without this stamp was never whole, so it is made anew.
$(VENV)/tools: pyproject.toml
	@echo "==> environment in $(VENV)"
	@[ -e $@ ] || $(PYTHON) -m venv --clear $(VENV)
	@sed -n '/^dev = \[/,/^\]/s/^ *"\([^"[]*\)".*/\1/p' pyproject.toml > $(VENV)/build-requirements.txt
	@$(BIN)/python -m pip install --quiet "pip>=23.1"
	@$(BIN)/python -m pip install -r $(VENV)/build-requirements.txt
	@touch $@

$(VENV)/built: $(VENV)/tools $(BUILD_FILES)
	@[ -n "$${LLAMA_CPP_DIR:-}" ] || $(BIN)/python third_party/llama_cpp.py build/third_party > /dev/null
	@echo "==> extension (the first time this takes minutes; $(CMAKE_BUILD_PARALLEL_LEVEL) jobs)"
	@$(call COMPILE,$(EDITABLE))
	@touch $@

# The project is installed by now, so this only adds what it and its development need.
$(VENV)/complete: $(VENV)/built
	@echo "==> what dmr and its tests need"
	@$(BIN)/python -m pip install --quiet 'dmr[dev]'
	@touch $@

dev: $(VENV)/complete ## make the environment and build the extension, once

build: $(VENV)/tools ## build the extension again; CMAKE_ARGS="-DGGML_CUDA=ON" is for a GPU
	@rm -f $(VENV)/built
	@$(MAKE) --no-print-directory $(VENV)/complete

$(STARTER_MODEL): third_party/starter_model.txt $(VENV)/tools
	@echo "==> starter model"
	@$(BIN)/python third_party/starter_model.py $(@D)
	@touch $@

model: $(STARTER_MODEL) ## bring the starter model (98 MB)

serve: dev model ## put the starter model into the store and serve on 127.0.0.1:12434
	@$(BIN)/python third_party/import_starter_model.py $(STARTER_MODEL)
	@exec $(BIN)/dmr serve

# Node's tests are skipped where there is no npm, or where it cannot reach its registry.
clients: $(if $(shell command -v npm),$(NODE_CLIENTS)) ## bring the Node clients that tests use (78 MB)

$(NODE_PACKAGES): %/node_modules/.package-lock.json: %/package.json %/package-lock.json
	@echo "==> packages of $*"
	@$(NPM_CI) --prefix $* && touch $@ || echo "make: npm failed, so the tests that need $* will be skipped" >&2

test: dev model clients ## run every test, save for those of agents and those that take minutes
	@$(BIN)/python -m pytest -m "not agents and not slow"

soak: dev model ## an hour of mixed load while processes are killed; SOAK="--seconds 600 --clients 64" chooses
	@$(BIN)/python -m benchmarks.soak $(SOAK)

test-agents: dev $(NODE_AGENTS) ## bring Claude Code and Codex (770 MB) and run them against a real server
	@$(BIN)/python -m pytest -m agents -rP tests/e2e/test_agents.py

# Instructor and LiteLLM hold openai and rich back, so they get an environment of their own.
$(LITELLM)/complete: pyproject.toml
	@echo "==> environment in $(LITELLM)"
	@[ -e $@ ] || $(PYTHON) -m venv --clear $(LITELLM)
	@sed -n 's/^clients = \[\(.*\)\]$$/\1/p' pyproject.toml | tr -d '" ' | tr , '\n' > $(LITELLM)/requirements.txt
	@$(LITELLM)/bin/python -m pip install --quiet -r $(LITELLM)/requirements.txt
	@touch $@

test-litellm: dev model $(LITELLM)/complete ## bring LiteLLM and Instructor (350 MB) and run them against a real server
	@$(BIN)/python -m pytest -m litellm

# Our C++ alone is instrumented, over the llama.cpp of the normal build: two minutes to build, some more to run.
SANITIZED = $(BIN)/cmake -S tests/sanitizers -B build/$(1) -G Ninja -DCMAKE_MAKE_PROGRAM="$(CURDIR)/$(BIN)/ninja" \
	  -DLLAMA_CPP_DIR="$${LLAMA_CPP_DIR:-$$($(BIN)/python third_party/llama_cpp.py "$(CURDIR)/build/third_party")}" \
	  -DPython_EXECUTABLE="$(CURDIR)/$(BIN)/python" -Dpybind11_DIR="$$($(BIN)/python -m pybind11 --cmakedir)" \
	  -DDMR_SANITIZE=$(2) > /dev/null && $(BIN)/cmake --build build/$(1)
# Python links neither library, so both come first; what Python itself never frees is no leak of ours.
PRELOAD = $$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)

test-asan: dev ## run the native tests over address and undefined behaviour sanitizers
	@$(call SANITIZED,asan,address$(comma)undefined)
	@LD_PRELOAD="$(PRELOAD)" ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 \
	  DMR_CORE="$$(ls $(CURDIR)/build/asan/_core.*.so)" PYTHONPATH=tests/sanitizers \
	  $(BIN)/python -m pytest --timeout 900 tests/native

test-tsan: dev ## run what the core does on several threads over the thread sanitizer
	@$(call SANITIZED,tsan,thread)
	@cd tests && ../$(BIN)/python -c 'import pathlib, tiny_models; tiny_models.model_file("tiny-random", pathlib.Path("../build/tsan"))'
	@TSAN_OPTIONS=halt_on_error=1 build/tsan/threads build/tsan/tiny-random.gguf

# llama-server of the sources that the extension is built from. Ninja finds out by itself what has changed.
$(PEER)/build.ninja: benchmarks/peer/CMakeLists.txt third_party/llama_cpp.txt | $(VENV)/tools
	@echo "==> llama-server, to measure against (the first time this takes minutes)"
	@source="$${LLAMA_CPP_DIR:-$$($(BIN)/python third_party/llama_cpp.py build/third_party)}" && \
	$(BIN)/cmake -S benchmarks/peer -B $(PEER) -G Ninja -DCMAKE_MAKE_PROGRAM="$(CURDIR)/$(BIN)/ninja" \
	  -DLLAMA_CPP_DIR="$$source" > /dev/null
	@touch $@

bench-peer: $(PEER)/build.ninja ## build llama-server, to measure against
	@$(BIN)/cmake --build $(PEER)

$(VENV)/bench: $(VENV)/complete
	@$(BIN)/python -m pip install --quiet 'dmr[bench]'
	@touch $@

bench: dev model bench-peer $(VENV)/bench ## measure against llama-server: the short set; BENCH="--rows 2,6" chooses
	@$(BIN)/python -m benchmarks.versus $(BENCH)

bench-full: dev model bench-peer $(VENV)/bench ## the long set, into benchmarks/results; may take an hour
	@$(BIN)/python -m benchmarks.versus --full --out benchmarks/results $(BENCH)

lint: dev ## check style, types, import arrows and C++ formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	PYTHONPATH=server $(BIN)/lint-imports
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)

format: dev ## put Python and C++ into shape
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(CXX_FILES)

wheel: $(VENV)/tools ## build the portable wheel into dist/
	@echo "==> portable wheel ($(CMAKE_BUILD_PARALLEL_LEVEL) jobs)"
	@rm -rf dist && $(call COMPILE,$(BIN)/python -m pip wheel -v --no-build-isolation --no-deps -w dist .)
	@ls -l dist

test-wheel: dev wheel ## test the portable wheel in a clean environment
	@DMR_TEST_WHEEL="$$(ls dist/*.whl)" $(BIN)/python -m pytest tests/wheel

sbom: $(VENV)/tools ## write the bill of materials into build/dmr.cdx.json; a wheel has its own
	@$(BIN)/python third_party/sbom.py build/dmr.cdx.json "$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)"
	@ls -l build/dmr.cdx.json

lock: $(VENV)/tools ## pin what a release needs at run time anew, by hash (third_party/requirements.txt)
	@$(BIN)/python third_party/lock.py

docs: dev ## write docs/cli.md and docs/dialects anew
	$(BIN)/python docs/generate_cli.py
	$(BIN)/python docs/generate_dialects.py

clean: ## remove what was built; downloads stay
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	[ ! -d build ] || find build -mindepth 1 -maxdepth 1 ! -name third_party -exec rm -rf {} +
