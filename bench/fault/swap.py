"""Versions of the model come and go under load."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from itertools import count
from pathlib import Path

import torch

from bench.callers.mixed import NEAR, PATIENCE, Answer, Known, Load, Question, questions
from bench.common.operator import LOOKED, all_ready, operator
from bench.common.proof import Proof, none
from bench.common.table import Goal
from bench.fault.kill import FLAGS
from lightwell import AsyncClient
from lightwell.serving import bundled, served
from lightwell.v1.models_pb2 import MODEL_STATE_READY as READY
from lightwell_server.local import Local
from lightwell_server.models.store import load_version

NAME = "shapes"
EVERY = 3.0
"""Seconds between two new versions."""
STAY = 1.5
"""Seconds that an old version's directory stays beside the new one."""
NOISE = 0.1
"""The perturbation of a weight, as a share of the deviation of all in its tensor."""
NOTICED = 10.0
"""Seconds within which a new version shall answer, while the device is busy."""


def prove(seconds: float) -> Proof:
    """Swaps for so many seconds; the SDK repeats nothing."""
    with tempfile.TemporaryDirectory() as folder:
        kinds = Path(folder) / "kinds" / NAME
        shutil.copytree(bundled() / NAME / "1", kinds / "0")
        perturb(kinds / "0", kinds / "1")
        repository = Path(folder) / "repository"
        repository.mkdir()
        shelf = Shelf(kinds, repository / NAME)
        shelf.add()
        asked = [q for q in questions(seconds) if q.name in ("saliency", "grad_cam", "occlusion")]
        known = {key: answer for kind in kinds.iterdir() for key, answer in answers(kind, asked).items()}
        with served(repository, *FLAGS) as server:
            return asyncio.run(_prove(server.address, seconds, shelf, known))


class Shelf:
    """A model's directory, whose versions are of two kinds in turn."""

    def __init__(self, kinds: Path, directory: Path) -> None:
        self._kinds, self._directory, self._numbers = kinds, directory, count(1)
        self.newest = ""

    def add(self) -> None:
        """Puts the next version there, as a whole."""
        number = next(self._numbers)
        self.newest = str(number)
        parts = self._kinds.parent / "parts"
        shutil.copytree(self._kinds / str(number % 2), parts)
        self._directory.mkdir(exist_ok=True)
        parts.rename(self._directory / self.newest)

    def remove_old(self) -> None:
        """Takes away all but the newest."""
        for version in self._directory.iterdir():
            if version.name != self.newest:
                shutil.rmtree(version)


def perturb(version: Path, target: Path) -> None:
    """Another version with other weights."""
    shutil.copytree(version, target)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = torch.jit.load(version / "model.pt")
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for weight in net.parameters():
                weight += NOISE * weight.std(correction=0) * torch.randn(weight.shape, generator=generator)
        torch.jit.save(net, target / "model.pt")


def answers(version: Path, asked: list[Question]) -> Known:
    """What a version says in this process."""
    with Local(load_version(version, version.parents[1])) as local:
        said = [(q, Answer(local.explain(q.image, q.method, **q.options))) for q in asked]
    return {(question, answer.digest): answer for question, answer in said}


def alike(known: Known) -> int:
    """To how many questions two versions give answers that could be taken for one another."""
    by_question: dict[Question, list[Answer]] = {}
    for (question, _), answer in known.items():
        by_question.setdefault(question, []).append(answer)
    return sum(not one.differs(other, exactly=False) for one, other in by_question.values())


async def _prove(address: str, seconds: float, shelf: Shelf, known: Mapping[tuple[Question, str], Answer]) -> Proof:
    loop = asyncio.get_running_loop()
    async with AsyncClient(address, retries=0) as client, operator(address) as watching:
        await watching.until(all_ready)
        load, noticed = Load(client, known), []
        async with load.running():
            end = loop.time() + seconds
            while not noticed or loop.time() < end:
                noticed.append(await _swap(client, shelf))
    goals = [
        Goal("swap: until a new version answers, at most", max(noticed), NOTICED, False, ".1f", " s"),
        none(f"swap: questions to which the versions answer alike (within {NEAR:g})", alike(known)),
        none("swap: requests lost", load.counts.lost),
        none("swap: answers other than their version's", len(load.wrong)),
    ]
    return Proof("swap", load.counts, goals, [f"{len(noticed)} versions came", *load.notes()])


async def _swap(client: AsyncClient, shelf: Shelf) -> float:
    """Adds a version, and a little later takes the old one away; returns the seconds until the new one answered."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    shelf.add()
    await asyncio.sleep(STAY)
    shelf.remove_old()
    async with asyncio.timeout(PATIENCE):
        while not any(m.version == shelf.newest and m.state == READY for m in await client.models()):
            await asyncio.sleep(LOOKED)
    noticed = loop.time() - began
    await asyncio.sleep(max(0.0, EVERY - noticed))
    return noticed
