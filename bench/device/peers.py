"""Methods of other libraries on an eager network, each as fast as it can be made."""

from __future__ import annotations

import contextlib
import copy
import io
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from captum.attr import IntegratedGradients, NoiseTunnel, Saliency
from pytorch_grad_cam import AblationCAM, ScoreCAM
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from bench.common.nets import SAMPLE, Normalised

LAYER = "layer4"
"""The last layer with height and width."""
LAYOUTS = {"rows": torch.contiguous_format, "channels last": torch.channels_last}
Call = Callable[[], Tensor]
"""Returns a map [H, W]."""


def integrated_gradients(net: nn.Module, image: Tensor, target: int, batch: int, steps: int) -> Call:
    """Captum's, by the same quadrature, the colours summed up."""
    peer = IntegratedGradients(Normalised(net))
    return lambda: peer.attribute(image, target=target, n_steps=steps, internal_batch_size=batch)[0].sum(0)


def smooth_grad(net: nn.Module, image: Tensor, target: int, batch: int, samples: int, noise: float) -> Call:
    """Captum's, the largest of the colours."""
    peer, deviation = NoiseTunnel(Saliency(Normalised(net))), noise * float(image.max() - image.min())
    given = {"nt_type": "smoothgrad", "nt_samples": samples, "nt_samples_batch_size": batch, "stdevs": deviation}
    return lambda: peer.attribute(image, target=target, **given)[0].amax(0)


def score_cam(net: nn.Module, image: Tensor, target: int, batch: int) -> Call:
    """pytorch-grad-cam's."""
    return _cam(ScoreCAM(net, [net.get_submodule(LAYER)]), image, target, batch)


def ablation_cam(net: nn.Module, image: Tensor, target: int, batch: int) -> Call:
    """pytorch-grad-cam's."""
    return _cam(AblationCAM(net, [net.get_submodule(LAYER)]), image, target, batch)


def _cam(peer: BaseCAM, image: Tensor, target: int, batch: int) -> Call:
    peer.batch_size = batch
    normal, targets = SAMPLE.normalise(image), [ClassifierOutputTarget(target)]

    def call() -> Tensor:
        with contextlib.redirect_stderr(io.StringIO()):  # it draws bars
            return torch.from_numpy(peer(normal, targets=targets)[0])

    return call


@dataclass(frozen=True)
class Peer:
    """A method of another library: who made it, how a call of it is `made` from a network, an image [1, 3, H, W], a
    class and the rows of its steps, and the parameters `given` to it and to ours. `same` are those for which both give
    one map, where they draw numbers of their own. `batches` are the rows of a step that are tried: few of those whose
    every call takes hundreds of passes."""

    library: str
    made: Callable[..., Call]
    given: Mapping[str, Any]
    same: Mapping[str, Any]
    batches: tuple[int, ...] = (1, 4, 8, 16, 32, 64)


PEERS = {
    "integrated_gradients": Peer("Captum", integrated_gradients, {"steps": 50}, {}),
    "smooth_grad": Peer("Captum", smooth_grad, {"samples": 25, "noise": 0.15}, {"noise": 0.0}),
    "score_cam": Peer("pytorch-grad-cam", score_cam, {}, {}, (8, 32)),
    "ablation_cam": Peer("pytorch-grad-cam", ablation_cam, {}, {}, (8, 32)),
}


def prepared(net: nn.Module, layout: str) -> nn.Module:
    """A copy that keeps no gradients of its parameters, in a memory layout."""
    mine = copy.deepcopy(net).eval().requires_grad_(False)
    return mine.to(memory_format=LAYOUTS[layout])


def settings(net: nn.Module, batches: tuple[int, ...]) -> Iterator[tuple[str, nn.Module, int]]:
    """All layouts and batch sizes that are tried, with their names."""
    for layout in LAYOUTS:
        for batch in batches:
            yield f"{layout}, batch {batch}", prepared(net, layout), batch


def fastest(calls: Mapping[str, Call], finalists: int = 2) -> dict[str, Call]:
    """Those that are fastest in a first look: a call each, behind one that warms."""
    seconds = {}
    next(iter(calls.values()))()
    for name, call in calls.items():
        began = time.perf_counter()
        call()
        seconds[name] = time.perf_counter() - began
    return {name: calls[name] for name in sorted(seconds, key=seconds.__getitem__)[:finalists]}
