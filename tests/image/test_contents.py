"""What is in the image, and what is not; what it says of itself, and how large it is."""

import json
import os
import re
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.image.containers import IMAGE, inspected, podman, python, versions

ROOT = Path(__file__).parents[2]
TOOLS = Path(os.environ["LIGHTWELL_IMAGE_TOOLS"])
CHECKS = TOOLS / "checks" / "bin"
COMPILERS = re.compile(r"(.*-)?(gcc|g\+\+|cc|c\+\+|cpp|cc1|clang|tcc|rustc|gfortran|ld|as|make|nvcc)(-[\d.]+)?")
UNCHECKED = "1"
"""The flags of bytecode that is valid whatever became of its source (PEP 552)."""
COMPRESSED, UNPACKED = 200, 450
"""Megabytes that the image may have without torch."""


def test_it_says_what_it_is_and_how_it_runs():
    config = inspected(IMAGE)["Config"]
    revision = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
    assert labels["version"] == python("from importlib.metadata import version; print(version('lightwell'))")
    assert labels["revision"].removesuffix("-dirty") == revision.stdout.strip()
    assert (config["User"], config["StopSignal"]) == ("10001:10001", "SIGTERM")
    assert set(config["Volumes"]) == {"/models"}


def test_no_compiler_is_in_it(root):
    names = [path for path in root.rglob("*") if path.parent.name in ("bin", "sbin", "libexec")]
    assert {"sh", "python3", "lightwell"} <= {path.name for path in names}
    assert not [path for path in names if COMPILERS.fullmatch(path.name)]


def test_no_pip_is_in_it(root):
    assert not [path for path in root.rglob("*") if re.fullmatch(r"pip3?(-[\d.]+.*)?|ensurepip", path.name)]
    assert python("import importlib.util as u; print(u.find_spec('pip'), u.find_spec('ensurepip'))") == "None None"


def test_torch_is_the_build_for_the_cpu():
    assert python("import torch; print(torch.version.cuda)") == "None"


def test_nothing_is_compiled_at_the_start():
    """Every module that a server imports has bytecode; that of packages is taken without a look at the source."""
    code = """
import sys, lightwell_server.serving, lightwell_server.pool.worker, lightwell.cli
specs = [spec for module in list(sys.modules.values()) if (spec := getattr(module, "__spec__", None))]
for spec in specs:
    if spec.origin and spec.origin.endswith(".py"):
        with open(spec.cached, "rb") as file:
            print(spec.origin, int.from_bytes(file.read(8)[4:], "little"))
"""
    flags = dict(line.split() for line in python(code).splitlines())
    assert len(flags) > 1000
    assert {flag for origin, flag in flags.items() if origin.startswith("/opt/")} == {UNCHECKED}


@pytest.fixture(scope="module")
def layout():
    """The image as it is sent, a folder in the format of OCI."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["buildah", "push", "--quiet", IMAGE, f"oci:{folder}:latest"], check=True)
        yield Path(folder)


def layers(layout: Path) -> list[tuple[str, int, int]]:
    """What made each layer, and its bytes: as it is sent, compressed, and as it is unpacked."""

    def blob(name: str) -> dict:
        return json.loads((layout / "blobs" / name.replace(":", "/")).read_text())

    (listed,) = json.loads((layout / "index.json").read_text())["manifests"]
    sent = [layer["size"] for layer in blob(listed["digest"])["layers"]]
    steps = json.loads(podman("history", "--format", "json", IMAGE).stdout)
    made = [(step["CreatedBy"], step["size"]) for step in reversed(steps) if step["size"]]
    return [(name, size, unpacked) for (name, unpacked), size in zip(made, sent, strict=True)]


def test_it_is_small_without_torch(layout, tell):
    sizes = [(name, sent / 1e6, unpacked / 1e6) for name, sent, unpacked in layers(layout)]
    ((_, torch_sent, torch_unpacked),) = [size for size in sizes if "TORCH=" in size[0]]
    sent, unpacked = (sum(size[column] for size in sizes) for column in (1, 2))
    tell("MB of the image's layers, compressed and unpacked:")
    for (_, *both), name in zip(sizes, ("base", "python", "torch", "lightwell"), strict=True):
        tell(f"{name:13} {both[0]:7.1f} {both[1]:7.1f}")
    tell(f"{'without torch':13} {sent - torch_sent:7.1f} {unpacked - torch_unpacked:7.1f}")
    tell(f"{'all':13} {sent:7.1f} {unpacked:7.1f}")
    assert sent - torch_sent <= COMPRESSED
    assert unpacked - torch_unpacked <= UNPACKED


def test_the_list_of_its_parts_has_every_package(root, tell):
    found = TOOLS / "sbom.cdx.json"
    command = [CHECKS / "syft", "scan", f"dir:{root}", "--quiet", "--source-name", "lightwell"]
    subprocess.run([*command, "--output", f"cyclonedx-json={found}"], check=True)
    listed = json.loads(found.read_text())
    parts = {normalized(f"{part['name']}=={part.get('version')}") for part in listed["components"]}
    tell(f"{found.relative_to(ROOT)}: {listed['bomFormat']} {listed['specVersion']}, {len(parts)} parts")
    assert {part.partition("==")[0] for part in parts} >= {"torch", "lightwell"}
    assert set(map(normalized, versions())) <= parts


def normalized(package: str) -> str:
    """A package's name and version in one spelling: names may have _ for - and capitals."""
    name, _, version = package.partition("==")
    return f"{re.sub('[-_.]+', '-', name).lower()}=={version}"


@pytest.mark.parametrize(
    "command", [("hadolint", "Dockerfile"), ("checkov", "--quiet", "--compact", "--skip-download", "-f", "Dockerfile")]
)
def test_checks_of_the_dockerfile_find_nothing(command):
    done = subprocess.run([CHECKS / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
