"""Methods asked of small networks in this process, in double precision."""

from pathlib import Path

import torch

from lightwell_server.catalog import catalog
from lightwell_server.contract import ClassTarget
from lightwell_server.models.card import Card
from lightwell_server.models.store import Model, load_file
from tests.drive import drive
from tests.nets import export

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def model(net: torch.nn.Module, folder: Path, form: str = "scripted", side: int = 16, **card) -> Model:
    """The network as a model that takes pixels as they are, unless the card says otherwise."""
    card = Card.model_validate({"input": {"size": (side, side), **PLAIN}, **card})
    path = export(net, form, folder, *card.sample().example(2))
    return load_file(path, card, (), type(net).__name__, "1", "cpu", torch.float64)


def picture(side: int = 16, seed: int = 0) -> torch.Tensor:
    """Random pixels [1, 3, side, side]."""
    return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ask(model: Model, name: str, image: torch.Tensor, target=None, seed: int = 0, seen=None, inputs=None, **given):
    """A method's result; parameters are checked and filled in as for a request."""
    method = catalog()[name]
    parameters = method.parameters(model.facts, given, model.id)
    steps = method.start(image, target or ClassTarget(), model.facts, seed, parameters)
    return drive(steps, model.graph, inputs, seen)


def close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Whether two results agree to 1e-8 of the largest value."""
    assert ours.shape == theirs.shape and bool(theirs.any())
    return float((ours - theirs).abs().max()) <= 1e-8 * float(theirs.abs().max())
