#!/usr/bin/env bash
# torch 2.13.0 (the same in 2.14.1): torch.export.load fails in a thread while another one loads a program.
#
# Guess: valid files can be read side by side, as torch.load and torch.jit.load read them: a server may load its models
# in several threads.
# Happens: the deserializer notes itself in a variable of its module and asserts that no other one has. Which of the
# threads fail is chance; one after the other, or with a lock around the call, all files load.
#
#   torch 2.13.0+cpu
#   one after the other: 8 of 8 loaded
#   in eight threads: some failed with AssertionError: _CURRENT_DESERIALIZER is already set
#   in eight threads, behind a lock: 8 of 8 loaded
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.2.6

cat >"$folder/see.py" <<'END'
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import torch

net = torch.nn.Sequential(*(torch.nn.Conv2d(3, 3, 1) for _ in range(30)))
torch.export.save(torch.export.export(net, (torch.rand(2, 3, 8, 8),)), sys.argv[1])
lock = threading.Lock()


def load(_):
    """What went wrong, or an empty string."""
    try:
        torch.export.load(sys.argv[1])
    except AssertionError as error:
        return f"AssertionError: {error}"
    return ""


def load_alone(number):
    with lock:
        return load(number)


print("torch", torch.__version__)
alone = [load(number) for number in range(8)]
print(f"one after the other: {alone.count('')} of 8 loaded")
with ThreadPoolExecutor(8) as threads:
    together = set(threads.map(load, range(8)))
    print("in eight threads: some failed with", *(told for told in together if told))
    locked = list(threads.map(load_alone, range(8)))
    print(f"in eight threads, behind a lock: {locked.count('')} of 8 loaded")
expected = "AssertionError: _CURRENT_DESERIALIZER is already set"
if alone != [""] * 8 or locked != [""] * 8 or together - {""} != {expected}:
    sys.exit("changed")
END
"$folder/venv/bin/python" "$folder/see.py" "$folder/net.pt2"
