"""What gradients over many copies, CAMs and guided backprop cost on ResNet-18 at 224: `python -m bench.explain`.

The network has random weights; Lightwell explains its scripted file, the peers the eager network itself, without
gradients of its parameters and behind the same normalisation.

- Lone requests, through the engine, in the chunks of its own that a server has: integrated gradients and SmoothGrad
  beside Captum's, Score-CAM and Ablation-CAM at the last layer beside pytorch-grad-cam's. Of all memory layouts and
  batch sizes the two in which a peer was fastest in a first look compete with ours in turn, and the faster counts.
- CAMs of eight requests whose Asks share each step, over a forward pass of the same eight rows through the same lifted
  graph, without gradients. Both are one step of as many rows: what differs is the method's own price. Eigen-CAM needs
  no gradient; it is shown.
- Guided backprop over plain saliency, of one request and of eight that share their step.

What is compared runs on one thread, the engine's. Before times are taken, a peer and ours must give the same map; the
last column has its correlation. SmoothGrad's is taken without noise, for each draws its own. Times are medians of calls
in turn.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.common.nets import SAMPLE, deployed
from bench.common.table import Goal, Row, medians, ms, print_goals, report, table
from bench.device.engine import TOP, Lone, pictures, together
from bench.device.peers import PEERS, Peer, fastest, settings
from lightwell_server.contract import OUT, Ask, ClassTarget, Explanation, Part
from lightwell_server.models.answer import answer
from lightwell_server.threads import single_threaded_pool

FASTER = {"integrated_gradients": 1.1, "smooth_grad": 1.1, "score_cam": 1.1, "ablation_cam": 2.0}
"""How much faster than its peer a lone request shall be."""
SAME = 0.98
"""The correlation from which on two maps are the same one, but for rounding."""
DEARER = {
    "cam": 1.1,
    "grad_cam": 1.25,
    "grad_cam_plus_plus": 1.25,
    "x_grad_cam": 1.25,
    "hires_cam": 1.25,
    "layer_cam": 1.25,
    "eigen_cam": None,
}
"""How many forward passes a CAM may cost."""
GUIDED = 1.1
"""How many plain gradients guided backprop may cost."""
SHARED = 8
"""Requests that share their steps."""


def alone(lone: Lone, net: nn.Module, name: str, peer: Peer, batches: tuple[int, ...], rounds: int = 5) -> Row:
    """The line and goal of a lone request beside its peer."""
    pixels = pictures(1)
    image = pixels.float() / 255
    target = lone.run(lambda: int(answer(lone.model.graph, [Part(Ask(image, want=OUT), 0, 1)])[0].out.argmax()))

    def ours(**given: object) -> Explanation:
        return lone.explained(name, pixels[0], target=ClassTarget(target), **given)

    def theirs(**given: object) -> dict[str, Callable[[], Tensor]]:
        made = {s: peer.made(each, image, target, batch, **given) for s, each, batch in settings(net, batches)}
        return {setting: partial(lone.run, call) for setting, call in made.items()}

    same = {**peer.given, **peer.same}
    alike = correlation(ours(**same), next(iter(theirs(**same).values()))())
    if alike < SAME:
        raise ValueError(f"{name} and {peer.library}'s differ: their correlation is {alike:.3f}")
    finalists = fastest(theirs(**peer.given))
    seconds = medians({"ours": partial(ours, **peer.given), **finalists}, rounds, warm=0)
    best = min(finalists, key=seconds.__getitem__)
    ratio = seconds[best] / seconds["ours"]
    times = ms(seconds["ours"]), f"{peer.library} {ms(seconds[best])} ({best})"
    line = name, *times, f"{peer.library} / ours {ratio:.2f}", f"correlation {alike:.4f}"
    return line, Goal(f"{name}: {peer.library} / ours", ratio, FASTER[name], True)


def correlation(ours: Explanation, theirs: Tensor) -> float:
    """Of our map, enlarged, and theirs [H, W]."""
    assert ours.map is not None
    values = F.interpolate(ours.map.values[None, None], size=theirs.shape, mode="bilinear", align_corners=False)
    return float(torch.corrcoef(torch.stack([values.flatten(), theirs.detach().flatten()]))[0, 1])


def cams(lone: Lone, net: nn.Module, shared: int = SHARED, rounds: int = 15) -> Iterator[Row]:
    """The lines and goals of CAMs beside a forward pass."""
    model, pixels = lone.model, pictures(shared)
    rows = pixels.float() / 255
    normal = SAMPLE.normalise(rows)

    def eager() -> Tensor:
        with torch.no_grad():
            scores: Tensor = net(normal)
        return scores

    ask = Ask(rows, TOP.score)
    calls: dict[str, Callable[[], object]] = {name: partial(together, model, name, pixels) for name in DEARER}
    calls |= {"forward": lambda: answer(model.graph, [Part(ask, 0, shared)]), "eager": eager}
    seconds = medians({name: partial(lone.run, call) for name, call in calls.items()}, rounds)
    single_threaded_pool = f"forward {ms(seconds['forward'])}, eager {ms(seconds['eager'])}"
    for name, bound in DEARER.items():
        ratio = seconds[name] / seconds["forward"]
        line = f"{name}, batch {shared}", ms(seconds[name]), single_threaded_pool, f"ours / forward {ratio:.2f}", ""
        yield line, None if bound is None else Goal(f"{line[0]}: ours / forward", ratio, bound, False)


def guided(lone: Lone, batches: tuple[int, ...] = (1, SHARED), rounds: int = 15) -> Iterator[Row]:
    """The lines and goals of guided backprop beside plain saliency."""
    for batch in batches:
        names = "guided_backprop", "saliency"
        calls = {name: partial(lone.run, partial(together, lone.model, name, pictures(batch))) for name in names}
        seconds = medians(calls, rounds)
        name, ratio = f"guided_backprop, batch {batch}", seconds["guided_backprop"] / seconds["saliency"]
        times = ms(seconds["guided_backprop"]), f"saliency {ms(seconds['saliency'])}"
        yield (name, *times, f"guided / plain {ratio:.2f}", ""), Goal(f"{name}: guided / plain", ratio, GUIDED, False)


def measured(folder: Path) -> list[Row]:
    """All lines and goals. The network is written and lifted on a thread of its own."""
    with single_threaded_pool(1, "lift") as loader:
        net, model = loader.submit(deployed, "resnet18", folder).result()
    lone = Lone(model)
    try:
        rows = [alone(lone, net, name, peer, peer.batches, rounds=3) for name, peer in PEERS.items()]
        return [*rows, *cams(lone, net), *guided(lone)]
    finally:
        lone.stop()


def main() -> int:
    """Measures and prints; returns 1 if a goal is missed."""
    warnings.simplefilter("ignore")
    title = "Explaining: gradients over many copies, CAMs and guided backprop of ResNet-18 at 224"
    with report(title), tempfile.TemporaryDirectory() as folder, single_threaded_pool(1, "bench") as thread:
        rows = thread.submit(measured, Path(folder)).result()
        print(table(("", "ours", "beside", "ratio", ""), [line for line, _ in rows]))
    goals = [goal for _, goal in rows if goal is not None]
    print_goals(goals)
    return int(not all(goal.met for goal in goals))


if __name__ == "__main__":
    sys.exit(main())
