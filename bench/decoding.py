"""What it costs to bring an image file to a model's input: `python -m bench.decoding`.

The files are synthetic photographs (noise of many scales, shapes with edges, grain): JPEG of quality 90 and 4:2:0, and
PNG. The card's habits: the shorter side to 256, bilinear with antialiasing, the middle 224 x 224.

- Decoding: Lightwell's, which is Pillow's, beside simplejpeg, OpenCV and torchvision, each into the same RGB
  picture of Pillow, and the same fit behind it. The difference is the largest of its pixels from Pillow's. A peer is
  worth a dependency where it is exact and saves a tenth of decoding and fitting.
- Resizing: Pillow's, to whose pixels cards are exact, beside torch's on 8 bits.
- Encoding: a Grad-CAM-like overlay as PNG at two levels of compression.

Needs `pip install simplejpeg opencv-python-headless`. Everything runs on one thread, as each request's picture does.
Times are medians of calls in turn.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from functools import partial

import cv2
import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image as Pil
from PIL import ImageDraw, ImageFilter
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image

from bench.common.table import Goal, medians, print_goals, report, table
from lightwell.pictures import render
from lightwell.v1 import types_pb2 as types
from lightwell_server.codec import pictures
from lightwell_server.codec.images import Decoded
from lightwell_server.codec.pictures import Fit

Bytes = NDArray[np.uint8]
Decode = Callable[[bytes], Pil.Image]
OURS = "Lightwell (Pillow)"
FIT = Fit((224, 224), 256)
SIZES = {(500, 375): 201, (1920, 1080): 31, (4000, 3000): 11}
"""Width and height of the photographs, and the calls of each contestant."""
WORTH = 1 / 0.9
"""How many times longer decoding and fitting takes than with an exact peer that saves a tenth of it."""
LEVELS = (1, 3)
"""Of compression; pictures are sent at the last."""


def photograph(width: int, height: int) -> Pil.Image:
    """Noise of many scales, ellipses and lines with sharp edges, and grain."""
    rng = np.random.default_rng(0)
    scene = np.full((height, width, 3), 128.0)
    for step in (256, 64, 16, 4):
        coarse = rng.normal(0, 1, (height // step + 2, width // step + 2, 3))
        scene += 9 * step**0.25 * np.stack([_enlarged(coarse[..., c], width, height) for c in range(3)], axis=2)
    picture = Pil.fromarray(scene.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for _ in range(60):
        (left, right), (top, bottom) = (np.sort(rng.integers(0, side, 2)).tolist() for side in (width, height))
        colour = tuple(rng.integers(0, 256, 3).tolist())
        draw.ellipse((left, top, (3 * left + right) // 4, (3 * top + bottom) // 4), fill=colour)
        draw.line((left, top, right, bottom), fill=colour, width=max(1, height // 400))
    lens = np.asarray(picture.filter(ImageFilter.GaussianBlur(0.7)))
    return Pil.fromarray((lens + rng.normal(0, 3, lens.shape)).clip(0, 255).astype(np.uint8))


def _enlarged(noise: NDArray[np.float64], width: int, height: int) -> NDArray[np.float32]:
    return np.asarray(Pil.fromarray(noise.astype(np.float32)).resize((width, height), Pil.Resampling.BICUBIC))


def files() -> Iterator[tuple[str, bytes, int]]:
    """Name, bytes and rounds of each file."""
    for (width, height), rounds in SIZES.items():
        picture = photograph(width, height)
        yield f"JPEG {width} x {height}", encoded(picture, "JPEG", quality=90, subsampling="4:2:0"), rounds
        if width < 4000:
            yield f"PNG {width} x {height}", encoded(picture, "PNG"), rounds


def encoded(picture: Pil.Image, form: str, **options: object) -> bytes:
    """The picture as a file."""
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def by_simplejpeg(data: bytes) -> Pil.Image:
    """With its exact settings, which are its defaults."""
    return Pil.fromarray(simplejpeg.decode_jpeg(data, "RGB"))


def by_opencv(data: bytes) -> Pil.Image:
    """In the order of Pillow's colours."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert pixels is not None
    return Pil.fromarray(pixels)


def by_torchvision(data: bytes) -> Pil.Image:
    """Turned upright, as OpenCV does unasked."""
    given = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    pixels = decode_image(given, ImageReadMode.RGB, apply_exif_orientation=True)
    return Pil.fromarray(pixels.permute(1, 2, 0).numpy())


def decoders(name: str) -> dict[str, Decode]:
    """The contestants for a file."""
    peers: dict[str, Decode] = {"OpenCV": by_opencv, "torchvision": by_torchvision}
    if name.startswith("JPEG"):
        peers = {"simplejpeg": by_simplejpeg, **peers}
    return {OURS: lambda data: pictures.opened(data, "image"), **peers}


def fitted(decode: Decode, data: bytes) -> Tensor:
    """The model's input."""
    rows, _ = pictures.fitted(decode(data), FIT, "image")
    return rows


def difference(one: Pil.Image | Bytes, other: Pil.Image | Bytes) -> int:
    """The largest, in steps of 255ths."""
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other)).max())


def decoding_rows(name: str, data: bytes, rounds: int) -> Iterator[tuple[tuple[str, ...], float]]:
    """A line for each contestant, and how many times longer Lightwell takes; 0 where the contestant is not exact."""
    contestants = decoders(name)
    calls: dict[str, Callable[[], object]] = {}
    for who, decode in contestants.items():
        calls |= {f"decode {who}": partial(decode, data), f"both {who}": partial(fitted, decode, data)}
    seconds, own = medians(calls, rounds), contestants[OURS](data)
    for who, decode in contestants.items():
        apart, ratio = difference(decode(data), own), seconds[f"both {OURS}"] / seconds[f"both {who}"]
        times = _ms(seconds[f"decode {who}"]), _ms(seconds[f"both {who}"])
        yield (name, who, *times, f"{ratio:.2f}", str(apart)), 0.0 if apart else ratio


def resizing_row(picture: Pil.Image, rounds: int) -> tuple[str, ...]:
    """Pillow's resize beside torch's on the same 8 bits, stored as both like it."""
    scale = FIT.resize / min(picture.size)
    width, height = (int(side * scale + 1e-6) for side in picture.size)
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]  # channels last

    def by_pillow() -> Pil.Image:
        return picture.resize((width, height), Pil.Resampling.BILINEAR)

    def by_torch() -> Bytes:
        small = F.interpolate(pixels, size=(height, width), mode="bilinear", antialias=True)
        array: Bytes = small[0].permute(1, 2, 0).numpy()
        return array

    seconds = medians({"pillow": by_pillow, "torch": by_torch}, rounds)
    times, apart = (_ms(seconds["pillow"]), _ms(seconds["torch"])), difference(by_pillow(), by_torch())
    return f"{picture.width} x {picture.height}", *times, f"{seconds['pillow'] / seconds['torch']:.2f}", str(apart)


def overlay(picture: Pil.Image) -> Pil.Image:
    """A smooth map over the picture."""
    down, across = np.mgrid[-1:1:224j, -1:1:224j]
    values = np.exp(-3 * ((down - 0.2) ** 2 + (across + 0.1) ** 2)).astype(np.float32)
    _, placement = Decoded(picture, "image").fitted(FIT)
    return render.overlay(picture, values, types.Heatmap(enlargement=types.ENLARGEMENT_BILINEAR), placement)


def encoding_rows(picture: Pil.Image, rounds: int) -> Iterator[tuple[str, ...]]:
    """A line for each level of compression."""
    drawn = overlay(picture)
    calls: dict[str, Callable[[], bytes]] = {
        str(level): partial(encoded, drawn, "PNG", compress_level=level) for level in LEVELS
    }
    seconds = medians(calls, rounds, warm=1)
    for level, call in calls.items():
        yield f"{picture.width} x {picture.height}", level, _ms(seconds[level]), f"{len(call()) / 1e6:.2f}"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.2f} ms"


def main() -> int:
    """Measures and prints; returns 1 if a peer has become worth it."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with report("Decoding: image files as a model's input of 224 x 224"):
        goals = []
        lines: list[tuple[str, ...]] = []
        for name, data, rounds in files():
            measured = list(decoding_rows(name, data, rounds))
            lines += [line for line, _ in measured]
            best = max(ratio for _, ratio in measured)
            goals.append(Goal(f"{name}: Lightwell / best exact decoder", best, WORTH, False))
        print(table(("file", "decoder", "decode", "decode and fit", "Lightwell / it", "difference"), lines))
        resizing = [resizing_row(photograph(*size), rounds) for size, rounds in SIZES.items()]
        print("\n" + table(("resize to 256", "Pillow", "torch", "Pillow / torch", "difference"), resizing))
        encoding = [line for size in SIZES for line in encoding_rows(photograph(*size), 5)]
        print("\n" + table(("overlay as PNG", "level", "encode", "MB"), encoding))
    print_goals(goals)
    return int(not all(goal.met for goal in goals))


if __name__ == "__main__":
    sys.exit(main())
