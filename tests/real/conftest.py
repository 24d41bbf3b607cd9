"""Real models and photographs: LIGHTWELL_REAL names a model repository with `images` beside it."""

import os
import shutil
from pathlib import Path

import pytest

from lightwell import Client
from lightwell.serving import served

MODELS = {"mobilenet_v2": 9, "squeezenet1_0": 6}
"""The models, and how many of the ten photographs each must get right."""


@pytest.fixture(scope="session")
def images():
    """The directory of photographs."""
    return Path(os.environ["LIGHTWELL_REAL"]).parent / "images"


@pytest.fixture(scope="session")
def photographs(images):
    """Ten photographs with the index of their class, which their names end in."""
    found = [(path, int(path.stem.rpartition("_")[2])) for path in sorted(images.glob("imagenet_*.jpg"))]
    assert len(found) == 10
    return found


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A server of the two classifiers."""
    source, root = Path(os.environ["LIGHTWELL_REAL"]), tmp_path_factory.mktemp("real")
    for name in MODELS:
        shutil.copytree(source / name, root / name)
    shutil.copy(source / "imagenet_labels.txt", root)
    with served(root) as server:
        yield server


@pytest.fixture
def client(server):
    with Client(server.address, timeout=300) as client:
        yield client
