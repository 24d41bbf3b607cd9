#!/bin/sh
# `make image-test`: builds the image on a base of Debian's packages, and runs the tests beside this file. What it needs
# besides Debian's packages, and what it makes, is kept in .tools/image, so that a second run is short. IMAGE_OPTIONS
# are further options of the build. TORCH_INDEX is where torch is taken from; left unset, it is as the Dockerfile
# says, or, where pip has a folder of wheels, that folder.
set -eu
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
tools=$PWD/.tools/image

missing=
for package in debootstrap buildah podman runc; do
    command -v "$package" >/dev/null || missing="$missing $package"
done
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
if [ -n "$missing" ]; then
    echo "make image-test needs packages of Debian that are not there: apt-get install$missing" >&2
    exit 1
fi
if [ "$(id -u)" != 0 ]; then
    echo "make image-test must be run as root: it makes a Debian with debootstrap, and mounts images" >&2
    exit 1
fi
mkdir -p "$tools"

# Images and containers of its own, which go with the folder.
export CONTAINERS_STORAGE_CONF="$tools/storage.conf"
cat >"$CONTAINERS_STORAGE_CONF" <<END
[storage]
driver = "overlay"
graphroot = "$tools/storage"
runroot = "/run/lightwell-image-test"
END

began=$(date +%s)
step() { printf '%4d s  %s\n' "$(($(date +%s) - began))" "$*"; }

echo "device cpu ($(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)), $(nproc) cores"
echo "load in the minute before: $(cut -d ' ' -f 1 /proc/loadavg)"
buildah --version
podman --version
runc --version | head -n 1

# environment FOLDER ARGUMENTS: a virtual environment with what the arguments tell pip to install.
environment() {
    [ -x "$1/bin/pip" ] || "$python" -m venv "$1"
    folder=$1
    shift
    "$folder/bin/pip" install --quiet --quiet --no-compile --disable-pip-version-check "$@"
}

step "the checks' environment, beside what follows"
environment "$tools/checks" --requirement tests/image/requirements.txt >"$tools/checks.log" 2>&1 &
checks=$!

base=localhost/lightwell-base:bookworm
if ! buildah inspect --type image "$base" >/dev/null 2>&1; then
    step "the base, by debootstrap"
    tests/image/base.sh "$base" "$tools/base"
fi

step "the image"
case "${TORCH_INDEX:-} $("$python" -m pip config list)" in
    " "*find-links*) TORCH_INDEX=https://pypi.org/simple ;;
esac
export BUILDER=buildah IMAGE=localhost/lightwell:test
# shellcheck disable=SC2046,SC2086 # several words
deploy/image.sh --isolation chroot --build-arg BASE="$base" --build-arg TORCH_INDEX="${TORCH_INDEX:-}" \
    $("$python" tests/image/pip_options.py "$tools/pip.conf") ${IMAGE_OPTIONS:-} >"$tools/build.log" 2>&1 \
    || { tail -n 40 "$tools/build.log" >&2; exit 1; }

step "the host's environment, of the same versions"
"$python" -c 'from tests.image.containers import versions; print(*versions(), sep="\n")' >"$tools/constraints.txt"
environment "$tools/host" --constraint "$tools/constraints.txt" \
    --extra-index-url "${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}" '.[server]' pytest

wait "$checks" || { cat "$tools/checks.log" >&2; exit 1; }
step "the tests"
LIGHTWELL_IMAGE_TOOLS="$tools" "$tools/host/bin/python" -m pytest tests/image -p no:cacheprovider
step "done"
