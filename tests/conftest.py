"""What all tests share."""

import logging
import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # small sums: threads would only get in each other's way


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
