# The server with its command line. docs/operating.md tells how to build and run it.

# Debian, or what is made of it, with a Python of 3.11 or later.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS python
# checkov:skip=CKV_DOCKER_7: the tag is that of BASE, whose default is a release.
# Versions of packages are left to the release of the base, which replaces those that have faults. Some libraries ask
# who they run as: the number has a name.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 lightwell \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin lightwell \
    && mkdir /models

FROM python AS tools
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /tools
# The settings of pip are those of the secret pip.conf, if there is one.
ENV PIP_CONFIG_FILE=/run/secrets/pip.conf

FROM tools AS wheel
WORKDIR /source
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY protos protos
COPY client client
COPY server server
RUN --mount=type=secret,id=pip.conf \
    /tools/bin/pip wheel --no-cache-dir --no-deps --wheel-dir /wheel .

# What is shipped, without Lightwell: torch is a layer of its own, the largest, and changes seldom. pip is there while it
# is needed, at /srv.
FROM python AS runtime
# cpu or cuda: which build of torch is taken.
ARG TORCH=cpu
ARG TORCH_VERSION=2.13.0
# An index of packages that has it, if not PyTorch's own (cpu) or PyPI (cuda).
ARG TORCH_INDEX
# What a wheel of torch holds for compilers and for its own tests is left out. Bytecode is made here, because a root that
# is read-only takes none later; what is named after a later Python is not compiled.
RUN --mount=type=secret,id=pip.conf --mount=type=bind,from=tools,source=/tools,target=/srv \
    case "${TORCH}" in \
        cpu) index=https://download.pytorch.org/whl/cpu build=+cpu ;; \
        cuda) index=https://pypi.org/simple build= ;; \
        *) echo "TORCH is '${TORCH}'; give cpu or cuda" >&2; exit 2 ;; \
    esac \
    && PIP_CONFIG_FILE=/run/secrets/pip.conf /srv/bin/python -m pip install --no-cache-dir --no-compile \
        --target /opt/torch --index-url "${TORCH_INDEX:-${index}}" "torch==${TORCH_VERSION}${build}" \
    && rm -rf /opt/torch/bin /opt/torch/torch/include /opt/torch/torch/test \
    && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash -x '/py3[0-9]+_' /opt/torch

FROM runtime AS environment
# The wheel's extras, by commas.
ARG EXTRAS=server
COPY --from=wheel /wheel /wheel
RUN --mount=type=secret,id=pip.conf --mount=type=bind,from=tools,source=/tools,target=/srv \
    python3 -m venv --without-pip /opt/lightwell \
    && packages=$(/opt/lightwell/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') \
    && echo /opt/torch > "${packages}/torch.pth" \
    && PIP_CONFIG_FILE=/run/secrets/pip.conf /srv/bin/python -m pip --python /opt/lightwell/bin/python \
        install --no-cache-dir --no-compile "$(echo /wheel/*.whl)[${EXTRAS}]" \
    && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/lightwell \
    && ln -s "${packages}/lightwell_server/bundled" /opt/lightwell/bundled

FROM runtime
COPY --from=environment /opt/lightwell /opt/lightwell
ENV PATH=/opt/lightwell/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    LIGHTWELL_REPOSITORY=/models
USER 10001:10001
VOLUME /models
EXPOSE 50051 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=2m CMD ["lightwell", "status", "--health"]
ENTRYPOINT ["lightwell"]
CMD ["serve"]
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="lightwell" \
    org.opencontainers.image.description="A gRPC service that explains image models" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
