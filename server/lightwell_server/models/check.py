"""Verifies a card's check: the scores expected when the card was written, with the resize and crop of every request."""

from __future__ import annotations

from pathlib import Path

import torch

from lightwell_server.codec import pictures
from lightwell_server.contract import OUTPUT
from lightwell_server.errors import LightwellError, Refused
from lightwell_server.models import card as cards
from lightwell_server.models.card import Card
from lightwell_server.models.graph import Graph
from lightwell_server.models.lifting.proof import TOLERANCES
from lightwell_server.models.subgraph import SubgraphKey


def verify(graph: Graph, card: Card, directory: Path, repository: Path) -> None:
    """Raises `Refused` if the picture does not exist, or its scores differ from the card's by more than its tolerance
    or that of the graph's dtype."""
    check = card.check
    if check is None:
        return
    path = cards.inside(check.picture, "check.picture", directory, repository)
    scores = scores_of(graph, card, path.read_bytes())
    if max(check.classes) >= len(scores):
        raise Refused(
            f"card.toml: check.classes names class {max(check.classes)}, and the model has {len(scores)}",
            reason="BAD_CARD",
        )
    allowed = max(check.tolerance, TOLERANCES[graph.dtype]) * max(abs(score) for score in scores)
    for index, expected in zip(check.classes, check.scores, strict=True):
        if not abs(scores[index] - expected) <= allowed:
            raise Refused(
                f"the card's check fails: class {index} scores {scores[index]:.6g} on {check.picture}, and "
                f"{expected:.6g} was expected; compare size, resize, interpolation, mean and std with the training's",
                reason="CHECK_FAILED",
            )


def scores_of(graph: Graph, card: Card, picture: bytes) -> list[float]:
    """The scores of all classes on a picture. Raises `Refused` if it cannot be decoded, or the model has no classes."""
    try:
        rows, _ = pictures.fitted(pictures.opened(picture, "check.picture"), card.fit, "check.picture")
    except LightwellError as error:
        raise Refused(f"card.toml: {error.message}", reason="BAD_CARD") from error
    subgraph = graph.subgraph(SubgraphKey((OUTPUT,)))
    others = {
        graph.inputs[name]: torch.zeros((1, *spec.shape), dtype=spec.dtype, device=graph.device)
        for name, spec in card.sample().inputs.items()
    }
    (output,), _ = subgraph.run(rows.to(graph.device, graph.dtype), others, torch.arange(1, device=graph.device))
    if output.dim() != 2:
        raise Refused("card.toml: check is for models that give scores [n, classes]", reason="BAD_CARD")
    scores: list[float] = output[0].double().tolist()
    return scores
