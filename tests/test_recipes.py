"""The recipes of CONTRIBUTING.md, followed literally in a copy of the project."""

import re
import textwrap

import pytest

from tests.copies import ROOT, Copy

pytestmark = pytest.mark.server

FENCE = re.compile(r"^ +```(diff|python)\n(.*?)^ +```$", re.M | re.S)
PATH = re.compile(r"^\d+\. `([^`]+)`", re.M)


def recipes():
    """The changes of each recipe in their order: differences, and new files with their paths."""
    found = {}
    for section in (ROOT / "CONTRIBUTING.md").read_text("utf-8").split("\n## ")[1:]:
        title, _, body = section.partition("\n")
        blocks = [
            (kind[1], PATH.findall(body[: kind.start()])[-1], textwrap.dedent(kind[2])) for kind in FENCE.finditer(body)
        ]
        if title.startswith("Add "):
            found[title] = blocks
    return found


def changed(blocks):
    """The files that a recipe adds or changes."""
    differences = [re.search(r"^\+\+\+ b/(\S+)", text, re.M)[1] for kind, _, text in blocks if kind == "diff"]
    return differences + [path for kind, path, _ in blocks if kind == "python"]


@pytest.fixture(scope="module")
def copy(tmp_path_factory, sdk_python):
    made = Copy(tmp_path_factory.mktemp("project"), sdk_python)
    for blocks in recipes().values():
        for kind, path, text in blocks:
            made.patch(text) if kind == "diff" else made.write(path, text)
    made.generate()
    return made


def test_there_are_three():
    assert list(recipes()) == ["Add a method", "Add a kind of target", "Add a call"]


def test_a_method_is_one_message_one_file_one_test():
    assert len(changed(recipes()["Add a method"])) == 3


def test_a_call_is_seven_files():
    assert len(changed(recipes()["Add a call"])) == 7


@pytest.mark.parametrize("test", [path for b in recipes().values() for path in changed(b) if path.startswith("tests/")])
def test_what_was_added_works(copy, test):
    assert " passed" in copy.run("-m", "pytest", "-p", "no:cacheprovider", test).stdout


def test_the_contract_and_the_house_find_it(copy):
    tests = ("test_contract", "test_house", "sdk/test_calls", "test_docstrings")
    done = copy.run("-m", "pytest", "-p", "no:cacheprovider", *(f"tests/{name}.py" for name in tests))
    assert "failed" not in done.stdout


def test_the_laws_find_the_method(copy):
    done = copy.run("-m", "pytest", "-p", "no:cacheprovider", "tests/test_laws.py", "-k", "gradient_sign")
    assert re.search(r"\b([5-9]|\d\d) passed", done.stdout), done.stdout[-500:]
