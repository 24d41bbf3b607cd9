"""What all tests share."""

import logging
import os
import signal
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # small sums: threads would only get in each other's way
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background, whose programs hear no Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)


PEERS = Path(__file__).parent / "peers"


def pytest_collection_modifyitems(items):
    """`-m "not server and not peers"` leaves out files that start servers, and comparisons with other libraries."""
    for item in items:
        if PEERS in item.path.parents:
            item.add_marker("peers")
        if hasattr(item.module, "served"):
            item.add_marker("server")


@pytest.fixture(autouse=True)
def logs_are_left_on():
    """No test leaves those after it without their warnings."""
    yield
    assert logging.root.manager.disable == logging.NOTSET


@pytest.fixture(scope="session")
def sdk_python():
    """The interpreter of an environment with the base install alone; `make test` makes it."""
    path = os.environ.get("LIGHTWELL_SDK_PYTHON", "")
    assert path and Path(path).exists(), (
        "LIGHTWELL_SDK_PYTHON must name an interpreter with only `pip install lightwell`; run `make test`"
    )
    return path
