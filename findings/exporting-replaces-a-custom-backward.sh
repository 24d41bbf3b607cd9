#!/usr/bin/env bash
# torch 2.13.0 (the same in 2.14.1): torch.export silently replaces the backward of an autograd.Function.
#
# Guess: a custom backward (gradient reversal, a straight-through estimator) is kept, or refused as TorchScript refuses
# it when such a trace is saved.
# Happens: the export walks into `forward` and keeps its operators, and the program's gradient is theirs: a reversed
# gradient changes its sign, a straight-through one is zero. Values are the same, nothing warns, `strict` or not. The
# derivatives of 3 * reverse(x) and of 3 * straight_through(x):
#
#   torch 2.13.0+cpu
#   Reverse          model -3.0  exported 3.0  strict 3.0
#   StraightThrough  model 3.0  exported 0.0  strict 0.0
#   torch.jit.save of the trace: Could not export Python function call 'Reverse'.
#   torch.jit.save of the trace: Could not export Python function call 'StraightThrough'.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.2.6

cat >"$folder/see.py" <<'END'
import io
import sys

import torch


class Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.round(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Model(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return 3 * self.function.apply(x)


def derivative(module):
    x = torch.tensor([1.25], requires_grad=True)
    return torch.autograd.grad(module(x).sum(), x)[0].item()


print("torch", torch.__version__)
refusals = []
for function, written, replaced in ((Reverse, -3.0, 3.0), (StraightThrough, 3.0, 0.0)):
    model, x = Model(function), torch.tensor([1.25])
    eager = derivative(model)
    programs = [torch.export.export(model, (x,), strict=strict).module() for strict in (False, True)]
    exported, strict = (derivative(program) for program in programs)
    print(f"{function.__name__:<16} model {eager}  exported {exported}  strict {strict}")
    if eager != written:
        sys.exit("changed: the model itself does not use the custom backward")
    if any(not torch.equal(program(x), model(x)) for program in programs):
        sys.exit("changed: the exported program gives another value")
    if (exported, strict) != (replaced, replaced):
        sys.exit("changed: the exported program keeps the custom backward, or has another")
    try:
        torch.jit.save(torch.jit.trace(model, x), io.BytesIO())
    except RuntimeError as refusal:
        refusals.append(str(refusal).strip().split(" Remove")[0])
    else:
        sys.exit("changed: a trace with a custom backward can be saved")
for refusal in refusals:
    print("torch.jit.save of the trace:", refusal)
END
OMP_NUM_THREADS=1 "$folder/venv/bin/python" -W ignore "$folder/see.py"
