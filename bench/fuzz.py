"""Random requests, good ones and damaged ones, through a real socket: `python -m bench.fuzz [--requests N] [--seed N]`.

Prints what became of them by call, method and code, how many there were a second, and the server's memory before and
after. Exits with 1 if the server answered anything wrongly, died, was not idle afterwards, or answers otherwise than
before.
"""

from __future__ import annotations

import argparse
import socket
import sys
import time
from collections import Counter

from bench.common.table import report, table
from lightwell.serving import Server, bundled, served
from tests.fuzzing import FLAGS, Outcome, Sent, busy, fuzz, reference, scraped, wrong

WARM = 500
"""Requests before memory is read for the first time: libraries are loaded, buffers have their size."""


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with report("Random requests"), served(bundled(), *FLAGS, "--metrics-port", str(port)) as server:
        faults = measure(server, port, asked.requests, asked.seed)
    for fault in faults:
        print(f"\nWRONG: {fault}")
    sys.exit(bool(faults))


def measure(server: Server, port: int, count: int, seed: int) -> list[str]:
    """Sends so many requests and prints the tables; returns what is wrong, in text."""
    codes: Counter[tuple[str, str]] = Counter()
    faults: list[str] = []

    def told(sent: Sent, outcome: Outcome) -> None:
        codes[sent.method, outcome.code.name] += 1
        if fault := wrong(sent, outcome):
            faults.append(f"{fault}\n{sent}")

    fuzz(server.address, WARM, seed, lambda sent, outcome: None)
    answer, before, began = reference(server.address), _memory(port), time.monotonic()
    fuzz(server.address, count, seed + 1, told)
    seconds = time.monotonic() - began
    if server.process.poll() is not None:
        return [*faults, "the server died"]
    if left := busy(port):
        faults.append(f"{left:.0f} requests or jobs are left")
    if reference(server.address) != answer:
        faults.append("the reference request is answered otherwise than before")
    print(_codes(codes))
    print(
        f"\n{count} requests, {count / seconds:.0f} a second; memory {before:.0f} MiB before, {_memory(port):.0f} after"
    )
    return faults


def _codes(codes: Counter[tuple[str, str]]) -> str:
    names = sorted({code for _, code in codes})
    methods = sorted({method for method, _ in codes})
    return table(("", *names), [(method, *(str(codes[method, code] or "") for code in names)) for method in methods])


def _memory(port: int) -> float:
    """MiB that the server's process has."""
    return scraped(port)["process_resident_memory_bytes"] / 2**20


if __name__ == "__main__":
    main()
