"""The choices that were made when a model was read, and the reason of each."""

from __future__ import annotations

from lightwell_server.importing.declared import Declared
from lightwell_server.models.store import Model, activation_of


def reasons(model: Model, declared: Declared) -> dict[str, str]:
    """Each choice with its reason, by name: what the file declares of its input, the output and the activation."""
    graph, card = model.graph, model.card
    activation, why = activation_of(graph, card, model.facts.classes)
    reasons = {
        name: f"{_shown(getattr(declared.given, name))}: from {source}" for name, source in declared.sources.items()
    }
    return {**reasons, "output": _output(model), "activation": f"{activation}: {why}"}


def _output(model: Model) -> str:
    graph = model.graph
    named = graph.path or "the file's only one"
    if model.card.output.path:
        return f"{named}: as given"
    if not graph.others:
        return named if graph.path == "" else f"{named}: the only one that depends on the image"
    form = "[n, classes]" if model.card.kind == "classifier" else "that is an image"
    return f"{named}: the only one {form} beside {', '.join(graph.others)}"


def _shown(value: object) -> str:
    if isinstance(value, tuple) and value and isinstance(value[0], str):
        return f"{len(value)} names"
    return " x ".join(map(str, value)) if isinstance(value, tuple) else str(value).lower()
