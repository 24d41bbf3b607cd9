"""The rooms and their arrows: which file may import which, as the design draws them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SERVER, CLIENT = ROOT / "server" / "lightwell_server", ROOT / "client" / "lightwell"

# Room -> the rooms and packages of ours that it may import. `lightwell` is the SDK, `lightwell.v1` its generated
# messages. What a room may import stands above it.
ARROWS: dict[str, set[str]] = {
    "__init__": set(),
    "errors": set(),
    "config": set(),
    "descriptors": set(),
    "resources": set(),
    "spans": set(),
    "threads": set(),
    "contract": {"errors"},
    "methods": {"contract", "errors"},
    "catalog": {"contract", "errors", "lightwell.v1", "methods"},
    "codec": {"contract", "errors", "lightwell", "lightwell.v1"},
    "requests": {"catalog", "errors", "lightwell.v1", "spans"},
    "observability": {"__init__", "requests"},
    "reload": {"observability"},
    "engine": {"contract", "errors", "observability", "spans", "threads"},
    "models": {"codec", "contract", "errors", "resources"},
    "importing": {"catalog", "codec", "contract", "errors", "models"},
    "runtime": {
        "__init__",
        "catalog",
        "codec",
        "config",
        "contract",
        "engine",
        "errors",
        "lightwell",
        "lightwell.v1",
        "models",
        "observability",
        "requests",
        "resources",
        "threads",
    },
    "pool": {
        "catalog",
        "codec",
        "config",
        "descriptors",
        "engine",
        "errors",
        "lightwell",
        "lightwell.v1",
        "observability",
        "requests",
        "resources",
        "runtime",
        "spans",
    },
    "gateway": {
        "__init__",
        "catalog",
        "codec",
        "engine",
        "errors",
        "lightwell",
        "lightwell.v1",
        "models",
        "observability",
        "reload",
        "requests",
        "resources",
        "runtime",
        "threads",
    },
    "transport": {"codec", "errors", "lightwell.v1", "observability", "reload", "requests"},
    "serving": {
        "catalog",
        "config",
        "descriptors",
        "gateway",
        "lightwell.v1",
        "observability",
        "pool",
        "requests",
        "resources",
        "runtime",
        "transport",
    },
    "local": {
        "catalog",
        "contract",
        "engine",
        "errors",
        "gateway",
        "importing",
        "lightwell",
        "lightwell.v1",
        "models",
        "requests",
        "runtime",
    },
}
# Files of a room that need less than the room may: no model is known to what only carries requests.
LEAVES = {
    "observability/metrics.py": set(),
    "requests/budget.py": {"errors"},
    "transport/shedding.py": {"errors"},
    "transport/parts.py": {"errors"},
    "transport/health.py": set(),
    "gateway/images.py": {"catalog", "codec", "errors", "lightwell", "lightwell.v1", "requests"},
    "gateway/admission.py": {"errors", "gateway", "observability", "requests"},
    "runtime/event_queue.py": {"contract", "engine"},
}


def rooms():
    return sorted(path for path in SERVER.rglob("*.py") if path.name != "__main__.py")


def room(path: Path) -> str:
    """A folder is a room, and so is a file at the root."""
    return path.relative_to(SERVER).with_suffix("").parts[0]


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
    file = path.relative_to(SERVER).as_posix()
    allowed = LEAVES.get(file, {*ARROWS[room(path)], room(path)})
    wrong = {name for name in imported(path) if ours(name) not in {None, *allowed}}
    assert not wrong


def test_no_arrow_runs_back_up():
    above = {"lightwell", "lightwell.v1"}
    for name, needed in ARROWS.items():
        assert needed <= above, name
        above.add(name)


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
