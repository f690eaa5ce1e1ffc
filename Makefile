# `make demo` and `make test` set up .venv themselves; nothing else is needed.
PYTHON ?= python3.11
VENV := .venv
STAMP := $(VENV)/.voxveil-installed

.PHONY: demo test check setup clean

demo: $(STAMP)
	$(VENV)/bin/voxveil demo

test: check
	$(VENV)/bin/python -m pytest --ignore tests/serve --numprocesses 2 --dist loadfile --durations=15
	$(VENV)/bin/python -m pytest tests/serve --durations=5  # calls in real time, which want the machine for themselves

check: $(STAMP)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt deploy/webrtcvad/pyproject.toml
	@echo "Setting up $(VENV): about 4 minutes and 8 GB of disk the first time, 3 GB more while it installs."
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade "pip>=25"
	PYTHONWARNINGS="ignore:Editable installation" \
	$(VENV)/bin/python -m pip install --quiet --progress-bar on --constraint constraints.txt --editable ".[dev]" ./deploy/webrtcvad
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info voxveil-out
