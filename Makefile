# make demo    sets up, serves the bundled model, asks all methods, writes gallery/index.html
# make test    sets up and runs all tests
# make observe sets up, and tries the chart's alerts and dashboard at a loaded server, with Prometheus and Alertmanager
# make image, make image-test    build the container image; build it on Debian's packages, and test it
# make chart-test, make chart-run    check the Helm chart; run what it renders
# make check   sets up and runs what catches most slips in under a minute: style, types, arrows, contract, laws
PYTHON ?= python3
VENV := .venv
SDK := .venv-sdk
SOURCES := pyproject.toml hatch_build.py $(wildcard protos/lightwell/v1/*.proto)
# Breaking changes of the protos are judged against the last release, before the first one against this commit.
BASE := $(shell git describe --tags --abbrev=0 2>/dev/null || echo 6ffef8d85df11c3de8edd98d0e02cb4692e58f2a)
CHART := .venv-chart
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
BUF := npx --yes @bufbuild/buf@1.75.0

.PHONY: demo test check test-real lint serve observe train-shapes image image-test chart-test chart-run clean

demo: $(VENV)/.server
	$(VENV)/bin/lightwell demo --out gallery

test: $(VENV)/.test $(SDK)/.ready
	LIGHTWELL_SDK_PYTHON=$(CURDIR)/$(SDK)/bin/python $(VENV)/bin/python -m pytest -n 2 --dist loadfile --durations 20

check: $(VENV)/.test $(SDK)/.ready
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy
	LIGHTWELL_SDK_PYTHON=$(CURDIR)/$(SDK)/bin/python $(VENV)/bin/python -m pytest -n 2 -k "not test_laws or saliency or occlusion or pgd" \
		tests/test_house.py tests/test_contract.py tests/engine/test_scheduler.py tests/gateway/test_admission.py tests/test_laws.py

test-real: $(VENV)/.test
	@test -n "$(REPOSITORY)" || (echo "usage: make test-real REPOSITORY=path/to/repository"; exit 2)
	LIGHTWELL_REAL=$(abspath $(REPOSITORY)) $(VENV)/bin/python -m pytest tests/real

lint: $(VENV)/.test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	@if command -v npx >/dev/null; then $(BUF) lint && $(BUF) breaking --against '.git#ref=$(BASE)'; \
	else echo "npm is not there: the protos are not linted"; fi

serve: $(VENV)/.server
	$(VENV)/bin/lightwell serve --repository $(or $(REPOSITORY),server/lightwell_server/bundled)

observe: $(VENV)/.test
	$(VENV)/bin/python -m bench.observe

# Renders the chart with Helm 3 and 4, and checks what is rendered; no cluster is needed.
chart-test: $(VENV)/.server $(CHART)/.ready
	LIGHTWELL=$(CURDIR)/$(VENV)/bin/lightwell LIGHTWELL_PYTHON=$(CURDIR)/$(VENV)/bin/python \
		$(CHART)/bin/python -m pytest -p no:cloudcoil --confcutdir tests/chart tests/chart

# Starts the pod that the chart renders with podman, as root, and asks it: IMAGE is what `make image` has built.
chart-run: $(VENV)/.server $(CHART)/.ready
	$(CHART)/bin/python tests/chart/run_pod.py --lightwell $(VENV)/bin/lightwell --image $(or $(IMAGE),localhost/lightwell:$(VERSION))

train-shapes: $(VENV)/.test
	$(VENV)/bin/python -m shapes.train

# The container image, by docker or buildah. IMAGE_OPTIONS are options of their build, such as --build-arg TORCH=cuda.
image:
	deploy/image.sh $(IMAGE_OPTIONS)

# Builds it on Debian's packages and runs it read-only and without privileges; wants root, and names what it lacks.
image-test:
	PYTHON=$(PYTHON) IMAGE_OPTIONS='$(IMAGE_OPTIONS)' tests/image/run.sh

clean:
	rm -rf $(VENV) $(SDK) $(CHART) .tools gallery observed

$(VENV)/.venv:
	@$(PYTHON) -c 'import ensurepip, venv' || (echo "install python3-venv first: apt-get install python3-venv"; exit 1)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --upgrade pip
	touch $@

$(VENV)/.server: $(VENV)/.venv $(SOURCES)
	$(VENV)/bin/pip install --quiet -e '.[server]'
	touch $@

# torchattacks pins old libraries that it does not need.
$(VENV)/.test: $(VENV)/.venv $(SOURCES)
	$(VENV)/bin/pip install --quiet -e '.[server,test]'
	$(VENV)/bin/pip install --quiet --no-deps torchattacks==3.5.1
	touch $(VENV)/.server $@

# The light SDK alone, beside the older of the two supported versions of protobuf, and what the build hook needs: the tests
# ask it to import without torch, and add methods and calls to a copy of the project.
$(SDK)/.ready: $(SOURCES) $(wildcard client/lightwell/*.py)
	$(PYTHON) -m venv --clear $(SDK)
	$(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
	| $(SDK)/bin/pip install --quiet . 'protobuf<7' -r /dev/stdin
	touch $@

# checkov wants libraries of its own.
$(CHART)/.ready: tests/chart/requirements.txt tests/chart/fetch_helm.py
	$(PYTHON) -m venv --clear $(CHART)
	$(CHART)/bin/pip install --quiet -r $<
	$(CHART)/bin/python tests/chart/fetch_helm.py $(CHART)/bin
	$(PYTHON) -m venv $(CHART)/checkov
	$(CHART)/checkov/bin/pip install --quiet checkov==3.3.30
	touch $@
