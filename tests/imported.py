"""Prints how many methods explain a model file, and which parts of torch were imported while they did. Run by
tests/runtime/test_imports.py in a process of its own."""

import sys
from importlib import import_module

import numpy as np
from PIL import Image as Pil

from lightwell import NotApplicableError
from lightwell_server import local as module
from lightwell_server.catalog import catalog
from lightwell_server.local import Local
from lightwell_server.models.answer import deterministic_answer
from lightwell_server.models.card import Card
from lightwell_server.models.lifting import files
from tests.test_laws import SAMPLES, ask

SIDE = 64
before: set[str] = set()


class Reading:
    """The lock under which programs are read: what is imported there, is imported by one thread alone."""

    lock = files._READING

    def __enter__(self):
        self.lock.acquire()

    def __exit__(self, *error):
        before.update(sys.modules)
        self.lock.release()


def main(file):
    module.answer = deterministic_answer  # as in a server
    import_module("torch._dynamo")  # optimizers import it as a whole, which is safe
    before.update(sys.modules)
    files._READING = Reading()
    picture = Pil.open(SAMPLES / "star.png").convert("RGB").resize((SIDE, SIDE))
    card = Card.model_validate({"input": {"size": [SIDE, SIDE], "mean": [0, 0, 0], "std": [1, 1, 1]}})
    explained = 0
    with Local(file, card) as local:
        for name in catalog():
            try:
                ask(local, name, np.asarray(picture), reproducible=True)
                explained += 1
            except NotApplicableError as error:
                print(error, file=sys.stderr)
    parts = ("torch", "sympy", "triton")
    print(explained, *sorted(name for name in set(sys.modules) - before if name.split(".")[0] in parts))


if __name__ == "__main__":
    main(sys.argv[1])
