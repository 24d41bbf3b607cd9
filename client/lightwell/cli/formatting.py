"""Results for the command line: a line to read, plain values for scripts."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from rich.text import Text

from lightwell.results import Estimate, Explanation, Synthesis, listed, named
from lightwell.v1 import types_pb2 as types


def plain(message: Message) -> dict[str, Any]:
    """A message as JSON values: enums as words, non-finite numbers as null, without unset fields."""
    shown = (field for field in message.DESCRIPTOR.fields if not field.has_presence or message.HasField(field.name))
    return {field.name: _values(cast(FieldDescriptor, field), getattr(message, field.name)) for field in shown}


def explanation(seen: Explanation, image: str, file: Path | None) -> dict[str, Any]:
    """An explanation without its map, which is in the file."""
    return {**both(seen, image, file), "predictions": [plain(item) for item in seen.predictions]}


def synthesis(made: Synthesis, image: str | None, files: list[Path], previews: list[Path]) -> dict[str, Any]:
    """A synthesis without its pictures, which are in the files; its image is in the first."""
    return {
        **both(made, image, files[0]),
        "succeeded": made.succeeded,
        "predictions_before": [plain(item) for item in made.before],
        "predictions_after": [plain(item) for item in made.after],
        "pictures": [str(path) for path in files[1:]],
        "previews": [str(path) for path in previews],
    }


def explanation_line(seen: Explanation, image: str, file: Path | None) -> Text:
    """A line with the result of an explanation and its file."""
    line = Text(Path(image).name, "bold")
    if seen.message.HasField("target"):
        line.append("  ").append(named(seen.target), "yellow").append(f"  {_strength(seen.target)}")
    else:
        shapes = (f"{name} {' x '.join(map(str, values.shape))}" for name, values in seen.tensors.items())
        line.append(f"  {', '.join(shapes)}")
    if not seen.message.HasField("map") and not seen.tensors:
        line.append("".join(f"\n  {words}" for words in _chances(seen.predictions)))
    return noted(at(line, file), seen.warnings)


def synthesis_line(made: Synthesis, file: Path) -> Text:
    """A line with the result of a synthesis and its file."""
    line = Text(str(made.message.resolved.WhichOneof("method")), "bold")
    if made.succeeded is not None:
        line.append("  succeeded" if made.succeeded else "  did not succeed", "green" if made.succeeded else "red")
    if made.before and made.after:
        line.append(f"  {listed(made.before)[0]} → {listed(made.after)[0]}", "yellow")
    for name, value in made.measures.items():
        line.append(f"  {name} {value:.4g}", "dim")
    return noted(at(line, file), made.warnings)


def estimate(cost: Estimate, method: str) -> dict[str, Any]:
    """An estimate, with the parameters that the method would use."""
    figures = {field.name: getattr(cost, field.name) for field in fields(cost) if field.name != "resolved"}
    parameters = plain(getattr(cost.resolved, method)) if cost.resolved is not None else None
    return {"method": method, **figures, "parameters": parameters}


def estimate_line(cost: Estimate, method: str) -> Text:
    """A line with the cost of a request, or the reason why the method does not apply."""
    line = Text(method, "bold")
    if not cost.applies:
        return line.append("  does not apply: ", "red").append(cost.reason)
    bound = "at most " if cost.may_stop_early else ""
    line.append(f"  {bound}{counted(cost.rows, 'row')}", "yellow")
    if cost.gradients:
        line.append(
            " with gradients" if cost.gradients == cost.rows else f", {cost.gradients:,} with gradients", "yellow"
        )
    if cost.steps:
        line.append(f"  {bound}{counted(cost.steps, 'step')}")
    line.append(f"  a row needs {_bytes(cost.memory_bytes)} of {_bytes(cost.memory_limit_bytes)}")
    seconds = "seconds not known yet" if cost.device_seconds is None else f"about {cost.device_seconds:.2g} s"
    return line.append(f"  {seconds}", "cyan")


def both(result: Explanation | Synthesis, image: str | None, file: Path | None) -> dict[str, Any]:
    """The values that both kinds of result have."""
    name = result.message.resolved.WhichOneof("method")
    return {
        "image": image,
        "method": name,
        "parameters": plain(getattr(result.message.resolved, str(name))),
        "target": plain(result.target) if result.message.HasField("target") else None,
        "measures": {key: _finite(value) for key, value in result.measures.items()},
        "warnings": result.warnings,
        "provenance": plain(result.provenance),
        "file": str(file) if file else None,
    }


def _values(field: FieldDescriptor, value: Any) -> Any:  # noqa: ANN401 - of the field's type
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return {key: _value(field.message_type.fields_by_name["value"], item) for key, item in value.items()}
    return [_value(field, item) for item in value] if field.is_repeated else _value(field, value)


def _value(field: FieldDescriptor, value: Any) -> Any:  # noqa: ANN401 - of the field's type
    if field.message_type is not None:
        return plain(value)
    if field.enum_type is not None:
        prefix = field.enum_type.values[0].name.removesuffix("UNSPECIFIED")
        return field.enum_type.values_by_number[value].name.removeprefix(prefix).lower()
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    return _finite(value) if isinstance(value, float) else value


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def counted(count: int, what: str) -> str:
    """A number with its noun, such as 1 row or 2,401 rows."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def _bytes(count: int) -> str:
    """A number of bytes with at most three digits, in powers of a thousand."""
    power = min(4, max(0, len(str(count)) - 1) // 3)
    return f"{count / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def _strength(target: types.ExplainedTarget) -> str:
    return f"{target.probability:.1%}" if target.HasField("probability") else f"score {target.score:.4g}"


def _chances(predictions: list[types.Prediction]) -> list[str]:
    """A line for each class: its probability, or else its score, and its name."""
    known = any(item.probability for item in predictions)
    figures = [f"{item.probability:.1%}" if known else f"{item.score:.4g}" for item in predictions]
    return [
        f"{figure:>6}  {item.label or f'class {item.class_index}'}"
        for figure, item in zip(figures, predictions, strict=True)
    ]


def at(line: Text, file: Path | None) -> Text:
    """A line followed by the name of its file."""
    return line.append("  ").append(str(file), "cyan") if file else line


def noted(line: Text, warnings: Iterable[str]) -> Text:
    """A line followed by its warnings."""
    for warning in warnings:
        line.append(f"\n  {warning}", "dim")
    return line
