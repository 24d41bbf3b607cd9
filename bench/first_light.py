"""What an explanation costs on ResNet-18 at 224: `python -m bench.first_light`.

The network has random weights; Lightwell explains its scripted file, the peers the eager network itself.

- Saliency: Captum's on the eager network behind the same normalisation, over ours on the lifted file; the same
  pictures, the same target, the absolute gradient of all colours. Without a target Captum first needs a forward pass
  to find the class; ours takes the maximum in the same pass.
- Grad-CAM at layer4, ours and pytorch-grad-cam's, over a bare forward pass of the eager network without gradients on
  pictures that are normalised already.
- Served: maps a second of a server process, asked by a client process with 16 requests in flight, over those of the
  same engine driven in a process of its own without gRPC and without messages. Server and client share the cores.
- Beside: the 95th percentile of a saliency map's time beside four running style transfers, over the same alone plus
  the transfers' longest device step; in process, through the engine.

Times are medians of calls in turn.
"""

from __future__ import annotations

import copy
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from captum.attr import Saliency
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from bench.common.nets import SAMPLE, Normalised, deployed
from bench.common.table import Goal, Row, medians, ms, print_goals, report, table
from bench.device.beside import TRANSFERS, latencies, p95
from bench.device.engine import pictures
from bench.device.serving import throughputs
from lightwell_server.contract import ACT, GRAD, Answer, Ask, ClassTarget, Part
from lightwell_server.models.answer import answer
from lightwell_server.models.graph import Graph
from lightwell_server.models.store import Model, load_version

TARGET = 3
FASTER = {1: 1.1, 8: 1.25}
"""How much faster than Captum a saliency map shall be, by batch."""
ROUNDS = {1: 30, 8: 8}
"""Calls of each contestant, by batch."""
IN_FLIGHT = 16
Call = Callable[[], Tensor]


def asked(graph: Graph, ask: Ask) -> Answer:
    """One Ask in one step."""
    (answered,) = answer(graph, [Part(ask, 0, ask.count)])
    return answered


def saliencies(graph: Graph, net: nn.Module, rows: Tensor, target: int | None) -> tuple[Call, Call]:
    """Captum's saliency and ours; with no target, of each row's highest class."""
    eager = Normalised(net).eval().to(rows.dtype)
    peer, score = Saliency(eager), ClassTarget(target).score

    def captum() -> Tensor:
        with torch.no_grad():
            wanted = eager(rows).argmax(1) if target is None else target
        values: Tensor = peer.attribute(rows.requires_grad_(), target=wanted)
        return values

    def ours() -> Tensor:
        grad = asked(graph, Ask(rows.detach(), score, want=GRAD)).grad
        assert grad is not None
        return grad.abs()

    return captum, ours


def grad_cams(graph: Graph, net: nn.Module, rows: Tensor) -> tuple[Call, Call, Call]:
    """A bare forward pass, pytorch-grad-cam's Grad-CAM and ours."""
    normal = SAMPLE.normalise(rows)
    hooked = copy.deepcopy(net)  # its hooks must not slow the bare network
    peer, targets = GradCAM(hooked, [hooked.get_submodule("layer4")]), [ClassifierOutputTarget(TARGET)] * len(rows)

    def bare() -> Tensor:
        with torch.no_grad():
            scores: Tensor = net(normal)
        return scores

    def ours() -> Tensor:
        given = asked(graph, Ask(rows, ClassTarget(TARGET).score, wrt="layer4", want=ACT | GRAD))
        assert given.act is not None and given.grad is not None
        return (given.grad.mean((2, 3), keepdim=True) * given.act).sum(1).relu()

    return bare, lambda: torch.from_numpy(peer(normal, targets=targets)), ours


def agreement(graph: Graph, net: nn.Module) -> float:
    """How far the saliency maps of both lie apart in float64, as a share of the largest value. (In float32 a ReLU whose
    input is all but zero may fall either way, which changes the gradient around a whole window.)"""
    rows = pictures(8).double() / 255
    captum, ours = saliencies(graph, copy.deepcopy(net).double(), rows, TARGET)
    theirs = captum().detach()
    return float((theirs - ours()).abs().max() / theirs.abs().max())


def saliency_rows(graph: Graph, net: nn.Module) -> Iterator[Row]:
    """The lines and goals of saliency beside Captum's."""
    for target in (TARGET, None):
        for batch, bound in FASTER.items():
            captum, ours = saliencies(graph, net, pictures(batch).float() / 255, target)
            seconds = medians({"captum": captum, "ours": ours}, ROUNDS[batch])
            ratio = seconds["captum"] / seconds["ours"]
            name = f"saliency, batch {batch}{'' if target is not None else ', no target'}"
            times = ms(seconds["ours"]), f"Captum {ms(seconds['captum'])}"
            goal = Goal(f"{name}: Captum / ours", ratio, bound, True) if target is not None else None
            yield (name, *times, f"Captum / ours {ratio:.2f}", ""), goal


def grad_cam_rows(graph: Graph, net: nn.Module) -> Iterator[Row]:
    """The lines and goals of Grad-CAM beside a bare forward pass."""
    for batch in FASTER:
        bare, peer, ours = grad_cams(graph, net, pictures(batch).float() / 255)
        seconds = medians({"bare": bare, "peer": peer, "ours": ours}, ROUNDS[batch])
        ratio, theirs = seconds["ours"] / seconds["bare"], seconds["peer"] / seconds["bare"]
        name = f"grad_cam layer4, batch {batch}"
        times = ms(seconds["ours"]), f"bare forward {ms(seconds['bare'])}"
        line = name, *times, f"ours / forward {ratio:.2f}", f"pytorch-grad-cam / forward {theirs:.2f}"
        yield line, Goal(f"{name}: ours / bare forward", ratio, 1.1, False)


def served_row(repository: Path, model: Model) -> Row:
    """The line and goal of what serving costs."""
    found = throughputs(repository, model, IN_FLIGHT, ["tensor"], count=48)
    served, driven = found["tensor"], found["driven"]
    name, share = f"served, {IN_FLIGHT} in flight", served / driven
    beside, ratio = f"in process {driven:.1f} maps/s", f"served / in process {share:.2f}"
    line = name, f"{served:.1f} maps/s", beside, ratio, "server and client share the cores"
    return line, Goal(f"{name}: served / in process", share, 0.85, True)


def beside_row(model: Model) -> Row:
    """The line and goal of latency beside style transfers."""
    seen = latencies(model)
    name, excess = f"saliency p95 beside {TRANSFERS} style transfers", p95(seen.beside) / seen.bound
    alone, ratio = f"alone {ms(p95(seen.alone))}", f"beside / (alone + longest step) {excess:.2f}"
    steps = f"their step: p95 {ms(p95(seen.steps))}, longest {ms(max(seen.steps))}"
    line = name, ms(p95(seen.beside)), alone, ratio, steps
    return line, Goal(f"{name}: / (p95 alone + longest step)", excess, 1.5, False)


def main() -> int:
    """Measures and prints; returns 1 if a goal is missed."""
    warnings.simplefilter("ignore")
    with report("First light: explanations of ResNet-18 at 224"), tempfile.TemporaryDirectory() as folder:
        net, model = deployed("resnet18", Path(folder))
        rows = [*saliency_rows(model.graph, net), *grad_cam_rows(model.graph, net)]
        rows += [served_row(Path(folder), model), beside_row(model)]
        print(table(("", "ours", "beside", "ratio", ""), [line for line, _ in rows]))
        double = load_version(Path(folder) / "resnet18" / "1", Path(folder), dtype=torch.float64).graph
        print(f"\nin float64 Captum's maps and ours differ by {agreement(double, net):.0e} of the largest value")
    goals = [goal for _, goal in rows if goal is not None]
    print_goals(goals)
    return int(not all(goal.met for goal in goals))


if __name__ == "__main__":
    sys.exit(main())
