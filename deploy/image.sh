#!/bin/sh
# Builds the image with docker where its daemon answers, else with buildah; BUILDER chooses. Options are those of their
# command `build`, such as --build-arg TORCH=cuda. The image is lightwell:VERSION, unless IMAGE names it.
set -eu
cd "$(dirname "$0")/.."
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
revision=$(git describe --always --abbrev=40 --exclude '*' --dirty)

if [ -z "${BUILDER:-}" ]; then
    if docker info >/dev/null 2>&1; then
        BUILDER=docker
    elif command -v buildah >/dev/null; then
        BUILDER=buildah
    else
        echo "no docker daemon answers, and buildah is not there: apt-get install buildah" >&2
        exit 1
    fi
fi
# Health checks are no part of OCI's own format, which is buildah's default.
[ "$BUILDER" = docker ] || set -- --format docker --layers "$@"
"$BUILDER" build --tag "${IMAGE:-lightwell:$version}" \
    --build-arg VERSION="$version" --build-arg REVISION="$revision" "$@" .
