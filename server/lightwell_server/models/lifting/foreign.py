"""Identifies files that cannot be lifted by their content: those of other programs, or of torch without a network that
can be differentiated. Each answer completes a sentence that begins with the file's name."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Set
from pathlib import Path

EXPORT = "export the network with torch.jit.trace, torch.jit.script or torch.export and bring that file"

_OTHER = f"which is not torch's; where there is a network of torch, {EXPORT}"
_WEIGHTS = f"and no code; load them into their network; {EXPORT}"
_PACKED = "is packed; unpack it and bring the model inside"
_BEGINNINGS = (
    (0, b"version https://git-lfs", "is a Git LFS pointer, not the file itself; fetch that by git lfs pull"),
    (0, b"\x80", f"holds pickled weights or a pickled network, but no code; {EXPORT}"),
    (0, b"\x89HDF", f"is HDF5, as Keras writes it, {_OTHER}"),
    (0, b"\x08\x01\x12", f"is a SavedModel of TensorFlow, {_OTHER}"),
    (4, b"TFL3", f"is a model of TensorFlow Lite, {_OTHER}"),
    (4, b"ET1", f"is a program of ExecuTorch, compiled for phones, without gradients; {EXPORT}"),
    (0, b"GGUF", f"holds weights (GGUF) {_WEIGHTS}"),
    (0, b"\x93NUMPY", f"is an array of NumPy {_WEIGHTS}"),
    (0, b"\x1f\x8b", _PACKED),
    (0, b"BZh", _PACKED),
    (0, b"\xfd7zXZ", _PACKED),
    (0, b"7z\xbc\xaf", _PACKED),
    (257, b"ustar", _PACKED),
    (0, b"<", "is a page of HTML or XML, as a site may send one for a download; fetch the file itself"),
)
_ONNX = re.compile(rb"\x08[\x02-\x1f][\x12\x1a\x22\x28\x32\x3a\x42]")
"""The version of its format, and the tag of the field after it."""
_SAFETENSORS = re.compile(rb".{8}\{\s*\"", re.DOTALL)
READ = 512
"""The number of bytes by which a file that is not a zip archive is identified."""


def beginning(begins: bytes) -> str:
    """What a file is that is not a zip archive, by its first bytes."""
    for place, magic, description in _BEGINNINGS:
        if begins[place:].startswith(magic):
            return description
    if _ONNX.match(begins):
        return f"is an ONNX model, without operations of torch; {EXPORT}"
    if _SAFETENSORS.match(begins):
        return f"holds weights (safetensors) {_WEIGHTS}"
    return f"is no TorchScript archive and no torch.export program; {EXPORT}"


_MEMBERS = (
    (
        r"(^|/)data/aotinductor/|\.so$",
        "is compiled by AOTInductor for one kind of machine, without gradients; bring the program that it was compiled "
        "from, saved by torch.export.save",
    ),
    (
        r"^bytecode\.pkl$",
        "was saved for the lite interpreter without its code; bring the file that it was made of, saved by "
        "torch.jit.save",
    ),
    (r"(^|/)saved_model\.pb$", f"is a SavedModel of TensorFlow, {_OTHER}"),
    (r"^model\.weights\.h5$", f"is a model of Keras, {_OTHER}"),
    (r"(^|/)\.data/extern_modules$", f"is a package of torch.package, whose Python code is not run here; {EXPORT}"),
    (r"^MAR-INF/", "is an archive of TorchServe; unpack it and bring the TorchScript file inside"),
    (r"\.npy$", f"holds arrays of NumPy {_WEIGHTS}"),
    (r"\.(pt2?|pth|torchscript|ts|jit|ptl|onnx|h5|safetensors)$", _PACKED),
)


def members(names: Set[str]) -> str:
    """What a zip archive is that holds neither TorchScript nor a program, by the names of its members."""
    for pattern, description in _MEMBERS:
        if any(re.search(pattern, name) for name in names):
            return description
    return f"is a zip archive, but no model: it holds neither code nor a program; {EXPORT}"


_CODE = (
    (
        rb"ops\.mkldnn\.|ops\.prim\.\w*(mkldnn|MKLDNN)|torch\.cudnn_convolution_(add_)?relu\(",
        "was saved after torch.jit.optimize_for_inference, whose operations have no gradients; save the network before",
    ),
    (
        rb"ops\.(prepacked|(vulkan|metal)_prepack)\.|\.classes\.(xnnpack|vulkan|metal|_nnapi|__backends__)\.",
        "was saved for phones (XNNPACK, Vulkan, Metal, CoreML or another backend), without gradients; save the network "
        "before it is optimised or lowered for them",
    ),
    (rb"\.classes\.tensorrt\.", "was compiled by Torch-TensorRT, without gradients; save the network before"),
)


def compiled(path: Path) -> str | None:
    """What a TorchScript archive was compiled for, by its code; None if it calls torch's own operations."""
    with zipfile.ZipFile(path) as archive:
        sources = [archive.read(name) for name in archive.namelist() if "code/" in name and name.endswith(".py")]
    for pattern, description in _CODE:
        if any(re.search(pattern, source) for source in sources):
            return description
    return None
