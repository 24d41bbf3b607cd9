"""Records a file as a graph: its operations, those before and after them, the choice of the output, and notes on what
was found. Nothing is verified yet."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from lightwell_server.models.graph import Graph
from lightwell_server.models.lifting import outputs, pixels
from lightwell_server.models.lifting.files import ModelFile
from lightwell_server.models.lifting.recorder import Misfit, Recorder
from lightwell_server.models.lifting.sample import Sample
from lightwell_server.models.lifting.scores import Scores, scores
from lightwell_server.models.lifting.views import Box
from lightwell_server.models.nodes import BATCH


@dataclass(frozen=True)
class Draft:
    """A graph that is not verified. `places` are the indices of its outputs among the file's, by path. `restored`
    computes the file's main output from the graph's."""

    graph: Graph
    places: dict[str, int]
    restored: Callable[[Tensor], Tensor]


def drafted(file: ModelFile, sample: Sample, fixed: int | None) -> Draft:
    """Records a file on a sample. Raises `Misfit` if no output has a row for each image."""
    recorder = Recorder(types={} if file.stored is file.dtype else {file.stored: file.dtype})
    first, *others = sample.rows(fixed or BATCH, dtype=file.dtype)
    rows = recorder.input("rows", first)
    boxes = [recorder.input(name, value) for name, value in zip(sample.inputs, others, strict=True)]
    names = {name: cast(fx.Node, box.node).name for name, box in zip(sample.inputs, boxes, strict=True)}
    _limited(file, rows, recorder)
    output = file.record([pixels.normalised(rows, sample, recorder), *boxes], recorder)
    given, paths = list(tree_leaves(output)), [""]
    if not isinstance(output, Box):  # recording does not keep the names
        paths = [path for path, _ in outputs.leaves(file.run(sample.example(fixed or 2, file.dtype)))]
    named = list(zip(paths if len(paths) == len(given) else map(str, range(len(given))), given, strict=True))
    index = outputs.chosen(named, sample.output, sample.kind, sample.scored)
    rows_given = given[index].value.shape[:1]
    if rows_given != (fixed or BATCH,):
        raise Misfit(
            f"the model gives {rows_given[0] if rows_given else 'no'} rows for {fixed or BATCH}: no row is one image's"
        )
    main = _main(given[index], sample, recorder)
    recorder.graph.output(main.node)
    beside = _beside(named, index, fixed or BATCH, recorder) if sample.kind == "classifier" else {}
    graph = Graph(
        recorder.graph,
        recorder.root,
        main.node,
        recorder.sites,
        names,
        single=main.single,
        path=named[index][0],
        others=beside,
        weights=file.stored,
        dtype=file.dtype,
        fixed=fixed,
    )
    graph.activation = main.activation
    graph.notes = [*file.notes, *_notes(recorder), *main.notes]
    places = {path: i for i, (path, _) in enumerate(named) if i == index or path in beside}
    return Draft(graph, places, main.restored)


def _main(output: Box, sample: Sample, recorder: Recorder) -> Scores:
    """What the graph gives for the main output."""
    scored = sample.kind == "classifier" and output.value.dim() <= 2
    return scores(output, sample, recorder) if scored else Scores(pixels.pictured(output, sample, recorder))


def _beside(named: list[tuple[str, Any]], main: int, rows: int, recorder: Recorder) -> dict[str, fx.Node]:
    """The other outputs that can be explained: floating, with a row for each image."""
    return {
        path: recorder.node(box)
        for i, (path, box) in enumerate(named)
        if i != main and outputs.depends(box) and box.value.shape[:1] == (rows,)
    }


def _limited(file: ModelFile, rows: Box, recorder: Recorder) -> None:
    """Adds guards for the sizes that the file declares."""
    for dim, limit in file.limits.items():
        if dim < 2:
            continue
        size = recorder.size(rows, dim)
        recorder.operation = f"the program's own limits of {'height' if dim == 2 else 'width'}"
        recorder.decide(recorder.scalar(operator.ge, size, limit.least))
        recorder.decide(recorder.scalar(operator.eq, recorder.scalar(operator.mod, size, limit.step), 0))
        if limit.most is not None:
            recorder.decide(recorder.scalar(operator.le, size, limit.most))


def _notes(recorder: Recorder) -> Iterator[str]:
    if recorder.woken:
        places = ", ".join(dict.fromkeys(recorder.woken[:3]))
        yield f"{len(recorder.woken)} layers were left in training mode and are set to eval ({places})"
    if recorder.rounded:
        places = ", ".join(list(dict.fromkeys(recorder.rounded))[:3])
        yield (
            f"floor_divide of negative values rounds down ({places}); where the file is from torch 1.5 to 1.12, it "
            "rounded towards zero there: compare scores, and export the model anew if they differ"
        )
    if recorder.blocked:
        places = ", ".join(list(dict.fromkeys(recorder.blocked))[:3])
        yield f"no gradient passes the file's blocks of torch.no_grad() ({places}), as in the file itself"
