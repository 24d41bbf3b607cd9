"""A client in a process of its own: `python -m bench._asker ADDRESS IN_FLIGHT`.

For each number read from standard input it asks that many saliency maps of random pictures, sent as uint8 tensors,
and writes the seconds until the last map has arrived as an array.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from lightwell import Client, Saliency


def main() -> None:
    """Asks until its input ends."""
    address, in_flight = sys.argv[1], int(sys.argv[2])
    pictures = np.random.default_rng(0).integers(0, 256, (8, 3, 224, 224), dtype=np.uint8)
    with Client(address) as lightwell:
        for line in sys.stdin:
            asked = (pictures[i % len(pictures)] for i in range(int(line)))
            began = time.perf_counter()
            for seen in lightwell.explain_all(asked, Saliency(), fit="exact", concurrency=in_flight):
                assert seen.values.shape == (224, 224)
            print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main()
