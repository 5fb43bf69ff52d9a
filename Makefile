# The two commands are `make book` and `make test`; each is complete by itself.
# Needed: make and Python 3.11 or newer (say which with PYTHON=python3.12).

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
export PYTHONUNBUFFERED := 1

.PHONY: help book test serve tags notebooks bench clean

help:
	@echo "make book       execute every chapter and build the site into _build/html/"
	@echo "make test       run all tests, those of the pages in headless Chromium too"
	@echo "make serve      open the built site in a browser"
	@echo "make tags       give new statements their permanent tags (book/tags.csv)"
	@echo "make notebooks  write one notebook a chapter to _build/notebooks/"
	@echo "make bench      compare with other libraries, for hours: benchmarks/RESULTS.md"
	@echo "make clean      remove what was built (not .venv)"

book: $(STAMP)
	@$(BIN)/python tools/build_book.py

test: $(STAMP)
	@$(BIN)/python tools/run_tests.py

serve: $(STAMP)
	@$(BIN)/python tools/serve.py

tags: $(STAMP)
	@$(BIN)/python tools/make_tags.py

notebooks: $(STAMP)
	@$(BIN)/python tools/build_notebooks.py

# The peers go into a folder of their own: neither the book nor the tests may come to need them.
PEERS := _build/peers

bench: book
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --upgrade \
	  --target $(PEERS) -r benchmarks/requirements.txt
	@export PYTHONPATH=$(PEERS) OMP_NUM_THREADS=1; for part in plane cost precision sampler_cost \
	  training sampling_quality quality page report; do \
	  $(BIN)/python benchmarks/$$part.py || exit 1; done

clean:
	rm -rf _build build dist src/*.egg-info .pytest_cache .ruff_cache .hypothesis

# Installed once, and again only when a pin or the package's own metadata changes.
$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed and $(PYTHON) is not it." \
	       "Name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { \
	  rm -rf .venv; echo "$(PYTHON) cannot make a virtual environment" \
	  "(on Debian and Ubuntu: apt-get install python3-venv)."; exit 1; }
	@echo "Installing the pinned requirements into .venv (once; PyTorch alone takes minutes) …"
	@start=$$(date +%s); \
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt && \
	$(BIN)/python -m pip install --disable-pip-version-check --quiet \
	  --no-build-isolation --no-deps --editable . && \
	echo "Installed in $$(( $$(date +%s) - start )) s." && touch $@
