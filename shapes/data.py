"""Sets of drawn pictures as tensors, their normalisation and their augmentation."""

import multiprocessing
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from shapes.draw import picture

SIZE = 96
"""Side of the training pictures, in pixels."""


class Pictures(NamedTuple):
    """Drawn pictures, uint8 [N, 3, 96, 96], the objects' masks, uint8 0 or 1 [N, 1, 96, 96], and classes, int64 [N]."""

    pixels: Tensor
    masks: Tensor
    labels: Tensor


class Norm(NamedTuple):
    """Mean and standard deviation of each channel on the scale 0..1, float [3, 1, 1]."""

    mean: Tensor
    std: Tensor

    def __call__(self, batch: Tensor) -> Tensor:
        """Normalise float pictures [N, 3, H, W] in 0..1."""
        return (batch - self.mean) / self.std


def drawn(seeds: range) -> Pictures:
    """Draw one picture a seed, on all cores."""
    pixels = torch.empty(len(seeds), 3, SIZE, SIZE, dtype=torch.uint8)
    masks = torch.empty(len(seeds), 1, SIZE, SIZE, dtype=torch.uint8)
    labels = torch.empty(len(seeds), dtype=torch.int64)
    with multiprocessing.Pool() as workers:
        for row, (image, label, mask) in enumerate(workers.imap(picture, seeds, chunksize=64)):
            pixels[row] = torch.from_numpy(image).permute(2, 0, 1)
            masks[row, 0] = torch.from_numpy(mask)
            labels[row] = label
    return Pictures(pixels, masks, labels)


def statistics(pixels: Tensor) -> Norm:
    """Measure the channels of uint8 pictures, to the four digits that the card keeps."""
    scaled = pixels[::8].float() / 255  # an eighth of them tells four digits
    mean, std = scaled.mean((0, 2, 3)), scaled.std((0, 2, 3))
    return Norm(mean.view(3, 1, 1).round(decimals=4), std.view(3, 1, 1).round(decimals=4))


def turned(batch: Tensor) -> Tensor:
    """Mirror and turn a batch [N, C, H, H] by a random multiple of 90 degrees; no class depends on either."""
    mirrored = batch.flip(3) if torch.rand(()) < 0.5 else batch
    return mirrored.rot90(int(torch.randint(4, ())), (2, 3))


def roughened(batch: Tensor) -> Tensor:
    """Blur, dim and roughen float pictures in 0..1, so that the model meets more than the drawing gives."""
    if torch.rand(()) < 0.3:
        batch = functional.avg_pool2d(functional.pad(batch, (1, 1, 1, 1), mode="reflect"), 3, stride=1)
    one = (len(batch), 1, 1, 1)
    contrast, light = 0.7 + 0.6 * torch.rand(one), 0.3 * torch.rand(one) - 0.15
    noise = 0.06 * torch.rand(one) * torch.randn_like(batch)
    return ((batch - 0.5) * contrast + 0.5 + light + noise).clamp(0, 1)
