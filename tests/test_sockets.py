"""Methods and a call are added to a copy of the project, each as one message and one file, and work through the server,
in process and from the command line."""

import re

import pytest

from tests.added import messages
from tests.copies import ROOT, Copy

pytestmark = pytest.mark.server

ADDED = ROOT / "tests" / "added"
QUERIES = "server/lightwell_server/runtime/queries"


@pytest.fixture(scope="module")
def copy(tmp_path_factory, sdk_python):
    made = Copy(tmp_path_factory.mktemp("project"), sdk_python)
    for path, after, text in messages.INSERTS:
        made.insert(path, after, text)
    for name in messages.METHODS:
        made.write(f"server/lightwell_server/methods/{name}.py", (ADDED / f"{name}.py").read_text("utf-8"))
    made.write(f"{QUERIES}/count.py", (ADDED / "count.py").read_text("utf-8"))
    made.generate()
    return made


def test_what_was_added_works_in_every_way(copy):
    done = copy.run("-m", "pytest", "-p", "no:cacheprovider", "tests/added/check_added.py")
    assert re.search(r"\b\d\d passed", done.stdout) and "skipped" not in done.stdout


@pytest.mark.parametrize(
    ("spoil", "wrong"),
    [
        (lambda copy: copy.write(f"{QUERIES}/nothing.py", ""), "no rpc for .*nothing"),
        (lambda copy: (copy.root / QUERIES / "get_filters.py").unlink(), "GetFilters"),
        (
            lambda copy: copy.insert(f"{QUERIES}/estimate.py", "limits: Limits, seconds: Pricing", ", x: int"),
            r"estimate: the function takes \['x'\]",
        ),
        (
            lambda copy: copy.insert(
                "protos/lightwell/v1/explainer.proto", "rpc GetFilters(GetFiltersRequest) returns (", "stream "
            ),
            "get_filters: the function must yield",
        ),
    ],
    ids=["a file without an rpc", "an rpc without a file", "an argument that there is not", "an rpc that streams"],
)
def test_a_missing_half_stops_start_up(tmp_path, sdk_python, spoil, wrong):
    copy = Copy(tmp_path / "project", sdk_python)
    spoil(copy)
    copy.generate()
    done = copy.run("-m", "lightwell_server", "--repository", "server/lightwell_server/bundled", check=False)
    assert done.returncode and re.search(wrong, done.stderr), done.stderr
