"""Lifts files by the code of one tree: `python -P bench/files/lifter.py TREE`, the tree's packages being on PYTHONPATH.

For each path read from standard input it writes the processor seconds that lifting took, on one thread.
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from pathlib import Path

import torch

import lightwell_server
from lightwell_server.models.lifting.lift import Sample, lift


def main() -> None:
    """Answers until standard input ends."""
    tree, code = Path(sys.argv[1]).resolve(), Path(lightwell_server.__file__).resolve()
    if not code.is_relative_to(tree):
        sys.exit(f"the code is that of {code}, and not of {tree}")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    for line in sys.stdin:
        began = time.process_time()
        lift(Path(line.strip()), Sample())
        print(time.process_time() - began, flush=True)


if __name__ == "__main__":
    main()
