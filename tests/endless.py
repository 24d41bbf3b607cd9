"""A server whose workers never finish the loading of models called `endless`: `python -m tests.endless`, with the
options of a server."""

import threading

from lightwell_server.__main__ import main as serve
from lightwell_server.models import store
from lightwell_server.pool import place, worker

NAME = "endless"
lift = store.lift


def endless(path, *arguments):
    if path.parent.parent.name == NAME:
        threading.Event().wait()
    return lift(path, *arguments)


def main(told):
    """A worker."""
    store.lift = endless
    worker.main(told)


if __name__ == "__main__":
    place.MODULE = "tests.endless"
    serve()
