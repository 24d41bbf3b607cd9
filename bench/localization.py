"""How often an explanation's maximum lies on the object: `python -m bench.localization`.

The bundled model explains 200 drawn pictures that it was not trained on, of which the object's mask is known. For
each method the map is enlarged to the picture's size, and its highest pixel is looked up in the mask. Beside it stand
chance (the masks' mean share of the picture) and the same architecture with random weights. Targets are left unset:
each map explains the class that the model itself prefers. Where several pixels share the maximum, the share of them
that lies on the mask counts, so that a map of zeros does as well as chance.

Of signed maps, too, it is the maximum that counts: for occlusion, the gradients times the image and integrated
gradients the pixel that speaks most for the class, however much another speaks against it; for guided Grad-CAM the one
whose brightening raises the score most. Where a gradient alone is shown its magnitude is taken, for its sign says only
in which direction a colour would have to change. Eigen-CAM shows what the layer saw, whatever the class. The map of
segmentation is that of saliency.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from google.protobuf.message import Message
from numpy.typing import NDArray

from bench.common.nets import export
from bench.common.table import Goal, print_goals, report, table
from lightwell import (
    AblationCam,
    Cam,
    Deconvnet,
    EigenCam,
    GradCam,
    GradCamPlusPlus,
    GuidedBackprop,
    GuidedGradCam,
    HiresCam,
    InputXGradient,
    IntegratedGradients,
    LayerCam,
    Occlusion,
    Saliency,
    ScoreCam,
    SmoothGrad,
    XGradCam,
)
from lightwell.serving import bundled
from lightwell_server.local import Local
from lightwell_server.models.store import Model, load_file, load_version
from shapes.draw import Mask, picture
from shapes.model import Classifier

PICTURES = 200
NEAR = 3
"""Pixels around the object in the second column."""
METHODS: dict[str, Message] = {
    "saliency": Saliency(),
    "input_x_gradient": InputXGradient(),
    "smooth_grad, 10 copies": SmoothGrad(samples=10),
    "integrated_gradients, 20 steps": IntegratedGradients(steps=20),
    "guided_backprop": GuidedBackprop(magnitude=True),
    "deconvnet": Deconvnet(magnitude=True),
    "cam": Cam(),
    "grad_cam": GradCam(),
    "grad_cam_plus_plus": GradCamPlusPlus(),
    "x_grad_cam": XGradCam(),
    "hires_cam": HiresCam(),
    "layer_cam": LayerCam(),
    "eigen_cam": EigenCam(),
    "ablation_cam": AblationCam(),
    "score_cam, 32 channels": ScoreCam(max_channels=32),
    "guided_grad_cam": GuidedGradCam(),
    "occlusion 16/8": Occlusion(window=16, stride=8),
}


@dataclass(frozen=True)
class Drawn:
    """A picture, its class, and its object's mask as it is and widened."""

    pixels: NDArray[np.uint8]
    label: int
    masks: tuple[Mask, Mask]


def drawn(seed: int) -> Drawn:
    """The picture of a seed; those below 2000 were kept from training."""
    pixels, label, mask = picture(seed)
    return Drawn(pixels, label, (mask, widened(mask, NEAR)))


def widened(mask: Mask, radius: int) -> Mask:
    """The mask and all pixels at most `radius` away from it."""
    height, width = mask.shape
    framed = np.pad(mask, radius)
    reach = range(-radius, radius + 1)
    shifts = [(y, x) for y in reach for x in reach if math.hypot(y, x) <= radius]
    views = [framed[radius + y : radius + y + height, radius + x : radius + x + width] for y, x in shifts]
    wide: Mask = np.logical_or.reduce(views)
    return wide


def hits(local: Local, method: Message, pictures: list[Drawn]) -> Iterator[tuple[float, float]]:
    """For each picture the share of the map's highest pixels that lies on the mask, and on the widened one."""
    seen = local.explain_all((each.pixels for each in pictures), method, fit="exact")
    for each, explanation in zip(pictures, seen, strict=True):
        highest = explanation.map == explanation.map.max()
        yield float(each.masks[0][highest].mean()), float(each.masks[1][highest].mean())


def rates(local: Local, method: Message, pictures: list[Drawn]) -> tuple[float, float]:
    """The mean hits in percent."""
    return _percent(list(hits(local, method, pictures)))


def chance(pictures: list[Drawn]) -> tuple[float, float]:
    """The masks' mean shares of the picture in percent: what a random pixel hits."""
    return _percent([(float(each.masks[0].mean()), float(each.masks[1].mean())) for each in pictures])


def accuracy(local: Local, pictures: list[Drawn]) -> float:
    """The share of the pictures whose class the model prefers, in percent."""
    seen = local.explain_all((each.pixels for each in pictures), Saliency(), fit="exact", predictions=1)
    right = [e.predictions[0].class_index == p.label for e, p in zip(seen, pictures, strict=True)]
    return 100 * sum(right) / len(right)


def _percent(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    on, near = (100 * float(np.mean(column)) for column in zip(*pairs, strict=True))
    return on, near


def random_twin(model: Model, folder: Path) -> Model:
    """The bundled model's architecture with random weights, under the same card."""
    torch.manual_seed(0)
    path = export(Classifier().eval(), "scripted", folder / "model.pt")
    return load_file(path, model.card, model.labels, "random", "1")


def main() -> int:
    """Measures and prints; returns 1 if a goal is missed."""
    model = load_version(bundled() / "shapes" / "1", bundled())
    pictures = [drawn(seed) for seed in range(PICTURES)]
    title = f"Localization: where the maps of the bundled model have their maximum, on {PICTURES} unseen pictures"
    with report(title), tempfile.TemporaryDirectory() as folder:
        with Local(model) as trained, Local(random_twin(model, Path(folder))) as untrained:
            both = {name: (rates(trained, m, pictures), rates(untrained, m, pictures)) for name, m in METHODS.items()}
            right = accuracy(trained, pictures), accuracy(untrained, pictures)
        print_rates(both, chance(pictures))
        print(f"\naccuracy on these pictures: {right[0]:.1f} %, with random weights {right[1]:.1f} %")
        print(f"standard error of a rate of 90 % on {PICTURES} pictures: {100 * math.sqrt(0.09 / PICTURES):.1f} points")
    goals = [Goal("grad_cam, maximum on the object", both["grad_cam"][0][0], 90, True, ".1f", " %")]
    print_goals(goals)
    return int(not all(goal.met for goal in goals))


def print_rates(both: dict[str, tuple[tuple[float, float], tuple[float, float]]], random: tuple[float, float]) -> None:
    """The table: a line for each method, and chance."""
    head = ("maximum, % of pictures", "on object", f"within {NEAR} px", "random weights", f"within {NEAR} px")
    rows = [(name, *(f"{rate:.1f}" for pair in pairs for rate in pair)) for name, pairs in both.items()]
    rows.append(("chance", *(f"{rate:.1f}" for rate in random), *(f"{rate:.1f}" for rate in random)))
    print(table(head, rows))


if __name__ == "__main__":
    sys.exit(main())
