"""Thousands of random requests through a real socket: whatever is sent, the server says what is wrong, lives, is idle
afterwards and answers as before.

`LIGHTWELL_EXAMPLES` and `LIGHTWELL_SEED` ask for more requests and for others.
"""

import os
from collections import Counter

from tests.fuzzing import FLAGS, busy, fuzz, reference, wrong
from tests.server.test_service import free_port
from tests.serving import bundled, served

REQUESTS = 5000


def test_no_request_harms_the_server():
    port, faults, codes = free_port(), [], Counter()

    def told(sent, outcome):
        codes[outcome.code.name] += 1
        if fault := wrong(sent, outcome):
            faults.append(f"{fault}\n{sent}")

    count = int(os.environ.get("LIGHTWELL_EXAMPLES", REQUESTS))
    with served(bundled(), *FLAGS, "--metrics-port", str(port)) as server:
        before = reference(server.address)
        fuzz(server.address, count, int(os.environ.get("LIGHTWELL_SEED", "0")), told)
        assert server.process.poll() is None, "the server died"
        assert not busy(port), "the server is still at work"
        assert reference(server.address) == before
    assert not faults, f"{len(faults)} faults, of which the first:\n{faults[0]}"
    assert codes.total() == count and codes["OK"] > count / 5 and codes["INVALID_ARGUMENT"] > count / 5
