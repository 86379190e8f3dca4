# The words people type. Both make what they need: a bare clone and Python >= 3.11 with pip is enough.
PYTHON ?= python3
BIN = .venv/bin
export HF_HUB_OFFLINE = 1
# Else every test process, and each of the many that tests start, would compile vidret and the tests again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test quick wheel docs pipeline browser matrix slow scale check lint types bench clean

demo: .venv/demo
	$(BIN)/vidret demo

# Types are checked beside the tests, which wait for processes a fifth of their time.
test: lint browser
	$(MAKE) -j 2 types quick

quick: .venv/dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal

# The sdist and the wheel: built, checked for their files, installed beside the dependencies and run.
wheel: .venv/dev
	$(BIN)/python tools/check_package.py

# The documentation as a site, in build/site; a warning is an error.
docs: .venv/docs
	$(BIN)/mkdocs build --strict

# The page's tests need a browser; without one they are skipped, and the run says so.
browser: .venv/dev
	$(BIN)/python -m tests.browser

# The quick tests with the oldest and the newest dependencies, and types with the newest, on each Python from 3.11 on that
# is here: by hand, before a release. Each environment has a log beside it. UV_TORCH_BACKEND=cpu saves gigabytes, and
# TESTS=tests/video time.
PYTHONS = $(shell $(BIN)/uv python list --only-installed 2>/dev/null | sed -n 's/^cpython-\(3\.1[1-9]\)\..*/\1/p' | sort -uV)
MATRIX = $(foreach python,$(PYTHONS),build/matrix/$(python)-lowest-direct build/matrix/$(python)-highest)
matrix: .venv/dev
	mkdir -p build/matrix
	@for folder in $(MATRIX); do \
	  python=$${folder#build/matrix/}; \
	  export VIRTUAL_ENV=$$folder OMP_NUM_THREADS=1; \
	  { $(BIN)/uv venv --clear --python $${python%%-*} $$folder && \
	    $(BIN)/uv pip install --resolution $${python#*-} --only-binary :all: --requirement pyproject.toml \
	      $(foreach extra,cpu starter train words serve dev,--extra $(extra)) && \
	    $(BIN)/uv pip install --no-deps --editable . && \
	    $$folder/bin/python -m pytest -n auto --dist worksteal $(TESTS) && \
	    { test $${python#*-} != highest || $$folder/bin/mypy --strict --cache-dir $$folder/mypy vidret tests tools examples; }; \
	  } >$$folder.log 2>&1 && \
	  echo "$$folder: passed" || { echo "$$folder: FAILED, see $$folder.log"; failed=1; }; \
	done; test -z "$$failed"

# More of what the quick tests sample: every method on two processes, every configuration, twenty kills; and whether the
# package calls only what Windows has.
slow: .venv/dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto -m 'slow and not learns'
	$(BIN)/mypy --strict --platform win32 --cache-dir .mypy_cache/win32 vidret

# What needs Ray, Milvus and addresses: minutes more, and their extras.
scale: .venv/scale
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile -m scale

check: lint types

lint: .venv/dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check

# mypy gives up on workers that a busy machine starts in more than 3 s; then it checks all in one process.
types: .venv/dev
	$(BIN)/mypy --strict --num-workers auto vidret tests tools examples || $(BIN)/mypy --strict vidret tests tools examples

# Train, index, search, locate and evaluate every method on the synthetic world: about an hour on two cores, and one page.
pipeline: .venv/dev
	OMP_NUM_THREADS=2 $(BIN)/python tools/pipeline.py

bench: .venv/dev
	OMP_NUM_THREADS=1 $(BIN)/python tools/bench_index.py
	OMP_NUM_THREADS=1 $(BIN)/python tools/bench_search.py
	OMP_NUM_THREADS=1 $(BIN)/python tools/bench_models.py --only matrix rerank head corpus
	$(BIN)/python tools/bench_search.py --only server

# A mark a set of extras, renewed when pyproject.toml changes.
.venv/demo: EXTRAS = demo,words
.venv/dev: EXTRAS = train,serve,words,dev
.venv/scale: EXTRAS = train,serve,words,dev,ray,milvus,remote
.venv/docs: EXTRAS = docs
.venv/demo .venv/dev .venv/scale .venv/docs: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo 'Installing vidret[cpu,starter,$(EXTRAS)] into .venv: gigabytes, PyTorch above all. This takes minutes, once.'
	$(BIN)/python -m pip install --disable-pip-version-check --editable '.[cpu,starter,$(EXTRAS)]'
	@echo 'Compiling what was installed, so that the first command starts as fast as later ones.'
	$(BIN)/python -m compileall -qq -j 0 vidret .venv/lib || true
	touch $@

clean:
	rm -rf .venv demo build *.egg-info
