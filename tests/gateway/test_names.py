"""What lies in a repository under whatever name, and is whatever it is: it ends nothing, and hides no good model."""

import os
import shutil
import socket
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lightwell_server.errors import Refused
from lightwell_server.gateway.registry import ALIASES, ModelRegistry, State
from lightwell_server.models import card as cards
from lightwell_server.models.disk import natural, plain, shown
from lightwell_server.models.lifting import archive
from lightwell_server.models.store import RENAME, files
from tests.curating import curated
from tests.nets import Residual, export, seeded

CARD = "[input]\nsize = [16, 16]\n"
LONGEST = 255
"""Bytes of a name on disk."""

bytes_ = st.binary(min_size=1, max_size=LONGEST).map(lambda data: data.replace(b"/", b"-").replace(b"\0", b"0"))
texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="/\0"), min_size=1, max_size=60)
names = (bytes_ | texts.map(os.fsencode)).filter(lambda name: name not in (b".", b"..")).map(os.fsdecode)
ODD = (
    "²",
    "a@b",
    "@",
    "a\\b",
    "\\",
    "\n",
    "\x85",
    "\udc85",
    "\\x85",
    "\u202e",
    "\udcff",
    "x" * LONGEST,
    "é",
    "-",
    "٣",
    "𝟘",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A file that answers."""
    return export(seeded(Residual), "scripted", tmp_path_factory.mktemp("model"))


def version(repository, name, number, file):
    directory = repository / name / number
    directory.mkdir(parents=True)
    shutil.copyfile(file, directory / "model.pt")
    (directory / "card.toml").write_text(CARD)
    return directory


def with_examples(*found):
    def decorate(test):
        for one in found:
            test = example(*one)(test)
        return test

    return decorate


@given(st.lists(names, max_size=6))
@example(["²", "2", "٣", "1", "01", "", "2²3"])
def test_any_names_have_an_order_and_it_is_total(found):
    assert len({str(key) for key in sorted(map(natural, found))}) == len(set(found))
    assert sorted(["10", "9", "1.10", "1.9", "2"], key=natural) == ["1.9", "1.10", "2", "9", "10"]


@given(names, names)
@with_examples(("\x85", "\udc85"), ("\udc85", "\\x85"), ("\\", "\\\\"), ("@", "\\u0040"), ("\U000f0041", "\\U000f0041"))
def test_a_name_is_shown_in_characters_that_can_be_sent_and_as_no_other_is(one, other):
    assert shown(one).isprintable() and shown(one).encode()
    assert (shown(one) == shown(other)) == (one == other)
    assert not plain(one) or (shown(one) == one and "@" not in one)
    assert plain(one) or not plain(shown(one))


def test_names_are_shown_so_that_they_can_be_found():
    assert [shown(name) for name in ("net", "1 (copy)", "日本", "²")] == ["net", "1 (copy)", "日本", "²"]
    assert [shown(name) for name in ("a\udcff", "a\n", "a@b", "a\\b")] == ["a\\xff", "a\\u000a", "a\\u0040b", "a\\\\b"]


@settings(deadline=None, max_examples=50)
@given(st.sets(st.tuples(names, names), min_size=1, max_size=4))
@example({(name, "1") for name in ODD})
def test_each_version_is_found_once(found):
    with tempfile.TemporaryDirectory() as folder:
        for name, number in found:
            directory = Path(folder) / name / number
            directory.mkdir(parents=True)
            (directory / "model.pt").touch()
        assert set(files(Path(folder))) == {(shown(name), shown(number)) for name, number in found}


@settings(deadline=None, max_examples=10)
@given(name=names, number=names)
@with_examples(*((name, "1") for name in ODD), *(("other", name) for name in ODD))
def test_whatever_a_version_is_called_it_is_refused_alone_or_answers(model, name, number):
    with tempfile.TemporaryDirectory() as folder:
        version(Path(folder), "net", "1", model)
        if (name, number) != ("net", "1"):
            version(Path(folder), name, number, model)
        library, _, _ = curated(Path(folder))
        assert library.get("net", "1").ready
        listed = {(entry.name, entry.version): entry for entry in library.listed().models}
        one = listed[shown(name), shown(number)]
        assert len(listed) == len(library.all()) == len({("net", "1"), (name, number)})
        if plain(name) and plain(number):
            assert one.state in (State.MODEL_STATE_READY, State.MODEL_STATE_UNLOADED)
        elif one.state != State.MODEL_STATE_UNLOADED:  # an older version than one that answers is not looked at
            assert (one.state, one.reason) == (State.MODEL_STATE_REFUSED, RENAME)


def pipe(path):
    os.mkfifo(path)


def a_socket(path):
    with socket.socket(socket.AF_UNIX) as listener:
        folder = os.open(path.parent, os.O_RDONLY)  # its own path may be longer than a socket's may be
        listener.bind(f"/proc/self/fd/{folder}/{path.name}")
        os.close(folder)


def device(path):
    path.symlink_to("/dev/zero")


def loop(path):
    path.symlink_to(path.name)


def nowhere(path):
    path.symlink_to("not there")


IRREGULAR = {
    pipe: "a pipe, a socket or a device",
    a_socket: "a pipe, a socket or a device",
    device: "a pipe, a socket or a device",
    Path.mkdir: "is a directory",
    loop: "symbolic link",
    nowhere: "No such file",
}


@pytest.mark.parametrize("make", IRREGULAR, ids=lambda make: make.__name__)
@pytest.mark.parametrize("file", ["model.pt", "model.pt2", "card.toml"])
def test_what_is_no_regular_file_is_refused_and_never_opened(tmp_path, model, make, file):
    version(tmp_path, "net", "1", model)
    bad = version(tmp_path, "net", "2", model)
    (bad / (file if file == "card.toml" else "model.pt")).unlink()
    make(bad / file)
    library, _, _ = curated(tmp_path)
    assert library.get("net").version == "1"
    (refused,) = [entry for entry in library.all() if entry.version == "2"]
    assert refused.state == State.MODEL_STATE_REFUSED and IRREGULAR[make] in refused.reason
    assert file in refused.reason


@pytest.mark.parametrize("make", [pipe, a_socket, device, Path.mkdir], ids=lambda make: make.__name__)
def test_labels_and_pictures_are_regular_files(tmp_path, make):
    make(tmp_path / "names")
    for card in ('[output]\nlabels = "names"\n', '[check]\npicture = "names"\nclasses = [0]\nscores = [1]\n'):
        (tmp_path / "card.toml").write_text(card)
        with pytest.raises(Refused, match="names no file inside the repository: names"):
            read, _ = cards.read(tmp_path, tmp_path)
            cards.inside(read.check.picture, "check.picture", tmp_path, tmp_path)


def test_a_pipe_in_the_place_of_aliases_is_told_and_not_waited_for(tmp_path):
    pipe(tmp_path / ALIASES)
    with pytest.raises(ValueError, match=r"aliases.toml is no regular file"):
        ModelRegistry(tmp_path)


def test_a_pipe_is_no_model_wherever_it_is_brought_from(tmp_path):
    pipe(tmp_path / "model.pt")
    with pytest.raises(Refused, match=r"model.pt is a pipe, a socket or a device"):
        archive.form(tmp_path / "model.pt")


def test_odd_things_beside_models_are_no_models(tmp_path, model):
    version(tmp_path, "net", "1", model)
    for make, name in ((pipe, "pipe"), (a_socket, "socket"), (loop, "loop"), (nowhere, "nowhere"), (device, "device")):
        make(tmp_path / name)
        make(tmp_path / "net" / name)
    for name in ODD:
        (tmp_path / name).write_text("no directory")
        (tmp_path / "net" / name).mkdir()
    assert set(files(tmp_path)) == {("net", "1"), ("net", "loop")}, (
        "what cannot be looked into is refused with a reason"
    )


def test_a_name_may_be_as_long_as_the_disk_allows(tmp_path, model):
    long = "x" * LONGEST
    version(tmp_path, long, long, model)
    library, _, _ = curated(tmp_path)
    assert library.get(long).id == f"{long}@{long}"
