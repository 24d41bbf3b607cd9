"""What serving costs: a server asked by clients in processes of their own, beside the same work
without a server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from bench.callers.asker import photographs
from bench.common.nets import Normalised
from bench.common.scrape import metered
from bench.common.table import medians
from lightwell.serving import served
from lightwell_server.codec import pictures
from lightwell_server.models.store import Model


def throughputs(
    repository: Path, model: Model, in_flight: int, kinds: Sequence[str], count: int, rounds: int = 5
) -> dict[str, float]:
    """Saliency maps a second, `in_flight` at a time: served by the asker's kinds, and "driven" by the engine in a
    process of its own. Medians over rounds of `count` maps each."""
    with served(repository) as server, ExitStack() as processes:
        asks = {kind: processes.enter_context(asker(server.address, in_flight, kind)) for kind in kinds}
        directory = str(repository / model.name / model.version)
        asks["driven"] = processes.enter_context(_process("bench.device.driver", directory, str(in_flight)))
        contestants: dict[str, Callable[[], object]] = {name: partial(ask, count) for name, ask in asks.items()}
        seconds = medians(contestants, rounds, warm=1)
    return {name: count / value for name, value in seconds.items()}


def asker(address: str, in_flight: int, kind: str) -> AbstractContextManager[Callable[[int], float]]:
    """A client process; calling asks it for so many maps and returns its seconds."""
    return _process("bench.callers.asker", address, str(in_flight), kind)


@contextmanager
def _process(module: str, *arguments: str) -> Iterator[Callable[[int], float]]:
    """A process that is told counts and tells seconds."""
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        to, back = process.stdin, process.stdout

        def ask(count: int) -> float:
            print(count, file=to, flush=True)
            return float(back.readline())

        yield ask
        to.close()


@dataclass(frozen=True)
class Single:
    """Seconds of one call after the other. Medians in turn: `bare`, the gradient alone, and `served`. Means of the
    same served calls, by the server's own account: in the server, on the device, decoding and encoding."""

    bare: float
    served: float
    request: float
    device: float
    codec: float

    @property
    def own(self) -> float:
        """Seconds in the server that are neither the device's nor the codecs'."""
        return self.request - self.device - self.codec


def latency(repository: Path, net: nn.Module, model: Model, rounds: int = 40) -> Single:
    """One client, one JPEG at a time, beside the gradient of the eager network behind its normalisation."""
    gradient = _gradient(net, model)
    with metered(repository) as (server, read), asker(server.address, 1, "jpeg") as ask:
        ask(10)
        gradient()
        before = read()
        seconds = medians({"bare": gradient, "served": partial(ask, 1)}, rounds, warm=0)
        after = read()
    calls = after.grown(before, "lightwell_request_seconds_count")
    assert calls == rounds
    names = "lightwell_request_seconds_sum", "lightwell_device_seconds_total", "lightwell_codec_seconds_sum"
    request, device, codec = (after.grown(before, name) / calls for name in names)
    return Single(seconds["bare"], seconds["served"], request, device, codec)


def _gradient(net: nn.Module, model: Model) -> Callable[[], torch.Tensor]:
    """The gradient of the highest score for the pixels of the picture that the client sends."""
    eager, file = Normalised(net).eval(), photographs()[0]
    pixels, _ = pictures.fitted(pictures.opened(file, "image"), model.card.fit, "image")

    def gradient() -> torch.Tensor:
        rows = pixels.clone().requires_grad_()
        (found,) = torch.autograd.grad(eager(rows).amax(1).sum(), rows)
        return found

    return gradient
