"""A server whose workers end when they look at a request of a certain seed, before its first step: `python -m
tests.deadly`, with the options of a server."""

import os

from lightwell_server.__main__ import main as serve
from lightwell_server.pool import slot, worker
from lightwell_server.runtime import device

SEED = 666
prepare = device.prepare


def deadly(request, *models):
    if request.seed == SEED:
        os.abort()
    return prepare(request, *models)


def main(told):
    """A worker."""
    device.prepare = deadly
    worker.main(told)


if __name__ == "__main__":
    slot.MODULE = "tests.deadly"
    serve()
