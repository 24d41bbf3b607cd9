#!/usr/bin/env bash
# torch 2.13.0 (the same in 2.14.1): a decomposed export computes the same values and another gradient.
#
# Guess: ExportedProgram.run_decompositions rewrites operators into simpler ones, so whatever differentiates the program
# before differentiates it equally after.
# Happens: the rewrite lowers the forward values alone. `detach` becomes `aten.alias`, through which a gradient flows,
# and a `torch.no_grad` block, which the export had kept as `wrap_with_set_grad_enabled`, is inlined without its switch.
# Values agree, and nothing warns. Here the input is (1, 2, 3):
#
#   torch 2.13.0+cpu
#   x * x.detach(): exported [1.0, 2.0, 3.0], decomposed [2.0, 4.0, 6.0]
#   x * x under no_grad: exported [1.0, 2.0, 3.0], decomposed [2.0, 4.0, 6.0]
#   operators after: aten.alias.default aten.mul.Tensor aten.sum.dim_IntList
#   operators after: aten.mul.Tensor aten.mul.Tensor aten.sum.dim_IntList
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.2.6

cat >"$folder/see.py" <<'END'
import sys

import torch


class Detached(torch.nn.Module):
    def forward(self, x):
        return (x * x.detach()).sum()


class Switched(torch.nn.Module):
    def forward(self, x):
        with torch.no_grad():
            gate = x * 1
        return (x * gate).sum()


def value_and_gradient(program, x):
    x = x.clone().requires_grad_()
    value = program.module()(x)
    return value.item(), torch.autograd.grad(value, x)[0].tolist()


print("torch", torch.__version__)
x = torch.tensor([1.0, 2.0, 3.0])
lines = []
for name, model in (("x * x.detach()", Detached()), ("x * x under no_grad", Switched())):
    exported = torch.export.export(model, (x,))
    decomposed = exported.run_decompositions()
    value, gradient = value_and_gradient(exported, x)
    value_after, gradient_after = value_and_gradient(decomposed, x)
    print(f"{name}: exported {gradient}, decomposed {gradient_after}")
    lines.append(" ".join(str(n.target) for n in decomposed.graph.nodes if n.op == "call_function"))
    if value != value_after:
        sys.exit("changed: the decomposed program gives another value")
    if gradient != [1.0, 2.0, 3.0]:
        sys.exit("changed: the exported program no longer gives the model's own gradient")
    if gradient_after != [2.0, 4.0, 6.0]:
        sys.exit("changed: decomposing keeps the gradient, or changes it in another way")
for line in lines:
    print("operators after:", line)
END
OMP_NUM_THREADS=1 "$folder/venv/bin/python" -W ignore "$folder/see.py"
