"""Real servers for tests: processes of their own, asked over real sockets."""

import shutil
from pathlib import Path

import torch

from lightwell.serving import Server, bundled
from lightwell.serving import served as served_as_is
from tests.nets import Linear, export, seeded

__all__ = ["Server", "bundled", "bundled_and_flat", "served", "served_as_is"]


def served(repository, *options, **more):
    """A server with all in one process, which starts faster, unless the options say otherwise."""
    return served_as_is(repository, "--workers", "0", *options, **more)


def bundled_and_flat(root: Path) -> Path:
    """A repository of the bundled model, and of one without any layer that has height and width."""
    shutil.copytree(bundled() / "shapes", root / "shapes")
    flat = root / "flat" / "1"
    flat.mkdir(parents=True)
    export(seeded(Linear), "scripted", flat, torch.rand(2, 3, 16, 16)).rename(flat / "model.pt")
    (flat / "card.toml").write_text("[input]\nsize = [16, 16]\nmean = [0, 0, 0]\nstd = [1, 1, 1]\n")
    return root
