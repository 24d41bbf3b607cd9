"""A client in a process of its own: `python -m bench.callers.asker ADDRESS IN_FLIGHT KIND`.

For each number read from standard input it asks that many saliency maps of random pictures, sent and answered as
KIND says, and writes the seconds until the last map has arrived as an array.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image as Pil

from lightwell import Client, Saliency
from lightwell.requests import ExplainOptions

PICTURES = 8
"""How many pictures are sent in turn."""
OVERLAY = ", overlay"
"""The end of a kind whose answers carry the map over the original picture, too, as a PNG."""


def tensors() -> Sequence[Any]:
    """Noise of 8 bits [3, 224, 224]."""
    return list(np.random.default_rng(0).integers(0, 256, (PICTURES, 3, 224, 224), dtype=np.uint8))


def photographs() -> Sequence[Any]:
    """JPEG files of 500 x 375 pixels: soft shapes under the noise of a camera."""
    return [_photograph(np.random.default_rng(seed)) for seed in range(PICTURES)]


def _photograph(rng: np.random.Generator) -> bytes:
    colors = Pil.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    shapes = np.asarray(colors.resize((500, 375), Pil.Resampling.BICUBIC), dtype=np.float32)
    noisy = np.clip(shapes + rng.normal(0, 4, shapes.shape), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Pil.fromarray(noisy).save(file, "JPEG", quality=90)
    return file.getvalue()


def sent(kind: str) -> tuple[Sequence[Any], ExplainOptions]:
    """The pictures and the options of a kind: `tensor` or `jpeg`, perhaps with OVERLAY."""
    form = kind.removesuffix(OVERLAY)
    options: ExplainOptions = {"pictures": ("overlay",) if kind != form else ()}
    if form == "tensor":
        return tensors(), {**options, "fit": "exact"}
    return photographs(), options


def main() -> None:
    """Asks until its input ends."""
    address, in_flight, kind = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    pictures, options = sent(kind)
    drawn = len(options["pictures"])
    with Client(address) as lightwell:
        for line in sys.stdin:
            asked = (pictures[i % len(pictures)] for i in range(int(line)))
            began = time.perf_counter()
            for seen in lightwell.explain_all(asked, Saliency(), concurrency=in_flight, **options):
                assert seen.values.shape == (224, 224) and len(seen.message.pictures) == drawn
            print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main()
