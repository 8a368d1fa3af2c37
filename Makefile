# One command each: what it needs is set up first, once, in .venv.

PYTHON ?= python3
# Further arguments: make train ARGS="recipe=quickstart trainer.max_steps=50", make test ARGS="-k config"
ARGS ?=
# What make train trains on: audio, causal, lidar, video or vision
MODALITY ?= lidar

BIN := .venv/bin
READY := .venv/.ready
PACKAGES := packages/audio packages/causal packages/core packages/lidar packages/vision
# Media and figures, whose digits look like keys; words and known forms of keys are looked for in all else.
NO_SECRETS := /(samples|results)/|_golden\.json$$|\.lock$$
TYPED := $(addsuffix /src,$(PACKAGES)) tools examples

.DEFAULT_GOAL := help
.PHONY: help train test lint audit bench-quick lock clean

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | awk -F '\t' '{ printf "  make %-6s %s\n", $$1, $$2 }'

train: $(READY) ## train MODALITY (lidar), on all GPUs there are; ARGS="key=value ..." are its settings
	@gpus=$$($(BIN)/python -c 'import torch; print(torch.cuda.device_count())'); \
	if [ "$$gpus" -gt 1 ]; then world="--multi_gpu --num_processes=$$gpus"; else world="--num_processes=1"; fi; \
	trap '' INT; export JEPA_LAUNCHER_LEAVES_CTRL_C=1; \
	exec $(BIN)/accelerate launch --quiet $$world --num_machines=1 --mixed_precision=no --dynamo_backend=no \
		tools/train.py modality=$(MODALITY) $(ARGS)

test: $(READY) ## all tests; ARGS="-k word" chooses some
	@if [ -d ../shared/data ]; then export JEPA_DATA="$(abspath ../shared/data)"; fi; $(BIN)/python -m pytest -q $(ARGS)

lint: $(READY) ## style, types, who may import whom, dependencies, secrets
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(TYPED)
	$(BIN)/lint-imports
	$(BIN)/python tools/check_dependencies.py
	$(BIN)/uv pip check --quiet --python $(BIN)/python
	git ls-files -z | xargs -0 $(BIN)/detect-secrets-hook --disable-plugin Base64HighEntropyString \
		--disable-plugin HexHighEntropyString --exclude-files '$(NO_SECRETS)'

audit: $(READY) ## known faults of the pinned versions; needs a network, as it asks a database of them
	@$(BIN)/uv tool run --quiet pip-audit --strict --requirement requirements.lock --no-deps --disable-pip \
		--progress-spinner off || { echo "make audit: faults were found, or the database could not be asked (it needs \
	a network): then nothing is known of these versions" >&2; exit 1; }

bench-quick: $(READY) ## has a step become slower than what is stored for this machine? under five minutes
	$(BIN)/python benchmarks/speed/quick.py

lock: $(READY) ## write requirements.lock anew from the packages' pyproject files
	printf './packages/audio\n./packages/causal\n./packages/core\n./packages/lidar[spconv]\n./packages/vision\n' | $(BIN)/uv pip compile - --group dev --universal \
		--python-version 3.11 --upgrade --no-header --no-annotate --quiet \
		--no-emit-package jepa-audio --no-emit-package jepa-causal --no-emit-package jepa-core --no-emit-package jepa-lidar --no-emit-package jepa-vision \
		--output-file requirements.lock

clean: ## remove the environment and all caches; runs/ stays
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find packages tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): requirements.lock pyproject.toml $(addsuffix /pyproject.toml,$(PACKAGES))
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
		echo "make: expected Python 3.11 to 3.13, got $$($(PYTHON) --version 2>&1); choose one: make PYTHON=python3.12" >&2; \
		exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^uv==' requirements.lock)"
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation $(addprefix -e ,$(PACKAGES))
	@touch $@
