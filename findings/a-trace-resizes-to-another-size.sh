#!/usr/bin/env bash
# torch 2.13.0 (the same in 2.14.1): a trace resizes some images to another size than the model it was traced from.
#
# Guess: tracing keeps interpolate(scale_factor, recompute_scale_factor=True) as it computes: floor(size * factor).
# Happens: eager mode, scripts and exports multiply in float64, while tracing records a product of float32 tensors. The
# two differ where rounding carries the product over a whole number, upwards for 0.7 and downwards for 1.05; the check
# that torch.jit.trace makes on the sample passes. Sizes 2 to 399 were compared:
#
#   torch 2.13.0+cpu
#   factor 0.7:  90 -> model 62, script 62, export 62, trace 63; other at [90, 170, 180, 330, 340, 350, 360]
#   factor 1.05: 60 -> model 63, script 63, export 63, trace 62; other at [60, 100, 120, 180, 200, 220,
#     240, 340, 360, 380]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.2.6

cat >"$folder/see.py" <<'END'
import sys

import torch
from torch.nn import functional


class Resize(torch.nn.Module):
    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return functional.interpolate(x, scale_factor=self.factor, recompute_scale_factor=True)


def height(module, size):
    return module(torch.rand(1, 1, size, 4)).shape[2]


print("torch", torch.__version__)
for factor, size, right, wrong in ((0.7, 90, 62, 63), (1.05, 60, 63, 62)):
    model, sample = Resize(factor), torch.rand(1, 1, 40, 4)
    rows = {2: torch.export.Dim.DYNAMIC}
    others = (torch.jit.script(model), torch.export.export(model, (sample,), dynamic_shapes=(rows,)).module())
    trace = torch.jit.trace(model, sample)
    script, export = (height(other, size) for other in others)
    seen = f"model {height(model, size)}, script {script}, export {export}, trace {height(trace, size)}"
    differ = [n for n in range(2, 400) if height(model, n) != height(trace, n)]
    print(f"factor {factor}: {size} -> {seen}; other at {differ}")
    if seen != f"model {right}, script {right}, export {right}, trace {wrong}":
        sys.exit("changed: the trace resizes as the model does, or another form has changed")
END
OMP_NUM_THREADS=1 "$folder/venv/bin/python" -W ignore "$folder/see.py"
