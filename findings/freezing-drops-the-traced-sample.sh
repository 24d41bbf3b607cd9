#!/usr/bin/env bash
# torch 2.13.0 (the same in 2.14.1): a traced file tells the shapes of its sample; freezing, and loading and saving,
# drop them.
#
# Guess: a TorchScript archive does not say which input its model takes.
# Happens: torch.jit.save of a trace writes the sample to traced_inputs.pkl, as tensors with their shape and dtype whose
# storages are empty (the values stay out), one list a traced method. A script has none, nor has the frozen trace, nor
# the trace saved again after it was loaded:
#
#   torch 2.13.0+cpu
#   traced          traced_inputs.pkl: [('FloatStorage', (1, 3, 7, 5))], bytes stored: 0
#   traced, frozen  no traced_inputs.pkl
#   traced, resaved no traced_inputs.pkl
#   scripted        no traced_inputs.pkl
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.2.6

cat >"$folder/see.py" <<'END'
import io
import pickle
import sys
import zipfile

import torch


def saved(module):
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    buffer.seek(0)
    return buffer


class Shapes(pickle.Unpickler):
    """Reads each tensor of the archive's pickle as (storage type, shape)."""

    def persistent_load(self, storage):
        return storage[1]

    def find_class(self, module, name):
        if name == "_rebuild_tensor_v2":
            return lambda storage, offset, shape, *rest: (storage, shape)
        if name == "restore_type_tag":
            return lambda value, tag: value
        if name == "OrderedDict":
            return dict
        return name


def sample(module):
    archive = zipfile.ZipFile(saved(module))
    entries = {name.split("/", 1)[1]: name for name in archive.namelist()}
    if "traced_inputs.pkl" not in entries:
        return "no traced_inputs.pkl"
    inputs = Shapes(io.BytesIO(archive.read(entries["traced_inputs.pkl"]))).load()["forward"]
    stored = sum(archive.getinfo(name).file_size for key, name in entries.items() if key.startswith("traced_inputs/"))
    return f"traced_inputs.pkl: {inputs}, bytes stored: {stored}"


print("torch", torch.__version__)
model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()).eval()
traced = torch.jit.trace(model, torch.rand(1, 3, 7, 5))
for name, module, expected in (
    ("traced", traced, "traced_inputs.pkl: [('FloatStorage', (1, 3, 7, 5))], bytes stored: 0"),
    ("traced, frozen", torch.jit.freeze(traced), "no traced_inputs.pkl"),
    ("traced, resaved", torch.jit.load(saved(traced)), "no traced_inputs.pkl"),
    ("scripted", torch.jit.script(model), "no traced_inputs.pkl"),
):
    seen = sample(module)
    print(f"{name:<15} {seen}")
    if seen != expected:
        sys.exit(f"changed: {name}")
END
OMP_NUM_THREADS=1 "$folder/venv/bin/python" -W ignore "$folder/see.py"
