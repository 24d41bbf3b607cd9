"""The rooms and their arrows: which file may import which, as the design draws them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SERVER, CLIENT = ROOT / "server" / "lightwell_server", ROOT / "client" / "lightwell"

FINE = ("boundary", "front", "device")
# Room -> the rooms and packages of ours that it may import. `lightwell` is the SDK, `lightwell.v1` its generated
# messages.
ARROWS = {
    "__init__": set(),
    "errors": set(),
    "descriptors": set(),
    "cgroup": set(),
    "config": set(),
    "metrics": set(),
    "threads": set(),
    "watched": {"metrics"},
    "budget": {"errors"},
    "call": {"budget"},
    "case": {"call"},
    "ask": {"errors"},
    "target": {"ask", "errors"},
    "fields": {"ask", "errors", "lightwell.v1"},
    "pictures": {"errors", "lightwell"},
    "wire": {"errors", "lightwell.v1", "pictures"},
    "catalog": {"ask", "errors", "lightwell.v1", "methods", "target"},
    "methods": {"ask", "errors", "methods", "target"},
    "engine": {"ask", "engine", "errors", "metrics", "threads"},
    "models": {"ask", "cgroup", "errors", "models", "pictures"},
    "bring": {"ask", "bring", "catalog", "errors", "models", "pictures"},
    "core": {"case", "catalog", "lightwell.v1"},
    "device.__init__": set(),
    "device.aim": {"ask", "errors", "lightwell.v1", "models", "target", "wire"},
    "device.describe": {"ask", "catalog", "lightwell.v1", "models", "wire"},
    "device.device": {
        "ask",
        "call",
        "case",
        "catalog",
        "cgroup",
        "config",
        "core",
        "device.describe",
        "device.estimate",
        "device.filters",
        "device.inbox",
        "device.limits",
        "device.loading",
        "device.question",
        "device.reply",
        "engine",
        "errors",
        "lightwell.v1",
        "metrics",
        "models",
        "threads",
    },
    "device.estimate": {"ask", "device.limits", "device.question", "errors", "models"},
    "device.filters": {"errors", "lightwell.v1", "models", "wire"},
    "device.inbox": {"ask", "engine"},
    "device.limits": {"ask", "cgroup", "errors", "models"},
    "device.loading": {"errors"},
    "device.question": {
        "ask",
        "catalog",
        "device.aim",
        "engine",
        "errors",
        "fields",
        "lightwell.v1",
        "models",
        "target",
        "wire",
    },
    "device.reply": {
        "__init__",
        "ask",
        "device.estimate",
        "device.question",
        "engine",
        "lightwell.v1",
        "models",
        "target",
        "wire",
    },
    "pool": {
        "boundary.logs",
        "boundary.statuses",
        "call",
        "case",
        "catalog",
        "cgroup",
        "config",
        "core",
        "descriptors",
        "device.device",
        "device.loading",
        "engine",
        "errors",
        "lightwell",
        "lightwell.v1",
        "metrics",
        "pool",
    },
    "front.__init__": set(),
    "front.admin": {
        "__init__",
        "budget",
        "call",
        "case",
        "core",
        "errors",
        "front.admission",
        "front.curator",
        "front.library",
        "lightwell.v1",
    },
    "front.admission": {"call", "case", "errors", "front.prices", "metrics"},
    "front.codec": {"budget", "call", "cgroup", "metrics", "threads"},
    "front.curator": {"core", "errors", "front.library", "lightwell.v1", "models", "threads"},
    "front.library": {"errors", "lightwell.v1", "metrics", "watched"},
    "front.prices": {"case", "catalog", "engine", "front.library", "lightwell.v1", "metrics", "pictures"},
    "front.service": {
        "budget",
        "call",
        "case",
        "catalog",
        "core",
        "errors",
        "front.admission",
        "front.codec",
        "front.library",
        "front.sight",
        "lightwell.v1",
    },
    "front.sight": {"catalog", "errors", "fields", "lightwell", "lightwell.v1", "pictures", "wire"},
    "boundary.__init__": set(),
    "boundary.access": {"errors", "metrics", "watched"},
    "boundary.door": {"errors"},
    "boundary.exposition": {"metrics"},
    "boundary.exchange": {"boundary.parts", "budget", "call", "errors", "metrics"},
    "boundary.health": set(),
    "boundary.interceptors": {
        "boundary.access",
        "boundary.door",
        "boundary.exchange",
        "boundary.parts",
        "boundary.statuses",
        "budget",
        "call",
        "errors",
        "lightwell.v1",
    },
    "boundary.logs": {"call"},
    "boundary.parts": {"errors"},
    "boundary.statuses": {"errors"},
    "boundary.tls": {"metrics", "watched"},
    "boundary.tracing": {"__init__", "call"},
    "serving": {
        "boundary.access",
        "boundary.door",
        "boundary.exchange",
        "boundary.health",
        "boundary.exposition",
        "boundary.interceptors",
        "boundary.logs",
        "boundary.tls",
        "boundary.tracing",
        "budget",
        "catalog",
        "cgroup",
        "config",
        "core",
        "descriptors",
        "device.device",
        "front.admin",
        "front.admission",
        "front.codec",
        "front.curator",
        "front.library",
        "front.service",
        "lightwell.v1",
        "metrics",
        "pool",
    },
    "local": {
        "ask",
        "bring",
        "catalog",
        "device.describe",
        "device.estimate",
        "device.filters",
        "device.limits",
        "device.question",
        "device.reply",
        "engine",
        "errors",
        "front.sight",
        "lightwell",
        "lightwell.v1",
        "models",
    },
}


def rooms():
    return sorted(path for path in SERVER.rglob("*.py") if path.name != "__main__.py")


def room(path: Path) -> str:
    """A file at the root or in one of the FINE folders is a room of its own; other folders are one room each."""
    first, *rest = path.relative_to(SERVER).with_suffix("").parts
    return f"{first}.{rest[0]}" if first in FINE else first


def imported(path: Path, top_level_only: bool = False) -> set[str]:
    """The modules that a file imports, by their dotted names."""
    tree = ast.parse(path.read_text())
    names: set[str] = set()
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def ours(name: str) -> str | None:
    """The room or package that an imported name belongs to, or None if it is not ours."""
    parts = name.split(".")
    if parts[0] == "lightwell":
        return "lightwell.v1" if parts[1:2] == ["v1"] else "lightwell"
    if parts[0] != "lightwell_server":
        return None
    known = (SERVER / parts[1]).is_dir() or (SERVER / f"{parts[1]}.py").exists()
    if parts[1] in FINE:
        return ".".join(parts[1:3])
    return parts[1] if known else "__init__"


@pytest.mark.parametrize("path", rooms(), ids=lambda path: str(path.relative_to(SERVER)))
def test_a_room_imports_only_what_it_may(path):
    allowed = ARROWS[room(path)]
    wrong = {name for name in imported(path) if ours(name) not in {None, *allowed}}
    assert not wrong


@pytest.mark.parametrize("path", sorted((SERVER / "methods").glob("*.py")), ids=lambda path: path.stem)
def test_a_method_knows_no_server(path):
    assert not {name.split(".")[0] for name in imported(path)} & {
        "grpc",
        "google",
        "threading",
        "asyncio",
        "time",
        "lightwell",
    }


@pytest.mark.parametrize("name", ["scheduler", "experience"])
def test_the_scheduler_knows_no_tensor_thread_or_clock(name):
    names = imported(SERVER / "engine" / f"{name}.py")
    assert not {name.split(".")[0] for name in names} & {"torch", "numpy", "threading", "asyncio", "time"}
    assert {name for name in names if ours(name)} <= {"lightwell_server.engine.experience.Experience"}


def test_every_room_is_on_the_plan():
    assert {room(path) for path in rooms()} <= set(ARROWS)


@pytest.mark.parametrize(
    "path", sorted(p for p in CLIENT.rglob("*.py") if "v1" not in p.parts), ids=lambda path: path.stem
)
def test_the_sdk_needs_no_server_and_no_torch(path):
    names = {name.split(".")[0] for name in imported(path, top_level_only=True)}
    assert not names & {"torch", "torchvision", "lightwell_server", "pydantic"}


def test_the_sdk_imports_where_only_the_base_is_installed(sdk_python):
    code = "import lightwell, lightwell.cli; print(lightwell.GradCam(layer='x').layer)"
    done = subprocess.run([sdk_python, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("x", 0), done.stderr
    missing = subprocess.run([sdk_python, "-c", "import torch"], capture_output=True, check=False)
    assert missing.returncode != 0, "the base install has torch"


def test_the_sdk_runs_beside_two_major_versions_of_protobuf(sdk_python):
    code = "import google.protobuf as p, lightwell; print(p.__version__.split('.')[0])"
    older, newer = (
        subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        for python in (sdk_python, sys.executable)
    )
    assert (older, newer) == ("6", "7")
