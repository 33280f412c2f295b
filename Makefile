# SPDX-License-Identifier: Apache-2.0
# `make help` lists the targets. Needs make, git and python3 (3.10 to 3.13) with its venv module.

PYTHON ?= python3
GOALS ?= 10
VIEW ?= 1
ARGS ?=
VENV := .venv
PY := $(VENV)/bin/python
EXECUTABLES := policy_node sim_node sim_demo preflight view markers_node

# What the environment is made of; a change installs anew.
PINS := setup.py setup.cfg pyproject.toml constraints.txt
PIP_INSTALL := $(PY) -m pip install -q --disable-pip-version-check -c constraints.txt
RUN_STAMP := $(VENV)/.installed-run
DEV_STAMP := $(VENV)/.installed-dev

# The wheels bring a ROS of their own: a sourced /opt/ros or another workspace must not shadow it.
unexport PYTHONPATH PYTHONHOME LD_LIBRARY_PATH AMENT_PREFIX_PATH COLCON_PREFIX_PATH
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE

.DELETE_ON_ERROR:
.PHONY: help setup setup-dev sim test lint format build constraints clean

help: ## List the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; \
	  do printf '  make %-13s %s\n' "$$name" "$$text"; done

setup: $(RUN_STAMP) ## Create .venv with what `make sim` needs (no torch)

setup-dev: $(DEV_STAMP) ## Add what training, tests and checks need

# pip comes last into a new environment, so its presence says that the environment is whole.
$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; (3, 10) <= sys.version_info < (3, 14) or sys.exit( \
	  "$(PYTHON) is Python %d.%d; this project needs 3.10 to 3.13: make PYTHON=python3.12 ..." \
	  % sys.version_info[:2])' >&2
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo '$(PYTHON) cannot create environments. On Debian and Ubuntu: apt-get install python3-venv' \
	  '(or python3.X-venv for that version)' >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) >&2

# Output goes to stderr: the standard output of `make sim` is the result alone.
$(RUN_STAMP): $(PINS) | $(VENV)/bin/pip
	@echo 'Installing the pinned packages into $(VENV) (about a minute the first time) ...' >&2
	@$(PIP_INSTALL) -e '.[ros,view]' >&2
	@touch $@

$(DEV_STAMP): $(PINS) | $(VENV)/bin/pip
	@echo 'Installing the pinned packages of training and tests into $(VENV) (minutes) ...' >&2
	@$(PIP_INSTALL) -e '.[ros,view,train,dev]' >&2
	@touch $@ $(RUN_STAMP)

# One numeric thread: more of them spin against the control loop and each other.
# ROS_LOG_DIR: nothing is left in the home folder, and none is needed.
sim test: export OMP_NUM_THREADS := 1
sim test: export ROS_AUTOMATIC_DISCOVERY_RANGE := LOCALHOST
sim test: export ROS_LOG_DIR := $(CURDIR)/build/ros_log
sim test: export AMENT_PREFIX_PATH := $(CURDIR)/$(VENV)

sim: $(RUN_STAMP) ## Drive the simulated UR5e to GOALS=10 random goals (0: drag them), VIEW=0: no page
	@exec $(PY) -m smfp_control.sim_demo --goals $(GOALS) $(if $(filter 0,$(VIEW)),--no-view,) $(ARGS)

# Most tests only compute, so that they run side by side. Those with real nodes in real time must not
# wait for each other. The nodes' modules switch MuJoCo's pictures off for their process, so those of
# training and simulation have processes of their own.
test: $(DEV_STAMP) ## Run the tests (ARGS="-k name" and the like go to pytest)
ifeq ($(strip $(ARGS)),)
	@$(PY) -m pytest -n 2 --ignore tests/control
	@$(PY) -m pytest -n 2 -m 'not process' tests/control
	@$(PY) -m pytest -m process tests/control
else
	@$(PY) -m pytest $(ARGS)
endif

# mypy finds modules by folder name, so two packages are linked under their import names.
lint: $(DEV_STAMP) ## Check style, formatting and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	@mkdir -p build/imports
	@ln -sfn ../../sim build/imports/smfp_sim
	@ln -sfn ../../ros2_ws/src/smfp_control build/imports/smfp_control
	$(VENV)/bin/mypy
	$(VENV)/bin/mypy benchmarks

format: $(DEV_STAMP) ## Sort imports and format the code
	$(VENV)/bin/ruff check --select I --fix .
	$(VENV)/bin/ruff format .

# An invalid package.xml makes colcon build a plain Python package, silently and without ROS's hooks.
build: $(DEV_STAMP) ## Build the ROS 2 package (ARGS=--symlink-install)
	@$(VENV)/bin/colcon list | grep -q 'ros\.ament_python' || { \
	  echo 'colcon does not take this for an ament_python package: is package.xml valid?' >&2; exit 1; }
	$(VENV)/bin/colcon build $(ARGS)
	@for name in $(EXECUTABLES); do \
	  test -x install/smfp_control/lib/smfp_control/$$name || { \
	    echo "install/smfp_control/lib/smfp_control/$$name is missing" >&2; exit 1; }; done
	@echo 'Built. Next: . install/setup.bash && ros2 launch smfp_control sim.launch.py'

# CUDA packages come with some builds of torch only and are not pinned.
constraints: ## Solve constraints.txt anew (needs uv; UV_ARGS=--upgrade renews pins)
	uv pip compile -q --universal --python-version 3.10 --fork-strategy fewest --all-extras \
	  --no-header --no-annotate --no-emit-index-url $(UV_ARGS) setup.py -o constraints.txt > /dev/null
	sed -i -E -e "/^(nvidia-|cuda-|triton)/d; /win32/d; />= '3\.14'/d" -e 's/^(torch==[0-9.]+)\+.*/\1/' \
	  -e '1i # Exact versions for `pip install -c constraints.txt`: CPython 3.10 to 3.13 on Linux x86_64.' \
	  -e '1i # Made by `make constraints`, which keeps these pins; UV_ARGS=--upgrade renews them.' \
	  -e '1i # CUDA packages are left out and torch has no local version, so that the pin also takes a' \
	  -e '1i # CPU build where the package index offers one.' constraints.txt

clean: ## Remove what was built, not .venv
	rm -rf build install log *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
