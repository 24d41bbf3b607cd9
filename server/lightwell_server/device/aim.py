"""The target of a request, found in the model."""

from __future__ import annotations

from lightwell.v1 import types_pb2 as types
from lightwell_server.ask import Facts
from lightwell_server.errors import InvalidArgument, nearest
from lightwell_server.models.store import Model
from lightwell_server.target import ChannelTarget, ClassTarget, ContrastTarget, Of, Target

_OF: dict[int, Of] = {
    types.OF_UNSPECIFIED: "score",
    types.OF_SCORE: "score",
    types.OF_PROBABILITY: "probability",
    types.OF_LOG_PROBABILITY: "log_probability",
}


def target_of(message: types.Target, model: Model) -> Target:
    """The target of a request. Raises InvalidArgument with what there is to choose from."""
    kind = message.WhichOneof("target")
    if message.of not in _OF:
        raise InvalidArgument.at("target.of", f"{message.of} is no reading of a class")
    if kind in (None, "class_index", "label", "contrast"):
        return _class_target(message, kind, model)
    if _OF[message.of] != "score":
        raise InvalidArgument.at("target.of", f"only classes have probabilities; explain the score of the {kind}")
    if kind == "neuron":
        return _neuron(message.neuron, model.facts)
    if kind == "channel":
        _activations(message.channel.layer, message.channel.channel, "target.channel", model.facts)
        return ChannelTarget(message.channel.layer, message.channel.channel)
    raise InvalidArgument.at(f"target.{kind}", "this version explains classes, contrasts, neurons and channels")


def _class_target(message: types.Target, kind: str | None, model: Model) -> Target:
    of, activation = _OF[message.of], model.facts.activation
    if of != "score" and activation == "none":
        raise InvalidArgument.at("target.of", "the model's outputs are no probabilities; explain the score")
    if kind == "label":
        return ClassTarget(label_index(message.label, model.labels), of, activation)
    if kind == "contrast":
        first = _class(message.contrast.class_index, "target.contrast.class_index", model.facts)
        against = _class(message.contrast.against, "target.contrast.against", model.facts)
        if first == against:
            raise InvalidArgument.at("target.contrast.against", f"is the same class, {first}; name another one")
        return ContrastTarget(first, against, of, activation)
    index = _class(message.class_index, "target.class_index", model.facts) if kind else None
    return ClassTarget(index, of, activation)


def _class(index: int, path: str, facts: Facts) -> int:
    if not 0 <= index < facts.classes:
        raise InvalidArgument.at(
            path, f"{index} is no class; the model has {facts.classes}, from 0 to {facts.classes - 1}"
        )
    return index


def label_index(label: str, labels: tuple[str, ...]) -> int:
    """The class of that name, or of one part of its comma-separated name. Raises InvalidArgument if there are none or
    several."""
    if not labels:
        raise InvalidArgument.at("target.label", "the model's card has no labels; name the class by its index")
    wanted = label.strip().casefold()
    whole = [i for i, name in enumerate(labels) if name.casefold() == wanted]
    found = whole or [
        i for i, name in enumerate(labels) if wanted in (part.strip().casefold() for part in name.split(","))
    ]
    if len(found) > 1:
        raise InvalidArgument.at(
            "target.label", f"{label!r} names several classes, {', '.join(map(str, found))}; name one by its index"
        )
    if not found:
        raise InvalidArgument.at(
            "target.label", f"there is no class {label!r}; {nearest(wanted, [name.casefold() for name in labels])}"
        )
    return found[0]


def _neuron(neuron: types.Neuron, facts: Facts) -> ChannelTarget:
    shape = _activations(neuron.layer, neuron.channel, "target.neuron", facts)
    if len(shape) == 1:
        return ChannelTarget(neuron.layer, neuron.channel)
    row = neuron.row if neuron.HasField("row") else shape[1] // 2
    column = neuron.column if neuron.HasField("column") else shape[2] // 2
    for name, place, size in (("row", row, shape[1]), ("column", column, shape[2])):
        if not 0 <= place < size:
            raise InvalidArgument.at(f"target.neuron.{name}", f"{place} is not within 0 to {size - 1}")
    return ChannelTarget(neuron.layer, neuron.channel, (row, column))


def _activations(name: str, channel: int, path: str, facts: Facts) -> tuple[int, ...]:
    layer = facts.layer(name)
    if layer is None:
        known = [layer.name for layer in facts.layers]
        raise InvalidArgument.at(f"{path}.layer", f"the model has no layer {name!r}; {nearest(name, known)}")
    if len(layer.shape) not in (1, 3):
        raise InvalidArgument.at(f"{path}.layer", f"{name} has no channels; its output is {list(layer.shape)}")
    if not 0 <= channel < layer.shape[0]:
        raise InvalidArgument.at(f"{path}.channel", f"{channel} is not within 0 to {layer.shape[0] - 1}")
    return layer.shape
