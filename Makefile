# Everything on a fresh machine, from creating the environment on: make demo, make test, make check, make docs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The environment is made anew whenever what it is made from changes.
KEY := $(shell cat pyproject.toml constraints.txt | sha256sum | cut -c1-16)
READY := $(VENV)/ready-$(KEY)

.PHONY: environment demo test coverage check docs format clean

environment: $(READY)

demo: $(READY)
	$(BIN)/python search.py --latency 30ms

# A crash of a library while the interpreter ends says where: pytest's own handler is gone by then.
test: export PYTHONFAULTHANDLER = 1
test: $(READY)
	@echo "tests/search runs beside all others; its output comes at the end"; \
	$(BIN)/pytest -q --durations=10 tests/search > $(VENV)/tests-search.log 2>&1 & search=$$!; \
	$(BIN)/pytest -q --durations=10 --ignore=tests/search; others=$$?; \
	wait $$search; search=$$?; cat $(VENV)/tests-search.log; exit $$((others + search))

coverage: $(READY)
	$(BIN)/pytest -q --cov --cov-report=term:skip-covered

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(MAKE) -C hw_models/worker check BIN=$(CURDIR)/$(BIN)

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(READY):
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip -c constraints.txt
	$(BIN)/pip install --quiet -c constraints.txt --editable '.[search,dev]'
	touch $@

clean:
	rm -rf $(VENV) runs build *.egg-info
