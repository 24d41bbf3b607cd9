"""Programs that were exported on an accelerator, moved to the CPU. torch loads a program's weights to the device that
its text names, and fails where that does not exist."""

from __future__ import annotations

import io
import logging
import re
import zipfile
from pathlib import Path

log = logging.getLogger(__name__)

_NAMES = rb"cuda|xpu|mps|hpu|npu|xla|privateuseone"
_IN_TEXT = re.compile(rb'"type":\s*"(?:' + _NAMES + rb')",\s*"index":\s*(?:\d+|null)')
"""A device in the JSON of a program."""
_IN_PICKLE = re.compile(rb"X.\0\0\0(?:" + _NAMES + rb")(?::\d+)?(?=[^:\d])", re.DOTALL)
"""The device of a tensor in a pickle: the opcode for a string, its length in four bytes, and the string."""


def on_cpu(path: Path) -> Path | io.BytesIO:
    """The file itself if it names no accelerator, else a copy in memory with everything on the CPU."""
    with zipfile.ZipFile(path) as archive:
        texts = (archive.read(name) for name in archive.namelist() if name.endswith(".json"))
        if not any(_IN_TEXT.search(text) for text in texts):
            return path
        log.warning("%s was exported on another device; it is read on the CPU", path.name)
        return io.BytesIO(_copied(archive))


def _copied(archive: zipfile.ZipFile) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as copy:
        for member in archive.infolist():
            copy.writestr(member.filename, _moved(member.filename, archive.read(member)))
    return buffer.getvalue()


def _moved(name: str, data: bytes) -> bytes:
    if name.endswith(".json"):
        return _IN_TEXT.sub(b'"type": "cpu", "index": null', data)
    if name.endswith("data.pkl"):
        return _IN_PICKLE.sub(b"X\3\0\0\0cpu", data)
    if name.endswith(".pt") and zipfile.is_zipfile(io.BytesIO(data)):  # tensors, in an archive of their own
        with zipfile.ZipFile(io.BytesIO(data)) as inner:
            return _copied(inner)
    return data
