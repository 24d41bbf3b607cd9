"""pytorch-grad-cam's class activation maps of a twin's image, mended where they are not what they are called; each
subclass says why, and `MENDED` names what it stands for."""

from functools import cache
from unittest.mock import patch

import numpy as np
import pytorch_grad_cam as peers
import torch
import torch.nn.functional as F
from pytorch_grad_cam import ablation_cam
from pytorch_grad_cam.ablation_layer import AblationLayer
from pytorch_grad_cam.utils import svd_on_activations
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from lightwell.pictures.heatmap import bilinear
from tests.peers.captums import doubled
from tests.peers.twins import agree


class Precise:
    """NumPy, but that its single precision is double."""

    float32 = np.float64

    def __getattr__(self, name):
        return getattr(np, name)


class GradCAMPlusPlus(peers.GradCAMPlusPlus):
    """Its 1e-6 beside the squared gradients weighs more than gradients below 1e-3. Weights times units: of gradients
    in smaller units, and activations in larger ones, they are the same, and the epsilon is nothing."""

    UNIT = 2.0**40

    def get_cam_weights(self, x, layers, targets, activations, grads):
        return super().get_cam_weights(x, layers, targets, activations / self.UNIT, grads * self.UNIT) / self.UNIT


class XGradCAM(peers.XGradCAM):
    """Its 1e-7 beside the sum of a channel: of activations in smaller units it is nothing."""

    def get_cam_weights(self, x, layers, targets, activations, grads):
        return super().get_cam_weights(x, layers, targets, activations * 2.0**40, grads)


class EigenCAM(peers.EigenCAM):
    """Its sign is the decomposition's, which is arbitrary: here the map is high where the activations are strong. Its
    last step is in single precision."""

    def get_cam_image(self, x, layer, targets, activations, grads, eigen_smooth):
        with patch.object(svd_on_activations, "np", Precise()):
            cam = super().get_cam_image(x, layer, targets, activations, grads, eigen_smooth)
        return cam * np.sign((cam * np.abs(activations).mean(1)).sum())


class Zero(AblationLayer):
    """Sets the chosen channels to zero, as the paper does: pytorch-grad-cam does so only where the least activation is
    zero, and elsewhere sets them ten millions below it. `grid` tells whether they stand in front of height and
    width."""

    def __init__(self, channels, grid):
        super().__init__()
        self.channels, self.grid = channels, grid

    def set_next_batch(self, input_batch_index, activations, num_channels_to_ablate):
        row = activations[input_batch_index]
        self.activations = row.expand(num_channels_to_ablate, *row.shape).clone()

    def __call__(self, x):
        for row, index in zip(self.activations, self.indices, strict=False):
            (row if self.grid else row.T)[self.channels[index]] = 0
        return self.activations


class AblationCAM(peers.AblationCAM):
    """In double precision; and what is lost is divided by the score's magnitude: by the score itself, a negative one's
    map is turned round."""

    def get_cam_weights(self, x, layer, targets, activations, grads):
        with patch.object(ablation_cam, "np", Precise()), torch.no_grad():
            weights = super().get_cam_weights(x, layer, targets, activations, grads)
            return weights * np.sign(targets[0](self.model(x)[0]).item())


class ScoreCAM(peers.ScoreCAM):
    """It enlarges the channels from corner to corner: of channels that have the image's size already nothing is
    enlarged. Its 1e-8 beside their range is nothing for large units, if a channel of one value is zero; that of
    another value it would take for what rounding leaves of it. Its scores are in single precision."""

    def get_cam_weights(self, x, layer, targets, activations, grads):
        above = torch.from_numpy(activations - activations.min((2, 3), keepdims=True)) * 2.0**40
        large = F.interpolate(above, size=x.shape[2:], mode="bilinear", align_corners=False)
        with doubled():
            return super().get_cam_weights(x, layer, targets, large.numpy(), grads)


MENDED = {
    "grad_cam": peers.GradCAM,
    "grad_cam_plus_plus": GradCAMPlusPlus,
    "x_grad_cam": XGradCAM,
    "hires_cam": peers.HiResCAM,
    "layer_cam": peers.LayerCAM,
    "eigen_cam": EigenCAM,
    "ablation_cam": AblationCAM,
    "score_cam": ScoreCAM,
}
TRYING = ("ablation_cam", "score_cam")
"""They look at the picture once for each channel, all others once alone."""
ONE_PASS = [method for method in MENDED if method not in TRYING]


def laid_out(values):
    """A transformer's tokens [n, tokens, channels] as a square grid, the class token dropped; others as they are."""
    if values.dim() == 4:
        return values
    side = int((values.shape[1] - 1) ** 0.5)
    return values[:, 1:].transpose(1, 2).unflatten(2, (side, side))


def strongest(twin, layer, count):
    """The numbers of a layer's channels of the largest mean activation; all if `count` is None."""
    means = laid_out(twin.features(twin.image, [layer])[0])[0].mean((1, 2))
    return means.argsort(descending=True)[:count] if count else torch.arange(len(means))


def run(peer, x, target):
    """A peer's weighted sum of channels [h, w], before anything is cut off or rescaled; and its picture, rescaled and
    enlarged."""
    raw, own = [], peer.get_cam_image
    peer.get_cam_image = lambda *arguments: raw.append(own(*arguments)) or raw[-1]
    with peer:
        picture = peer(x, [ClassifierOutputTarget(target)])[0]
    return torch.as_tensor(raw[0][0]), picture


@cache
def cam(method, twin, layer, mended=True):
    """Map [h, w] and picture [H, W] of a method that looks at the picture once."""
    kind = MENDED[method] if mended else getattr(peers, MENDED[method].__name__)
    # Its backward stops at the layer only if something before it requires gradients: the image does.
    return run(kind(twin, [twin.layer(layer)], laid_out), twin.leaf, twin.top)


@cache
def tried(method, twin, layer, count, target=None, mended=True):
    """Map and picture of ablation_cam or score_cam over the `count` strongest channels. Score-CAM sets pixels to what
    the network calls zero: it is given the bare network."""
    channels = strongest(twin, layer, count)
    kind = MENDED[method] if mended else getattr(peers, MENDED[method].__name__)
    net, x = (twin.net, (twin.image - twin.zero) / twin.unit) if method == "score_cam" else (twin, twin.image)
    peer = kind(net, [twin.layer(layer)], lambda values: laid_out(values)[:, channels])
    if method == "ablation_cam" and mended:
        peer.ablation_layer = Zero(channels, twin.features(twin.image, [layer])[0].dim() == 4)
    return run(peer, x, twin.top if target is None else target)


def rescaled(values):
    """pytorch-grad-cam's way: the least value becomes 0 even where every value is positive, the largest very nearly
    1."""
    values = values - values.min()
    return values / (1e-7 + values.max())


def agree_cut_off(ours, raw, share=1e-8):
    """Fails unless what is left of a peer's map where it is positive is ours, to a share of the largest of all
    values."""
    agree(ours + raw.clamp(max=0), raw, share)


def agree_as_pictures(ours, picture):
    """Fails unless our map becomes a peer's picture [H, W] by the conventions of the peer.

    pytorch-grad-cam rescales the map before it enlarges it and again afterwards, both in float32 through OpenCV; we
    send the map as it is and enlarge it by the same bilinear rule.
    """
    assert ours.enlargement == "bilinear"
    enlarged = bilinear(rescaled(ours.values.numpy()).astype(np.float32), *picture.shape)
    assert np.abs(rescaled(enlarged) - picture).max() <= 1e-5  # of 1
