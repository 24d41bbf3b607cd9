"""Libraries with operations of their own: torch knows these once the library is imported."""

from __future__ import annotations

import importlib
import re
import zipfile
from pathlib import Path

from lightwell_server.errors import Refused, last_line

PACKAGES = {
    "torchvision": "torchvision",
    "torchaudio": "torchaudio",
    "torchao": "torchao",
    "torch_scatter": "torch-scatter",
    "torch_sparse": "torch-sparse",
    "torch_cluster": "torch-cluster",
    "torch_spline_conv": "torch-spline-conv",
}
"""Module and package, by the namespace of the operations."""
_NAMED = re.compile(rb"\bops\.(" + "|".join(PACKAGES).encode() + rb")\.")


def imported(path: Path) -> None:
    """Imports the libraries whose operations a file uses. Raises `Refused` if one cannot be imported."""
    with zipfile.ZipFile(path) as archive:
        texts = (archive.read(name) for name in archive.namelist() if name.endswith((".py", ".json")))
        named = {found.decode() for text in texts for found in _NAMED.findall(text)}
    for name in sorted(named):
        try:
            importlib.import_module(name)
        except (ImportError, RuntimeError) as error:  # a library made for another version of torch
            raise Refused(
                f"{path.name} uses operations of {name}, which cannot be imported ({last_line(error)}); install "
                f"{PACKAGES[name]}, of the version that belongs to this torch, beside the server"
            ) from error
