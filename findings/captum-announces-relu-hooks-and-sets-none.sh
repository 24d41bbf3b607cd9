#!/usr/bin/env bash
# captum 0.9.0 with torch 2.13.0: guided backpropagation and deconvolution say that they hook, and return the plain
# gradient.
#
# Guess: on a model in which they find no ReLU to hook they raise, or say so.
# Happens: both warn "Setting backward hooks on ReLU activations", set none, and return what Saliency(abs=False) does,
# for a TorchScript file (its children are RecursiveScriptModule, also where the file calls them ReLU), for the module
# of an exported program (which has no activation modules) and for ReLU6, as in MobileNetV2. The weights are the same
# throughout; only nn.ReLU in eager mode is guided:
#
#   torch 2.13.0+cpu captum 0.9.0
#   eager, ReLU   GuidedBackprop differs from the gradient; Deconvolution differs from the gradient
#   eager, ReLU6  GuidedBackprop is the gradient; Deconvolution is the gradient
#   traced file   GuidedBackprop is the gradient; Deconvolution is the gradient
#   scripted file GuidedBackprop is the gradient; Deconvolution is the gradient
#   exported      GuidedBackprop is the gradient; Deconvolution is the gradient
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.2.6 captum==0.9.0

cat >"$folder/see.py" <<'END'
import io
import sys
import warnings

import captum
import torch
from captum.attr import Deconvolution, GuidedBackprop, Saliency
from torch import nn

ANNOUNCED = "Setting backward hooks on ReLU activations"


def network(activation):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), activation(), nn.Linear(32, 32), activation(), nn.Linear(32, 3)).eval()


def through_a_file(module):
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    buffer.seek(0)
    return torch.jit.load(buffer)


def is_plain(method, model, x):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        attribution = method(model).attribute(x.clone().requires_grad_(), target=1)
    if not any(ANNOUNCED in str(warning.message) for warning in caught):
        sys.exit(f"changed: {method.__name__} no longer announces hooks")
    return torch.equal(attribution, Saliency(model).attribute(x.clone().requires_grad_(), target=1, abs=False))


print("torch", torch.__version__, "captum", captum.__version__)
model = network(nn.ReLU)
x = torch.rand(2, 8)
for name, subject, plain in (
    ("eager, ReLU", model, False),
    ("eager, ReLU6", network(nn.ReLU6), True),
    ("traced file", through_a_file(torch.jit.trace(model, x)), True),
    ("scripted file", through_a_file(torch.jit.script(model)), True),
    ("exported", torch.export.export(model, (x,)).module(), True),
):
    seen = {method.__name__: is_plain(method, subject, x) for method in (GuidedBackprop, Deconvolution)}
    words = (f"{method} {'is' if same else 'differs from'} the gradient" for method, same in seen.items())
    print(f"{name:<13} {'; '.join(words)}")
    if any(same != plain for same in seen.values()):
        sys.exit(f"changed: {name}")
END
OMP_NUM_THREADS=1 "$folder/venv/bin/python" -W ignore "$folder/see.py"
