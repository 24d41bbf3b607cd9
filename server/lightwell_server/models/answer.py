"""Runs models, and is the only place where they run. It joins rows to a batch, does one forward pass of the subgraph
and one backward pass of the sum of all scores, and splits the results again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from lightwell_server.contract import ACT, GRAD, OUT, SCORE, Answer, Ask, Edit, Part, Rows
from lightwell_server.errors import InvalidArgument, OutOfMemory, ruinous
from lightwell_server.models.graph import Graph
from lightwell_server.models.subgraph import Subgraph, SubgraphKey


def answer(graph: Graph, parts: Sequence[Part]) -> list[Answer]:
    """Answers parts of Asks with equal keys in one step, or row by row where rows must not share a step. Raises
    `OutOfMemory`, and `InvalidArgument` for a layer without influence, a size or an input that the model does not
    take."""
    if (graph.row_by_row or graph.subgraph(SubgraphKey.of(parts[0].ask)).alone) and (
        len(parts) > 1 or parts[0].count > 1
    ):
        return [Answer.join([_step(graph, [row])[0] for row in _rows(part)]) for part in parts]
    return _step(graph, parts)


def deterministic_answer(graph: Graph, parts: Sequence[Part]) -> list[Answer]:
    """As `answer`, with torch's deterministic algorithms if the Asks belong to a `reproducible` request. The switch
    applies to the whole process, so this is for the server's own processes."""
    if not parts[0].reproducible:
        return answer(graph, parts)
    before = torch.get_deterministic_debug_mode()
    # torch.use_deterministic_algorithms does the same, and imports a compiler.
    torch.set_deterministic_debug_mode("error")
    try:
        return answer(graph, parts)
    finally:
        torch.set_deterministic_debug_mode(before)


def _step(graph: Graph, parts: Sequence[Part]) -> list[Answer]:
    ask = parts[0].ask
    key = SubgraphKey.of(ask)
    subgraph = graph.subgraph(key)
    if ask.want & (ACT | GRAD) and not subgraph.influential:
        raise InvalidArgument(f"{ask.wrt!r} does not influence {', '.join(key.at)}", reason="NO_INFLUENCE")
    with _memory(), torch.inference_mode(False):
        return _run(graph, subgraph, parts)


def _run(graph: Graph, subgraph: Subgraph, parts: Sequence[Part]) -> list[Answer]:
    want = parts[0].ask.want
    device = graph.device
    index = [torch.arange(part.start, part.stop, device=device) for part in parts]
    rows = torch.cat([_made(part, i) for part, i in zip(parts, index, strict=True)]).to(device, graph.dtype)
    inputs = _repeated(graph, parts, device)
    whole = torch.cat(index)
    edit = _edited(parts, index)
    # _memory is the inner one: running out of memory must not be reported as an unsupported size.
    with _own_inputs(graph), _own_size(graph, rows), _memory():
        values, act = subgraph.run(
            _channels_last(rows), inputs, whole, edit, grad=bool(want & GRAD), act=bool(want & ACT)
        )
    values = [_wide(value) for value in values]
    bounds = list(pairwise(accumulate((part.count for part in parts), initial=0)))
    with torch.set_grad_enabled(bool(want & GRAD)):
        scores = [_score(part, values, slice(*b), i) for part, b, i in zip(parts, bounds, index, strict=True)]
    grad = _gradient(scores, act) if want & GRAD else None
    act, grad = (None if value is None else subgraph.apart(value) for value in (act, grad))
    answers = [
        _answer(part.ask, values, act, grad, score, slice(*b))
        for part, score, b in zip(parts, scores, bounds, strict=True)
    ]
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return answers


def _made(part: Part, index: Tensor) -> Tensor:
    rows = part.ask.rows
    if isinstance(rows, Rows):
        return rows.make(index)
    return rows if part.ask.edit is not None and part.ask.edit.count is not None else rows[part.start : part.stop]


def _repeated(graph: Graph, parts: Sequence[Part], device: torch.device) -> dict[str, Tensor]:
    def rows(part: Part) -> int:
        return 1 if part.ask.edit is not None and part.ask.edit.count is not None else part.count

    def repeated(part: Part, name: str) -> Tensor:
        value = part.inputs[name].to(device)
        value = value.to(graph.dtype) if value.is_floating_point() else value
        return value.expand(rows(part), *value.shape)

    return {node: torch.cat([repeated(part, name) for part in parts]) for name, node in graph.inputs.items()}


def _edited(parts: Sequence[Part], index: Sequence[Tensor]) -> Edit | None:
    """The edits of all parts as one, each on its own rows."""
    edit = parts[0].ask.edit
    if edit is None or len(parts) == 1:
        return edit

    def each(activations: Tensor, _: Tensor) -> Tensor:
        segments = activations.split([part.count for part in parts])
        edits = [part.ask.edit.function for part in parts if part.ask.edit is not None]
        return torch.cat([function(s, i) for function, s, i in zip(edits, segments, index, strict=True)])

    return Edit(edit.layer, each)


def _score(part: Part, values: list[Tensor], rows: slice, index: Tensor) -> Tensor | None:
    ask = part.ask
    if ask.score is None or not ask.want & (SCORE | GRAD):
        return None
    own = [value[rows] for value in values]
    score = ask.score(own[0] if isinstance(ask.at, str) else tuple(own), index)
    if score.shape != (part.count,):
        raise ValueError(f"a score of {part.count} rows has shape {tuple(score.shape)}")
    return score


def _gradient(scores: Sequence[Tensor | None], act: Tensor | None) -> Tensor:
    assert act is not None
    total = torch.stack([score.sum() for score in scores if score is not None]).sum()
    (grad,) = torch.autograd.grad(total, act, allow_unused=True) if total.requires_grad else (None,)
    return torch.zeros_like(act) if grad is None else grad


def _answer(
    ask: Ask, values: list[Tensor], act: Tensor | None, grad: Tensor | None, score: Tensor | None, rows: slice
) -> Answer:
    out = tuple(_apart(value[rows]) for value in values) if ask.want & OUT else None
    return Answer(
        score=_apart(score) if ask.want & SCORE and score is not None else None,
        out=out[0] if out is not None and isinstance(ask.at, str) else out,
        act=_apart(act[rows]) if ask.want & ACT and act is not None else None,
        grad=_apart(grad[rows]) if grad is not None else None,
    )


def _apart(value: Tensor) -> Tensor:
    """A copy in the contiguous layout, so that it keeps no batch alive, in float32 or wider."""
    return _wide(value.detach()).clone(memory_format=torch.contiguous_format)


def _wide(value: Tensor) -> Tensor:
    """The values in float32 or wider, because scores and methods do not compute in a model's half precision."""
    return value.to(torch.promote_types(value.dtype, torch.float32)) if value.is_floating_point() else value


def _channels_last(rows: Tensor) -> Tensor:
    return rows.contiguous(memory_format=torch.channels_last) if rows.dim() == 4 else rows


def _rows(part: Part) -> Iterator[Part]:
    return (replace(part, start=i, stop=i + 1) for i in range(part.start, part.stop))


@contextmanager
def _own_inputs(graph: Graph) -> Iterator[None]:
    """Reports an index beyond the end of a table as InvalidArgument: it comes from another input than the image."""
    try:
        yield
    except IndexError as error:
        if not graph.inputs:
            raise
        names = " or ".join(f"inputs[{name}]" for name in graph.inputs)
        message = f"{names} has numbers that the model has no entry for ({error})"
        raise InvalidArgument(message, violations=[("inputs", message)]) from error


@contextmanager
def _own_size(graph: Graph, rows: Tensor) -> Iterator[None]:
    """Reports a failure at another size than the recorded one as an unsupported size."""
    try:
        yield
    except RuntimeError as error:
        if rows.dim() != 4 or rows.shape[2:] == graph.size or ruinous(error):
            raise
        raise graph.unfit(tuple(rows.shape[2:])) from error


@contextmanager
def _memory() -> Iterator[None]:
    """Raises `OutOfMemory` for each of the errors by which devices report it."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory("the device has not enough memory for this request; send a smaller image") from error
    except RuntimeError as error:
        if "can't allocate memory" in str(error) or "not enough memory" in str(error):
            raise OutOfMemory("there is not enough memory for this request; send a smaller image") from error
        raise
