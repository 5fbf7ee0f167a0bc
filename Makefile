# Two commands for a fresh machine with Python ≥ 3.10 and pip: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
INTEGRATIONS ?= build/integrations
EXTRA ?= test
BIN := $(VENV)/bin
UV := build/uv/bin/uv
STORE := build/demo.qdrant
COMPOSE := docker compose --project-name m3-vdb-test
CORPUS := tests/fixtures/multilingual.jsonl
LOCK := requirements.lock
DOCUMENTED := m3_vdb $(addprefix m3_vdb.,errors types weights filters scoring encoding.embedding_function encoding.bundle \
  encoding.long_documents encoding.coalesce stores stores.base stores.options stores.transfer ingest evaluation explain \
  $(addprefix integrations.,encoder langchain llama_index haystack mteb mcp))
NO_DEPRECATIONS := -W error::DeprecationWarning -W error::PendingDeprecationWarning -W error::FutureWarning \
  -o asyncio_default_fixture_loop_scope=function
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Compiled files are kept: without them, importing torch and transformers takes twice as long in every process.
unexport PYTHONDONTWRITEBYTECODE
# Constraints only fix versions, so pip still takes torch's CPU build if it finds one.
export PIP_CONSTRAINT := $(LOCK)
export PIP_BUILD_CONSTRAINT := $(LOCK)

.PHONY: demo test test-integrations soak test-newest test-oldest test-servers check docs lock collections clean

demo: $(VENV)/.demo
	rm -rf $(STORE)
	$(BIN)/m3-vdb ingest $(CORPUS) --store $(STORE)
	$(BIN)/python examples/demo.py $(STORE)

# The default run; the markers in pyproject.toml select the others. The tests of a file run in one process, each process on
# one core. A process that dies ends the run: with loadfile, pytest-xdist 3.8 would wait forever for its replacement
# (issue 1378).
test: $(VENV)/.$(EXTRA)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder \
	  --max-worker-restart 0 $(PYTEST_OPTIONS)

# Tests that need Ray, OpenAI's client, sentence-transformers or a framework, in a separate environment.
test-integrations:
	$(MAKE) test VENV=$(INTEGRATIONS) EXTRA=integrations PYTEST_OPTIONS='-m integration $(PYTEST_OPTIONS)'

# Many kills, training in several processes, long runs, many clients of the server.
soak:
	$(MAKE) test VENV=$(INTEGRATIONS) EXTRA=integrations PYTEST_OPTIONS='-m soak $(PYTEST_OPTIONS)'

# Tests and integrations with the newest version of everything but torch; deprecation warnings are errors.
test-newest:
	rm -rf build/newest
	$(MAKE) test VENV=build/newest EXTRA=integrations LOCK=/dev/null PYTEST_OPTIONS='-m "not soak" $(NO_DEPRECATIONS)'

# The suite with the lower bounds of pyproject.toml.
test-oldest: $(UV)
	$(UV) pip compile --quiet --no-cache --python $(PYTHON) --resolution lowest-direct --only-binary :all: --extra integrations \
	  --group make --output-file build/oldest.lock pyproject.toml
	$(MAKE) test VENV=build/oldest EXTRA=integrations LOCK=build/oldest.lock PYTEST_OPTIONS='-m "not soak"'

# The tests of stores, then exactness, on the servers that M3VDB_TEST_QDRANT_URL and M3VDB_TEST_MILVUS_URI name; or, if neither
# is set, on those of compose.yaml: needs Docker, takes QDRANT_VERSION and MILVUS_VERSION, removes the data afterwards.
EXACTNESS = $(BIN)/python -m benchmarks.exactness --documents 1000 --queries 20 --slow-queries 20
ifeq ($(M3VDB_TEST_QDRANT_URL)$(M3VDB_TEST_MILVUS_URI),)
test-servers: $(VENV)/.test
	$(COMPOSE) up --detach --wait qdrant milvus && \
	  export M3VDB_TEST_QDRANT_URL=qdrant://localhost:6333 M3VDB_TEST_MILVUS_URI=milvus://localhost:19530 && \
	  $(BIN)/python -m pytest tests/stores && $(EXACTNESS) --store 'qdrant server' --store 'milvus server' && \
	  export M3VDB_TEST_QDRANT_URL=qdrant+grpc://localhost:6334 && \
	  $(BIN)/python -m pytest tests/stores && $(EXACTNESS) --store 'qdrant server'; \
	  status=$$?; $(COMPOSE) down --volumes; exit $$status
else
test-servers: $(VENV)/.test
	$(BIN)/python -m pytest tests/stores
	$(EXACTNESS) $(if $(M3VDB_TEST_QDRANT_URL),--store 'qdrant server') $(if $(M3VDB_TEST_MILVUS_URI),--store 'milvus server')
endif

check: $(VENV)/.check
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# The API reference, from the docstrings, in build/docs.
docs: $(VENV)/.check
	$(BIN)/pdoc --docformat google --output-directory build/docs $(DOCUMENTED)

# The newest versions that pyproject.toml allows, for every Python and platform.
lock: $(UV)
	$(UV) pip compile --quiet --no-cache --universal --upgrade --python-version 3.10 --all-extras --group make \
	  --no-annotate --custom-compile-command 'make lock' --output-file $(LOCK) pyproject.toml

# Three multilingual retrieval tasks from Debian packages; needs apt-get, dpkg and npm, no root.
collections: $(VENV)/.test
	$(BIN)/python -m benchmarks.debian

clean:
	rm -rf build dist $(VENV)

# Some systems ship Python without ensurepip; virtualenv has its own pip.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV) || { \
	  $(PYTHON) -m pip install --quiet --target build/virtualenv virtualenv && \
	  PYTHONPATH=build/virtualenv $(PYTHON) -m virtualenv $(VENV); }

# BM25 alone, which needs only NumPy, not the whole extra eval; the search page needs the extra serve.
$(VENV)/.demo: $(BIN)/python pyproject.toml $(LOCK)
	$(BIN)/python -m pip install --quiet --editable '.[qdrant,serve]' bm25s
	touch $@

$(VENV)/.test: $(BIN)/python pyproject.toml $(LOCK)
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

$(VENV)/.integrations: $(BIN)/python pyproject.toml $(LOCK)
	$(BIN)/python -m pip install --quiet --editable '.[integrations]'
	touch $@ $(VENV)/.test $(VENV)/.demo

$(VENV)/.check: $(BIN)/python pyproject.toml $(LOCK)
	$(BIN)/python -m pip install --quiet --editable '.[check]'
	touch $@ $(VENV)/.integrations $(VENV)/.test

$(UV): $(BIN)/python
	$(BIN)/python -m pip install --quiet --target build/uv uv
