"""captum's attributions of a twin's image: as they are, or mended where its weights or its noise are not ours."""

from contextlib import contextmanager
from functools import cache

import captum.attr as captum
import torch
from captum.attr._utils.approximation_methods import approximation_parameters

from lightwell_server.contract import GRAD, Ask

RULES = {
    "gauss_legendre": "gausslegendre",
    "midpoint": "riemann_middle",
    "trapezoid": "riemann_trapezoid",
    "left": "riemann_left",
    "right": "riemann_right",
}


@contextmanager
def doubled():
    """Numbers that a peer makes itself are in double precision."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@cache
def attributed(method, twin, target=None, **options):
    """What a method of captum without parameters of its own makes of a network: [3, H, W]."""
    target = twin.top if target is None else target
    return getattr(captum, method)(twin).attribute(twin.leaf, target=target, **options)[0].detach()


@cache
def grad_cam(twin, layer):
    """captum's Grad-CAM with its negative values: [h, w]."""
    peer = captum.LayerGradCam(twin, twin.layer(layer))
    return peer.attribute(twin.leaf, target=twin.top)[0, 0].detach()


@cache
def guided_grad_cam(twin, layer, interpolation):
    """captum's Guided Grad-CAM: [3, H, W]."""
    peer = captum.GuidedGradCam(twin, twin.layer(layer))
    return peer.attribute(twin.leaf, target=twin.top, interpolate_mode=interpolation)[0].detach()


def integrated(twin, start, quadrature, steps):
    """captum's integrated gradients as they are: [3, H, W]."""
    peer = captum.IntegratedGradients(twin)
    options = {"n_steps": steps, "method": RULES[quadrature]}
    return peer.attribute(twin.leaf, baselines=start, target=twin.top, **options)[0].detach()


def well_integrated(twin, start, quadrature, steps):
    """captum's integrated gradients with weights that are not rounded, and that sum to one.

    It multiplies the gradients by weights in single precision. Here these are ones, and each point's score is
    multiplied by its weight beforehand. The weights of its trapezoid sum to (n - 1) / n.
    """
    with doubled():
        weights, places = (rule(steps) for rule in approximation_parameters(RULES[quadrature]))
    scale = torch.tensor(weights, dtype=twin.image.dtype)[:, None] / sum(weights)
    peer = captum.IntegratedGradients(lambda x: scale * twin(x))
    points = ([1.0] * steps, places)
    return peer._attribute((twin.leaf,), (start,), twin.top, n_steps=steps, step_sizes_and_alphas=points)[0][0].detach()


class Tunnel(captum.NoiseTunnel):
    """captum's NoiseTunnel through given rows: its own noise has an absolute deviation and is drawn in single
    precision."""

    def __init__(self, method, rows):
        super().__init__(method)
        self.rows = rows

    def _add_noise_to_input(self, image, deviation, count):
        assert count == len(self.rows)
        return self.rows


KINDS = {
    "smoothgrad": ({}, {"abs": True}),
    "smoothgrad_sq": ({"squared": True}, {"abs": False}),
    "vargrad": ({"variance": True}, {"abs": False}),
}
"""captum's names, with what they are here and what captum's saliency is told: its variance is that of the gradient,
whose sign counts."""
_known = {}


def smoothed(case, kind, samples):
    """Our attribution [3, H, W] and captum's of the same noisy copies, which are the same for every file of a
    network."""
    given, options = KINDS[kind]
    seen = []
    ours = case.ask("smooth_grad", seen=seen, samples=samples, noise=0.1, seed=5, channels="none", **given)
    (ask,) = (step for step, _ in seen if isinstance(step, Ask) and GRAD in step.want)
    rows = ask.rows.make(torch.arange(samples))
    if (case.twin, kind, samples) not in _known:
        peer = Tunnel(captum.Saliency(case.twin), rows)
        theirs = peer.attribute(case.image, nt_type=kind, nt_samples=samples, target=case.top, **options)
        _known[case.twin, kind, samples] = rows, theirs[0].detach()
    known, theirs = _known[case.twin, kind, samples]
    assert torch.equal(rows, known)
    return ours.tensors["attribution"], theirs
