"""Files that hold no network to explain are told by their content, whatever they are called; what holds one is taken,
whatever it is called."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lightwell_server.errors import Refused
from lightwell_server.importing.add import Given, add
from lightwell_server.models.lifting import archive
from lightwell_server.models.lifting.lift import Sample, lift
from lightwell_server.models.store import files, load
from tests.models.test_refusals import rewritten
from tests.nets import PLAIN, Residual, export, seeded

SIDE = 16


def zipped(**members: bytes) -> bytes:
    """An archive with these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as written:
        for name, data in members.items():
            written.writestr(name, data)
    return buffer.getvalue()


def packed() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as written:
        written.addfile(tarfile.TarInfo("model.pt"))
    return buffer.getvalue()


def arrays() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, weight=np.ones(3))
    return buffer.getvalue()


ONNX = b"\x08\x0a\x12\x07pytorch\x1a\x052.6.0:\x80\x02\x0a\x20"
CONTENTS = {
    "git lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        "Git LFS .* git lfs pull",
    ),
    "onnx": (ONNX, "is an ONNX model"),
    "onnx without a producer": (b"\x08\x08\x3a\x40\x0a\x10", "is an ONNX model"),
    "saved model": (b"\x08\x01\x12\xa0\x01\x0a", "a SavedModel of TensorFlow, which is not torch's"),
    "saved model, zipped": (zipped(**{"net/saved_model.pb": b""}), "a SavedModel of TensorFlow"),
    "keras": (b"\x89HDF\r\n\x1a\n\0\0", "is HDF5, as Keras writes it"),
    "keras, zipped": (zipped(**{"config.json": b"{}", "model.weights.h5": b""}), "is a model of Keras"),
    "tensorflow lite": (b"\x1c\0\0\0TFL3\0\0", "TensorFlow Lite"),
    "executorch": (b"\x20\0\0\0ET12\0\0", "ExecuTorch, compiled for phones, without gradients"),
    "safetensors": (
        b"\x40\0\0\0\0\0\0\0" + json.dumps({"w": {"dtype": "F32"}}).encode(),
        r"weights \(safetensors\) and no",
    ),
    "gguf": (b"GGUF\3\0\0\0", r"weights \(GGUF\) and no code"),
    "numpy": (b"\x93NUMPY\1\0", "an array of NumPy and no code"),
    "numpy, zipped": (arrays(), "arrays of NumPy and no code"),
    "gzip": (b"\x1f\x8b\x08\0", "is packed; unpack it"),
    "tar": (packed(), "is packed; unpack it"),
    "zip": (zipped(**{"download/best.pt": b""}), "is packed; unpack it"),
    "a page": (b"<!DOCTYPE html><html><head><title>Sign in", "page of HTML .* fetch the file itself"),
    "torchserve": (zipped(**{"MAR-INF/MANIFEST.json": b"{}", "net.pt": b""}), "TorchServe; unpack it"),
    "torch.package": (
        zipped(**{"net/.data/extern_modules": b"", "net/models/model.pkl": b""}),
        "a package of torch.package",
    ),
    "aotinductor": (zipped(**{"net/data/aotinductor/model/k.so": b""}), "AOTInductor .* saved by torch.export.save"),
    "compiled library": (zipped(**{"net/k.so": b""}), "AOTInductor"),
    "lite interpreter": (
        zipped(**{"net/bytecode.pkl": b"", "net/data.pkl": b"", "net/constants.pkl": b""}),
        "lite interpreter without its code; bring .* saved by torch.jit.save",
    ),
    "torch 2.2": (
        zipped(**{"serialized_exported_program.json": b'{"schema_version": 1}', "version": b"1"}),
        r"too old for this torch .* again with torch 2\.6 or newer",
    ),
    "torch 2.4": (
        zipped(**{"serialized_exported_program.json": b'{"schema_version": {"major": 5}}', "version": b"5.3"}),
        r"too old for this torch .* again with torch 2\.6 or newer",
    ),
    "empty": (b"", "is empty; copy it again"),
    "anything": (b"not a model at all", "no TorchScript archive and no torch.export program"),
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_what_is_no_network_of_torch_is_told_by_its_content(tmp_path, kind):
    content, sentence = CONTENTS[kind]
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    refused(path, sentence)


def refused(path, sentence):
    with pytest.raises(Refused, match=sentence) as caught:
        lift(path, Sample((SIDE, SIDE), **PLAIN))
    told = str(caught.value)
    assert told.startswith(path.name) and "\n" not in told and len(told) < 300


def test_a_directory_is_no_file(tmp_path):
    refused(tmp_path, "is a directory; bring the model file in it")


COMPILED = {
    "for inference": ("ops.prim.mkldnn_convolution(x, x, None, [1], [0], [1], 1)", "optimize_for_inference.* before"),
    "for inference on a gpu": ("torch.cudnn_convolution_relu(x, x, None, [1], [0], [1], 1)", "optimize_for_inference"),
    "for phones": ("ops.prepacked.conv2d_clamp_run(x, x)", "for phones .* save the network before"),
    "for vulkan": ("ops.vulkan_prepack.run_conv2d_context(x, x)", "for phones"),
    "by a delegate": ("__torch__.torch.classes.__backends__.coreml(x)", "for phones .*CoreML"),
    "by tensorrt": ("__torch__.torch.classes.tensorrt.Engine(x)", "Torch-TensorRT"),
    "by an unknown compiler": ("__torch__.torch.classes.neuron.Model", "a class neuron.Model that this torch does not"),
}


@pytest.mark.parametrize("kind", COMPILED)
def test_what_was_compiled_has_no_gradients(tmp_path, kind):
    code, sentence = COMPILED[kind]
    script = export(nn.Sequential(nn.ReLU()).eval(), "scripted", tmp_path)
    line = f"    y = {code}\n" if "neuron" not in code else f"    y : {code} = x\n"
    path = rewritten(
        script,
        tmp_path / "model.pt",
        ".py",  # whatever TorchScript calls the module: it counts those that it has compiled
        lambda text: text.replace(b"    _0 = ", line.encode() + b"    _0 = "),
    )
    refused(path, sentence)


def test_a_program_that_cannot_be_read_prints_nothing(tmp_path, capfd):
    program = export(seeded(Residual), "pt2", tmp_path, torch.rand(2, 3, SIDE, SIDE))
    path = rewritten(program, tmp_path / "model.pt2", ".json", lambda text: text.replace(b'"graph_module"', b'"gone"'))
    refused(path, r"cannot be read \(.*(graph_module|gone).*\); export the network")
    assert capfd.readouterr() == ("", "")


def test_a_program_that_needs_a_gpu_to_be_read(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    told = archive.unreadable(Path("net.pt2"), "Attempting to deserialize object on a CUDA device")
    assert told == "net.pt2 was exported on a GPU and names it, and there is none here; export the network on the CPU"


def lite(folder):
    """What torch writes for phones besides: bytecode, and the code itself."""
    script = torch.jit.script(seeded(Residual))
    script._save_for_lite_interpreter(str(folder / "net.ptl"))
    return folder / "net.ptl"


def test_a_file_for_the_lite_interpreter_that_holds_its_code_is_lifted(tmp_path):
    graph = lift(lite(tmp_path), Sample((SIDE, SIDE), **PLAIN))
    assert graph.any_size and graph.layers


@pytest.mark.parametrize("name", ["net.ts", "net"])
def test_what_a_file_is_called_says_nothing(tmp_path, name):
    for form, file in (("scripted", "model.pt"), ("pt2", "model.pt2")):
        rows = torch.rand(2, 3, SIDE, SIDE)
        export(seeded(Residual), form, tmp_path, rows).rename(tmp_path / name)
        added = add(str(tmp_path / name), tmp_path / form, "", "", Given(size=(SIDE, SIDE)))
        assert added.model.id == "net@1"
        assert (tmp_path / form / "net" / "1" / file).exists()


def test_add_takes_no_foreign_file(tmp_path):
    (tmp_path / "net.pt").write_bytes(ONNX)
    with pytest.raises(ValueError, match=r"the model is refused: net\.pt is an ONNX model"):
        add(str(tmp_path / "net.pt"), tmp_path / "repository", "", "", Given())
    assert not (tmp_path / "repository").exists()


@pytest.mark.parametrize("suffix", ["torchscript", "ts", "jit", "ptl"])
def test_a_repository_holds_files_by_the_names_that_others_give_them(tmp_path, suffix):
    directory = tmp_path / "net" / "1"
    directory.mkdir(parents=True)
    lite(tmp_path).rename(directory / f"model.{suffix}")
    (directory / "card.toml").write_text(f"[input]\nsize = [{SIDE}, {SIDE}]\n")
    assert files(tmp_path) == {("net", "1"): directory / f"model.{suffix}"}
    assert load(tmp_path, "net", "1").facts.classes == 5
