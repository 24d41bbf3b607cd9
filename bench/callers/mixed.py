"""A mixed load whose answers are known: each is compared with that of an undisturbed server."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle, pairwise, takewhile
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import Message

from bench.common.proof import Counts
from lightwell import AsyncClient, GradCam, LightwellError, Occlusion, Pgd, Saliency, Style, StyleTransfer
from lightwell.demo import SAMPLES
from lightwell.images import to_message
from lightwell.results import Explanation, Synthesis

PICTURES = ("arrow", "crescent", "flower", "heart", "leaf", "star")
NEAR = 2e-2
"""Of two float32 gradients the largest distance that is rounding, relative to their length."""
LIKE = 1e-2
"""By how much the last objectives of two iterated methods may differ, as a share."""
PATIENCE = 60.0
"""Seconds after which a call is given up."""


@dataclass(frozen=True)
class Answer:
    """What came: the result, and of a stream the last objective, and how often its progress went back."""

    result: Explanation | Synthesis
    objective: float | None = None
    back: int = 0

    @property
    def digest(self) -> str:
        """Of the model that gave it."""
        return self.result.provenance.digest

    def differs(self, other: Answer, exactly: bool) -> str:
        """In what it is not the same as another one, in words; empty if it is."""
        mine, theirs = self.result, other.result
        if isinstance(mine, Explanation) and isinstance(theirs, Explanation):
            if exactly:
                return "" if mine.values.tobytes() == theirs.values.tobytes() else "not the same bits"
            away = np.linalg.norm(mine.values - theirs.values) / max(float(np.linalg.norm(theirs.values)), 1e-12)
            return "" if away <= NEAR else f"{away:.1e} away"
        assert isinstance(mine, Synthesis)
        assert isinstance(theirs, Synthesis)
        if exactly:
            return "" if mine.message.png == theirs.message.png else "not the same bits"
        if mine.succeeded != theirs.succeeded:
            return "another verdict"
        if self.objective is None or other.objective is None:
            return "no objective"
        near = math.isclose(self.objective, other.objective, rel_tol=LIKE)
        return "" if near else f"objective {self.objective:.4g} instead of {other.objective:.4g}"


@dataclass(frozen=True, eq=False)
class Question:
    """A request that may be asked again and again."""

    name: str
    method: Message
    image: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    streamed: bool = False

    @property
    def reproducible(self) -> bool:
        """Whether its answer is the same to the bit."""
        return bool(self.options.get("reproducible"))

    async def ask(self, client: AsyncClient) -> Answer:
        """Asks it. Raises LightwellError."""
        if isinstance(self.method, Pgd | StyleTransfer):
            stream: Any = client.synthesize(self.method, image=self.image, **self.options)
        elif self.streamed:
            stream = client.explain_stream(self.image, self.method, **self.options)
        else:
            return Answer(await client.explain(self.image, self.method, **self.options))
        told = [progress async for progress in stream]
        back = sum(later.step <= earlier.step for earlier, later in pairwise(told))
        return Answer(await stream.result(), told[-1].objective if told else None, back)


def questions(seconds: float) -> list[Question]:
    """All methods, unary and streamed, some of them reproducible, of up to 2 seconds of a processor; about as many
    pictures as a load of so many seconds comes round to."""
    attack = {"epsilon": 2 / 255, "step": 0.25 / 255, "stop_early": False}  # outside of it rounding may carry far
    method: dict[str, Any] = {"styles": [Style(image=to_message(SAMPLES / "painting.png"))], "size": 96}
    bits = {"seed": 7, "reproducible": True}
    return [
        question
        for name in PICTURES[: max(1, round(seconds / 10))]
        for image in [SAMPLES / f"{name}.png"]
        for question in (
            Question("saliency", Saliency(), image),
            Question("saliency to the bit", Saliency(), image, bits),
            Question("grad_cam", GradCam(), image),
            Question("occlusion", Occlusion(stride=8), image),
            Question("occlusion streamed", Occlusion(stride=2 if name == "crescent" else 4), image, streamed=True),
            Question("occlusion to the bit", Occlusion(stride=6), image, bits, streamed=True),
            Question("pgd", Pgd(steps=30, **attack), image, {"seed": 7}),
            Question("pgd to the bit", Pgd(steps=20), image, bits),
            Question("style_transfer", StyleTransfer(steps=12, **method), image, {"seed": 7}),
            Question("style_transfer to the bit", StyleTransfer(steps=6, **method), image, bits),
        )
    ]


async def undisturbed(client: AsyncClient, asked: Iterable[Question]) -> Known:
    """What a server answers with nothing beside it."""
    answers = [(question, await question.ask(client)) for question in asked]
    return {(question, answer.digest): answer for question, answer in answers}


Known = Mapping[tuple[Question, str], Answer]
"""The answer to each question, by the digest of the model that gives it."""


@dataclass
class Load:
    """Asks questions in turn, `in_flight` at a time. What failed is told in `failures`, an answer that is not the known
    one in `wrong`, each in a sentence; `seconds` is how long each answer took."""

    client: AsyncClient
    known: Known
    in_flight: int = 6
    sent: int = 0
    answered: int = 0
    retried: int = 0
    back: int = 0
    failures: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def counts(self) -> Counts:
        """What became of the requests."""
        return Counts(self.sent, self.answered, self.retried, 0, self.sent - self.answered)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Asks for as long as it is open, and waits for what was asked."""
        going, asked = asyncio.Event(), dict.fromkeys(question for question, _ in self.known)
        going.set()
        asking = asyncio.create_task(self.ask_all(takewhile(lambda _: going.is_set(), cycle(asked))))
        try:
            yield
        finally:
            going.clear()
            await asking

    async def ask_all(self, asked: Iterable[Question]) -> None:
        """Asks so many at a time until all are answered."""
        turns = iter(asked)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self.in_flight):
                tasks.create_task(self._ask_in_turn(turns))

    async def _ask_in_turn(self, turns: Iterator[Question]) -> None:
        for question in turns:
            await self.ask(question)

    async def ask(self, question: Question) -> None:
        """Asks one question, and takes note of what comes."""
        loop = asyncio.get_running_loop()
        self.sent, began = self.sent + 1, loop.time()
        try:
            async with asyncio.timeout(PATIENCE):
                answer = await question.ask(self.client)
        except (LightwellError, TimeoutError) as error:
            self.failures.append(f"{question.name}: {error!r}")
            return
        self.seconds.append(loop.time() - began)
        self.answered += 1
        self.retried += answer.result.provenance.attempts > 1
        self.back += answer.back
        known = self.known.get((question, answer.digest))
        if differs := "an unknown model" if known is None else answer.differs(known, question.reproducible):
            self.wrong.append(f"{question.name}: {differs}")

    def notes(self) -> list[str]:
        """How long answers took, and the first of what went wrong."""
        longest = f"{max(self.seconds, default=0):.1f}"
        return [f"the longest answer took {longest} s", *_some("failed", self.failures), *_some("wrong", self.wrong)]


def _some(what: str, sentences: Sequence[str]) -> list[str]:
    return [f"{what}: {sentence}" for sentence in sentences[:3]]
