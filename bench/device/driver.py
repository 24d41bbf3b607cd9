"""The engine in a process of its own, without gRPC and messages: `python -m bench.device.driver DIRECTORY IN_FLIGHT`.

For each number read from standard input it makes that many saliency maps with the model version in DIRECTORY and
writes the seconds until the last one is there as an array. As in a server, the engine's thread is the only one whose
tensor operations use further threads.
"""

from __future__ import annotations

import queue
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.device.engine import job, pictures, received
from lightwell_server.engine.engine import Engine
from lightwell_server.engine.run import Event
from lightwell_server.models.answer import answer
from lightwell_server.models.store import Model, load_version
from lightwell_server.threads import single_threaded_pool


def drive(worker: Engine, model: Model, count: int, in_flight: int) -> float:
    """Seconds of `count` saliency maps, `in_flight` at a time; each is received as an array."""
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    rows = pictures(8)
    began = time.perf_counter()
    for i in range(count + in_flight):
        if i >= in_flight:
            received(events.get())
        if i < count:
            worker.submit(job(model, "saliency", rows[i % len(rows)], events.put))
    return time.perf_counter() - began


def main() -> None:
    """Drives until its input ends."""
    directory, in_flight = Path(sys.argv[1]), int(sys.argv[2])
    with ThreadPoolExecutor(1) as loader:
        model = loader.submit(load_version, directory, directory.parents[1]).result()
    worker, thread = Engine(answer), single_threaded_pool(1, "driver")
    for line in sys.stdin:
        print(thread.submit(drive, worker, model, int(line), in_flight).result(), flush=True)
    worker.stop()


if __name__ == "__main__":
    main()
