"""The scores of a classifier: read before its final activation, as columns, with two columns made from a single
score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, fx

from lightwell_server.contract import Activation
from lightwell_server.models.lifting.endings import Ending, ending, squashed
from lightwell_server.models.lifting.recorder import Recorder, aten
from lightwell_server.models.lifting.sample import Sample
from lightwell_server.models.lifting.views import Box
from lightwell_server.models.nodes import PIXELS

YES_AND_NO = "the model gives one score: class 1 is its yes, class 0 its no"


@dataclass
class Scores:
    """Scores [n, classes]. `single` is the one score from which two classes are made. `activation` is the file's final
    activation, if any. `restored` computes the file's output from the scores."""

    node: fx.Node
    single: fx.Node | None = None
    activation: Activation | None = None
    restored: Callable[[Tensor], Tensor] = field(default=lambda scores: scores)
    notes: list[str] = field(default_factory=list)


def scores(output: Box, sample: Sample, recorder: Recorder) -> Scores:
    """The scores of an output [n, classes], or [n] with one score for each image."""
    recorder.path = PIXELS
    vector = output.value.dim() == 1
    columns = recorder.shaped(output, [-1, 1]) if vector else output
    classes = columns.value.shape[1]
    final = ending(recorder.node(columns), recorder.root, classes) if sample.scored else None
    bounded = final is not None and not final.exact  # a bounded value of its own, such as five times a sigmoid
    taken = final if sample.before_activation and not bounded else None
    given = columns if taken is None else _before(taken, columns, recorder)
    found = Scores(recorder.node(given), activation=None if final is None else "none" if bounded else final.name)
    if taken is not None:
        found.restored = taken.apply
        found.notes.append(f"the model ends in {taken.name}: scores are read before it")
    if bounded:
        found.notes.append("the model returns values that a function bounds, and no probabilities: they are the scores")
    if classes == 1 and (sample.binary or found.activation == "sigmoid"):
        _answer(found, given, taken is None and (final is not None or squashed(found.node)), recorder)
    if vector:
        found.restored = _then(found.restored, lambda values: values[:, 0])
    recorder.path = ""
    return found


def _before(final: Ending, columns: Box, recorder: Recorder) -> Box:
    """The input of a final activation, as columns. The boxes hold zeros, because only their shapes are used here."""
    boxes = [Box(columns.value.new_zeros(node.meta["shape"]), node) for node in final.taken]
    taken = boxes[0] if len(boxes) == 1 else recorder.op(aten.cat.default, (boxes, 1), {})
    same = taken.value.shape == columns.value.shape
    return taken if same else recorder.shaped(taken, [-1, columns.value.shape[1]])


def _answer(found: Scores, score: Box, bounded: bool, recorder: Recorder) -> None:
    """Makes two classes from one score. The score of class 0 is its negative, or one minus it if it is a probability. A
    value that is `bounded` otherwise stays as it is."""
    if bounded and not bool(((score.value >= 0) & (score.value <= 1)).all()):
        return
    no = recorder.op(aten.rsub.Scalar, (score, 1), {}) if bounded else recorder.op(aten.neg.default, (score,), {})
    found.single = found.node
    found.node = recorder.node(recorder.op(aten.cat.default, ([no, score], 1), {}))
    found.activation = "none" if bounded else "sigmoid"
    found.restored = _then(lambda pair: pair[:, 1:], found.restored)
    found.notes.append(YES_AND_NO)


def _then(first: Callable[[Tensor], Tensor], second: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda values: second(first(values))
