"""A program that says that it serves, and has started another one, which outlives it and holds its output: `python -m
tests.outlived`. The number of models that it names is that of the other process."""

import subprocess
import sys
import time

other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(f"lightwell: serving {other.pid} models on port 1", flush=True)
time.sleep(60)
