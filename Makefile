# make demo        install everything into .venv, evaluate the bundled demo, save overlays
# make test        run the tests, one worker more than cores, since many wait for processes of theirs (TESTS="tests/test_text.py" picks some)
# make test-full   run what is too slow for every change: before a release
# make test-newest, test-oldest   the same with the newest and the oldest packages that pyproject.toml allows
# make lint        check style and types;  make format repairs style
# make docs        build the documentation site into work_dirs/site
# make build       sdist and wheel in dist
PYTHON ?= python3
TESTS ?= -m "not vit_b_16 and not slow"
# All that tests need; fiftyone is left out, it brings a database server.
EXTRAS := openmmlab compare coco openvino onnx sentencepiece ray web raster supervision dev
WORKERS ?= $(shell echo $$(( $$(nproc 2>/dev/null || echo 2) + 1 )))
SCRIPTS := $(if $(filter Windows_NT,$(OS)),Scripts,bin)
BIN := .venv/$(SCRIPTS)
UV := .venv/uv/$(SCRIPTS)/uv
# uv takes one minute where pip takes six. Where it fails, with an index that only pip's settings name, pip does it.
install = $(UV) pip install --quiet --python $(1) $(2) || $(1)/$(SCRIPTS)/python -m pip install $(2)
# Tests start hundreds of processes. Without kept bytecode, each compiles all packages anew: 10 s of imports instead of 4.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo docs test test-full test-newest test-oldest lint format build audit clean

demo: .venv/.installed
	$(BIN)/python eval.py --config configs/cfg_demo.py --show-dir work_dirs/cfg_demo/overlays

# Strict: a broken link, a page outside the navigation or a docstring that does not parse fails.
docs: .venv/docs/.installed
	.venv/docs/bin/mkdocs build --strict

test: .venv/.dev .venv/datumaro/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) $(TESTS)

# The recorded outputs at ViT-B/16's real size, deaths of machines, an installed wheel and more: minutes, and about 3 GiB.
test-full: .venv/.dev
	$(BIN)/python -m pytest -m "vit_b_16 or slow"

# In fresh environments, with the packages that pyproject.toml allows: what `pip install` gives users today, and the
# least that it claims to work with. `.venv/NAME.txt` records the versions.
test-newest test-oldest: test-%: .venv/datumaro/.installed
	$(UV) venv --quiet --clear --seed --python $(PYTHON) .venv/$*
	$(UV) pip compile --quiet --no-header --no-annotate --python $(PYTHON) pyproject.toml \
	  $(addprefix --extra ,$(EXTRAS)) --resolution $(if $(filter oldest,$*),lowest-direct,highest) -o .venv/$*.txt
	$(UV) pip install --quiet --python .venv/$* -r .venv/$*.txt
	$(UV) pip install --quiet --python .venv/$* --no-deps --editable .
	OMP_NUM_THREADS=1 DATUMARO_PYTHON=.venv/datumaro/bin/python .venv/$*/bin/python -m pytest -n $(WORKERS) $(TESTS)

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

build: .venv/.dev
	$(BIN)/python -m build --no-isolation

# Known vulnerabilities of the pinned packages; asks the index's advisory service, so it needs a network.
audit: requirements.txt
	$(PYTHON) -m venv .venv/audit
	.venv/audit/bin/python -m pip install --quiet pip-audit
	.venv/audit/bin/pip-audit --requirement requirements.txt --no-deps --disable-pip

.venv/uv/.installed:
	$(PYTHON) -m venv .venv/uv
	.venv/uv/$(SCRIPTS)/python -m pip install --quiet uv
	touch $@

.venv/.installed: requirements.txt pyproject.toml | .venv/uv/.installed
	$(PYTHON) -m venv .venv
	$(call install,.venv,-r requirements.txt)
	$(call install,.venv,--no-deps -e .)
	touch $@

.venv/.dev: .venv/.installed requirements-dev.txt
	$(call install,.venv,-r requirements-dev.txt)
	touch $@

# Reads archives back in tests. It needs other versions of pandas and pyarrow, and brings an OpenCV that would replace ours.
.venv/datumaro/.installed: | .venv/uv/.installed
	$(PYTHON) -m venv .venv/datumaro
	$(call install,.venv/datumaro,datumaro==1.13.12)
	touch $@

.venv/docs/.installed: requirements-docs.txt | .venv/uv/.installed
	$(PYTHON) -m venv .venv/docs
	$(call install,.venv/docs,-r requirements-docs.txt)
	touch $@

clean:
	rm -rf .venv work_dirs data/demo dist
