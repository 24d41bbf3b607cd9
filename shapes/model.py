"""The small convolutional classifier of drawn pictures."""

from torch import Tensor, nn

from shapes.draw import CLASSES

_WIDTHS = (16, "pool", 32, "pool", 64, 64, "pool", 96, 96)


class Classifier(nn.Module):
    """Convolution blocks, their average over the picture, and one linear layer.

    Takes normalised pictures, float [N, 3, H, W] with H, W >= 32, and returns logits, float [N, len(CLASSES)].
    The three poolings leave a 12 x 12 map of a 96 x 96 picture, in which each cell sees 62 x 62 pixels: as much
    as the largest object, so that evidence stays where the object is.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        depth = 3
        for width in _WIDTHS:
            if isinstance(width, int):
                layers += [nn.Conv2d(depth, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
                depth = width
            else:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(depth, len(CLASSES))

    def forward(self, pictures: Tensor) -> Tensor:
        """Map normalised pictures [N, 3, H, W] to logits [N, classes]."""
        return self.scores(self.features(pictures))

    def scores(self, maps: Tensor) -> Tensor:
        """Map the last block's output, float [N, 96, H / 8, W / 8], to logits [N, classes]."""
        logits: Tensor = self.head(self.flatten(self.pool(maps)))
        return logits
