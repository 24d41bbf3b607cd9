"""What a process of measurements keeps to itself."""

from __future__ import annotations

import logging
import warnings


def quiet() -> None:
    """Silences the exporter for the rest of the process: of files' names, and of sizes that it cannot solve for.

    It is for processes of their own; a program that goes on to other things would be left without its warnings.
    """
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
