#!/usr/bin/env bash
# torch 2.13.0 (the same in 2.14.1): a TorchScript file's gradient is another one from its second call on.
#
# Guess: a saved model is a fixed function, whose derivative at one input does not depend on how often it was called,
# and is the one that eager mode gives.
# Happens: the first call runs each operator by itself, with eager mode's formulas; by the second the profiling executor
# has built a differentiable subgraph, whose own formulas break ties otherwise. They meet wherever a value lies on the
# kink itself, as exact zeros (black pixels, padding, what a ReLU cut off) do. Scripted, traced and frozen files alike.
# At x = (-1, 0, 1, 6), where `hardtanh` is bounded by 0 and 6:
#
#   torch 2.13.0+cpu
#   hardtanh  eager [0.0, 0.0, 2.0, 0.0]  1st call [0.0, 0.0, 2.0, 0.0]  2nd and 3rd [0.0, 2.0, 2.0, 2.0]
#   threshold eager [0.0, 0.0, 2.0, 2.0]  1st call [0.0, 0.0, 2.0, 2.0]  2nd and 3rd [0.0, 2.0, 2.0, 2.0]
#   max       eager [0.0, 1.0, 2.0, 2.0]  1st call [0.0, 1.0, 2.0, 2.0]  2nd and 3rd [0.0, 0.0, 2.0, 2.0]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.2.6

cat >"$folder/see.py" <<'END'
import io
import sys

import torch
from torch.nn import functional


class Hardtanh(torch.nn.Module):
    def forward(self, x):
        return functional.hardtanh(x, 0.0, 6.0) * 2


class Threshold(torch.nn.Module):
    def forward(self, x):
        return functional.threshold(x * 1, 0.0, 0.0) * 2


class Maximum(torch.nn.Module):
    def forward(self, x):
        return torch.max(x, torch.zeros_like(x)) * 2


def through_a_file(module):
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    buffer.seek(0)
    return torch.jit.load(buffer)


def gradient(module):
    x = torch.tensor([-1.0, 0.0, 1.0, 6.0], requires_grad=True)
    return torch.autograd.grad(module(x).sum(), x)[0].tolist()


print("torch", torch.__version__)
for name, model, later in (
    ("hardtanh ", Hardtanh(), [0.0, 2.0, 2.0, 2.0]),
    ("threshold", Threshold(), [0.0, 2.0, 2.0, 2.0]),
    ("max      ", Maximum(), [0.0, 0.0, 2.0, 2.0]),
):
    eager = gradient(model)
    for file in (
        through_a_file(torch.jit.script(model)),
        through_a_file(torch.jit.trace(model, torch.ones(4))),
        through_a_file(torch.jit.freeze(torch.jit.script(model.eval()))),
    ):
        first, second, third = (gradient(file) for _ in range(3))
        if first != eager:
            sys.exit("changed: the first call does not give eager mode's gradient")
        if second != later or third != later:
            sys.exit(f"changed: the later calls give {second} and {third}")
    print(f"{name} eager {eager}  1st call {first}  2nd and 3rd {second}")
END
OMP_NUM_THREADS=1 "$folder/venv/bin/python" -W ignore "$folder/see.py"
