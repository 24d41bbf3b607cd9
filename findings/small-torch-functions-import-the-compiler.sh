#!/usr/bin/env bash
# torch 2.13.0 (the same in 2.14.1): three everyday calls import torch's compiler, or sympy, when they are first made.
#
# Guess: switching deterministic algorithms sets a flag, making an optimizer stores its parameters, and broadcasting two
# shapes compares integers. Each costs microseconds, also in a server's worker thread.
# Happens: the first two import torch._dynamo and torch._inductor, about 800 modules, one second and 100 MB;
# the third imports torch.fx.experimental.symbolic_shapes and with it sympy. A thread that imports some of these modules at
# the same time by another name can see them half initialized ("cannot import name ... from partially initialized
# module"). torch.set_deterministic_debug_mode and torch.broadcast_tensors do the same work and import nothing.
#
#   torch 2.13.0+cpu
#   torch.use_deterministic_algorithms(True): torch._dynamo torch._inductor sympy
#   torch.set_deterministic_debug_mode('error'): nothing
#   torch.optim.SGD([torch.zeros(1)], lr=1): torch._dynamo torch._inductor sympy
#   torch.broadcast_shapes((2, 1), (3,)): sympy
#   torch.broadcast_tensors(torch.zeros(2, 1), torch.zeros(3)): nothing
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.2.6

cat >"$folder/see.py" <<'END'
import subprocess
import sys

import torch

EXPECTED = {
    "torch.use_deterministic_algorithms(True)": "torch._dynamo torch._inductor sympy",
    "torch.set_deterministic_debug_mode('error')": "nothing",
    "torch.optim.SGD([torch.zeros(1)], lr=1)": "torch._dynamo torch._inductor sympy",
    "torch.broadcast_shapes((2, 1), (3,))": "sympy",
    "torch.broadcast_tensors(torch.zeros(2, 1), torch.zeros(3))": "nothing",
}
SCRIPT = """
import sys
import torch
parts = ("torch._dynamo", "torch._inductor", "sympy")
before = set(sys.modules)
exec(sys.argv[1])
print(*[part for part in parts if part in sys.modules and part not in before] or ["nothing"])
"""

print("torch", torch.__version__)
changed = False
for call, expected in EXPECTED.items():
    done = subprocess.run([sys.executable, "-c", SCRIPT, call], capture_output=True, text=True, check=True)
    print(f"{call}: {done.stdout.strip()}")
    changed |= done.stdout.strip() != expected
if changed:
    sys.exit("changed")
END
"$folder/venv/bin/python" "$folder/see.py"
