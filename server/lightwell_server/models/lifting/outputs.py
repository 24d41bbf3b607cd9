"""Selects the output of a model that is explained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from torch import Tensor

from lightwell_server.errors import Refused, nearest
from lightwell_server.models.lifting.operations import of_image
from lightwell_server.models.lifting.views import Box

Kind = Literal["classifier", "stylizer", "generator"]


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - whatever a model returns
    """Each tensor, number and None within tuples, named tuples, lists and dicts, with its path: the names, keys and
    indices that lead to it, joined by dots."""
    if isinstance(value, dict):
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, tuple | list):
        names = getattr(value, "_fields", range(len(value)))
        items = [(str(name), item) for name, item in zip(names, value, strict=True)]
    else:
        yield path, value
        return
    for name, item in items:
        yield from leaves(item, f"{path}.{name}" if path else name)


def depends(output: Any) -> bool:  # noqa: ANN401 - whatever a model returns
    """Whether an output is a floating tensor that depends on the image."""
    return of_image(output) and isinstance(output.value, Tensor) and output.value.is_floating_point()


def chosen(outputs: list[tuple[str, Any]], wanted: str, kind: Kind, scored: bool) -> int:
    """The index of the output to explain: the one that the card names, else the only one that fits the kind, or the
    only one of any shape if it is not `scored`. Raises `Refused` with the candidates."""
    floating = [(i, path, tuple(box.value.shape)) for i, (path, box) in enumerate(outputs) if depends(box)]
    if wanted:
        found = [i for i, path, _ in floating if path == wanted]
        if not found:
            paths = [path for _, path, _ in floating]
            raise Refused(f"the model has no output {wanted!r} that depends on the image; {nearest(wanted, paths)}")
        return found[0]
    dimensions, form = (2, "[n, classes]") if kind == "classifier" else (4, "[n, 3, height, width]")
    fitting = [i for i, _, shape in floating if len(shape) == dimensions]
    if not fitting and kind == "classifier":  # one score an image
        fitting = [i for i, _, shape in floating if len(shape) == 1]
    if not fitting and kind == "classifier" and not scored:
        fitting, form = [i for i, _, _ in floating], "of any shape"
    decided = [box for _, box in outputs if isinstance(box, Box) and box.node is not None]
    if not floating and any(isinstance(box.value, Tensor) for box in decided):
        raise Refused(
            "the model returns decisions, such as the number of the highest score, and no scores: no gradient passes "
            "them; export it without its argmax, comparison or rounding"
        )
    if len(fitting) != 1:
        returned = "; ".join(f"{path or 'output'} {_shown(shape)}" for _, path, shape in floating) or "none"
        raise Refused(
            f"the model returns {len(fitting)} floating tensors {form} that depend on the image, and one is needed; "
            "name one as output.path in the card, set its kind, or its output.activation to none if it is no scores of "
            f"classes. It returns: {returned}"
        )
    return fitting[0]


def _shown(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(['n', *map(str, shape[1:])])}]" if shape else "[] without rows"
