"""The rooms and their arrows: which file may import which, as the design draws them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SERVER, CLIENT = ROOT / "server" / "lightwell_server", ROOT / "client" / "lightwell"

# Room -> the rooms and packages of ours that it may import. `lightwell` is the SDK, `lightwell.v1` its generated
# messages.
ARROWS = {
    "__init__": set(),
    "errors": set(),
    "config": set(),
    "metrics": set(),
    "threads": set(),
    "call": set(),
    "logs": {"call"},
    "tracing": {"call", "__init__"},
    "watched": {"metrics"},
    "tls": {"watched"},
    "access": {"errors", "watched"},
    "ask": {"errors"},
    "target": {"ask", "errors"},
    "methods": {"ask", "target", "errors", "methods"},
    "fields": {"lightwell.v1", "ask", "errors"},
    "pictures": {"errors"},
    "wire": {"lightwell.v1", "errors", "pictures"},
    "catalog": {"lightwell.v1", "ask", "target", "errors", "methods"},
    "engine": {"ask", "errors", "metrics", "threads", "engine"},
    "models": {"ask", "errors", "metrics", "models", "pictures"},
    "aim": {"lightwell.v1", "ask", "target", "errors", "models"},
    "question": {"lightwell.v1", "aim", "ask", "target", "errors", "fields", "wire", "catalog", "models", "engine"},
    "sight": {"lightwell", "lightwell.v1", "catalog", "errors", "fields", "pictures", "wire"},
    "limits": {"ask", "errors", "models"},
    "estimate": {"ask", "errors", "limits", "models", "question"},
    "inbox": {"ask", "engine"},
    "reply": {"lightwell.v1", "__init__", "ask", "target", "wire", "models", "engine", "estimate", "question"},
    "describe": {"lightwell.v1", "ask", "catalog", "models", "wire"},
    "case": {"call"},
    "core": {
        "lightwell.v1",
        "ask",
        "call",
        "case",
        "catalog",
        "config",
        "describe",
        "engine",
        "errors",
        "estimate",
        "inbox",
        "limits",
        "metrics",
        "models",
        "question",
        "reply",
        "threads",
    },
    "pool": {
        "lightwell",
        "lightwell.v1",
        "call",
        "case",
        "catalog",
        "config",
        "core",
        "engine",
        "errors",
        "logs",
        "metrics",
        "pool",
        "statuses",
    },
    "library": {"lightwell.v1", "errors", "watched"},
    "curator": {"lightwell.v1", "core", "errors", "library", "models"},
    "admission": {"lightwell.v1", "call", "case", "catalog", "errors", "library", "metrics", "pictures"},
    "service": {
        "lightwell.v1",
        "admission",
        "call",
        "case",
        "catalog",
        "core",
        "errors",
        "library",
        "metrics",
        "sight",
        "threads",
    },
    "admin": {"lightwell.v1", "__init__", "admission", "case", "core", "curator", "errors", "library"},
    "exposition": {"metrics"},
    "serving": {
        "lightwell.v1",
        "access",
        "admin",
        "admission",
        "catalog",
        "config",
        "core",
        "curator",
        "exposition",
        "interceptors",
        "library",
        "limits",
        "logs",
        "pool",
        "service",
        "tls",
        "tracing",
    },
    "statuses": {"errors"},
    "interceptors": {"access", "call", "errors", "metrics", "statuses"},
    "local": {
        "lightwell",
        "lightwell.v1",
        "ask",
        "bring",
        "catalog",
        "describe",
        "engine",
        "errors",
        "estimate",
        "limits",
        "models",
        "question",
        "reply",
        "sight",
    },
    "bring": {"ask", "bring", "catalog", "errors", "models", "pictures"},
}


def rooms():
    return sorted(path for path in SERVER.rglob("*.py") if path.name != "__main__.py")


def room(path: Path) -> str:
    inside = path.relative_to(SERVER)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


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


def test_the_scheduler_knows_no_tensor_thread_or_clock():
    names = {name.split(".")[0] for name in imported(SERVER / "engine" / "scheduler.py")}
    assert not names & {"torch", "numpy", "threading", "asyncio", "time", "lightwell_server"}


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
