"""Keeps what is loaded in step with the repository on disk: new versions are loaded and warmed beside the old ones,
traffic moves, and what is no longer wanted goes when its last request is over."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from pathlib import Path
from typing import Any, TypeVar

from lightwell.v1 import models_pb2 as models
from lightwell_server.core import Core
from lightwell_server.errors import LightwellError, NotFound, Refused
from lightwell_server.front.library import Entry, Library, State, natural
from lightwell_server.models.store import files

log = logging.getLogger(__name__)

T = TypeVar("T")
EVERY = 1.0
"""Seconds between two looks at the repository."""
Key = tuple[str, str]


class Curator:
    """`every_version` keeps all versions that there are; else of each model the newest that loads, and those that an
    alias names. `told(name)` is awaited whenever a model may have begun or ceased to answer."""

    def __init__(
        self,
        repository: Path,
        library: Library,
        core: Core,
        told: Callable[[str], Awaitable[object]],
        every_version: bool = False,
    ) -> None:
        self._repository, self._library, self._core, self._told = repository, library, core, told
        self._every_version = every_version
        self._stamps: dict[Key, Hashable] = {}
        self._loaded: dict[Key, Hashable] = {}
        self._away: set[Key] = set()
        self._asked: set[Key] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._changing = asyncio.Lock()

    def expect(self) -> None:
        """Finds what there is to load."""
        self._stamps = _stamps(self._repository)
        self._list()

    async def load_all(self) -> None:
        """Loads what is wanted; returns when all of it is decided."""
        async with self._changing:
            await self._follow()

    async def watch(self) -> None:
        """Follows the repository until it is cancelled. What changes is looked at once it has stopped changing."""
        before = self._stamps
        while True:
            await asyncio.sleep(EVERY)
            if not self._repository.is_dir():
                continue  # a disk that is away for a moment takes no model with it
            try:
                seen = await asyncio.to_thread(_stamps, self._repository)
            except (OSError, RuntimeError) as error:  # it is away, or there are no files or threads left
                log.warning("the repository cannot be looked at now: %s", error)
                continue
            steady = {key: stamp for key, stamp in seen.items() if before.get(key) == stamp}
            before = seen
            async with self._changing:
                self._away -= {key for key, stamp in steady.items() if self._stamps.get(key) != stamp}
                coming = {name for name, _ in seen.keys() - self._stamps.keys() - steady.keys()}
                kept = {key for key in self._stamps if key in seen or key[0] in coming}  # until its successor is there
                self._stamps = {key: self._stamps[key] for key in kept} | steady
                await self._follow()

    async def load(self, name: str, version: str) -> models.GetModelResponse:
        """Loads a version anew, without one the newest; a caller that leaves meanwhile stops nothing. Raises NotFound,
        Refused."""
        loading = self._begun(self._load_anew(name, version))
        return await asyncio.shield(loading)

    async def _load_anew(self, name: str, version: str) -> models.GetModelResponse:
        async with self._changing:
            seen = await asyncio.to_thread(_stamps, self._repository)
            versions = sorted((v for n, v in seen if n == name), key=natural)
            if not versions or (version and version not in versions):
                known = ", ".join(versions) or "nothing"
                raise NotFound(
                    f"the repository has no {name}@{version or 'newest'}; it has {known}",
                    reason="VERSION_NOT_FOUND",
                    resource_name=f"{name}@{version}",
                )
            key = (name, version or versions[-1])
            self._stamps[key] = seen[key]  # what else has changed may still be changing
            await self._load(key)
            entry = self._library.entry(*key)
            if not entry.ready:
                raise Refused(f"model {entry.id} was refused: {entry.reason}")
            self._away.discard(key)
            self._asked.add(key)
            await self._follow()
            return entry.described

    async def unload(self, name: str, version: str) -> None:
        """Has a version take no further requests; it goes when its last one is over. Raises NotFound."""
        entry = self._library.get(name, version)
        self._away.add((entry.name, entry.version))
        self._asked.discard((entry.name, entry.version))
        self._retire(entry)
        await self._told(entry.name)

    async def _follow(self) -> None:
        """Loads what is wanted and not there, lets go of what is there and not wanted."""
        self._list()
        while missing := [key for key in self._wanted() if self._loaded.get(key) != self._stamps[key]]:
            await asyncio.gather(*(self._load(key) for key in missing))
        self._library.adopt()
        wanted = set(self._wanted())
        for entry in self._library.all():
            key = (entry.name, entry.version)
            if key not in self._stamps:
                self._loaded.pop(key, None)
                self._asked.discard(key)
                self._retire(entry, forget=True)
                await self._told(entry.name)
            elif entry.ready and key not in wanted:
                self._retire(entry)
                await self._told(entry.name)

    def _list(self) -> None:
        """Has an entry for each version that there is."""
        wanted = self._wanted()
        for key in self._stamps:
            entry = self._library.entry(*key)
            if key not in self._loaded and key not in wanted:
                entry.state = State.MODEL_STATE_UNLOADED

    def _wanted(self) -> list[Key]:
        """The versions that shall answer, small files first: of each model from the newest downwards to the first that
        is not refused, what aliases name, and what administrators asked for and not away."""
        wanted: list[Key] = []
        for name in {name for name, _ in self._stamps}:
            aliases = self._library.named(name)
            found = False
            for version in sorted((v for n, v in self._stamps if n == name), key=natural, reverse=True):
                key = (name, version)
                named = self._every_version or version in aliases or key in self._asked
                if key not in self._away and (named or not found):
                    wanted.append(key)
                found = found or not self._refused(key)
        return sorted(wanted, key=lambda key: _size(self._stamps[key]))

    def _refused(self, key: Key) -> bool:
        """Whether a version was refused as it is now on disk."""
        entry = self._library.entry(*key) if key in self._loaded else None
        return entry is not None and entry.state == State.MODEL_STATE_REFUSED and self._loaded[key] == self._stamps[key]

    async def _load(self, key: Key) -> None:
        """Loads a version. One that cannot be loaded is refused; if it answered before, it still does."""
        entry, stamp = self._library.entry(*key), self._stamps[key]
        if not entry.ready:
            entry.state = State.MODEL_STATE_LOADING
        try:
            described = await self._core.load(*key)
        except LightwellError as error:
            if entry.ready:
                log.error("model %s has changed and is refused, what was loaded stays: %s", entry.id, error.message)
            else:
                entry.state, entry.reason = State.MODEL_STATE_REFUSED, error.message
        else:
            entry.state, entry.described = State.MODEL_STATE_READY, described
        self._loaded[key] = stamp
        await self._told(entry.name)

    def _retire(self, entry: Entry, forget: bool = False) -> None:
        """Has a version take no further requests."""
        ready = entry.ready
        entry.state = State.MODEL_STATE_UNLOADED
        self._loaded.pop((entry.name, entry.version), None)
        if forget:
            self._library.remove(entry)
        if ready:
            self._begun(self._unload(entry))

    def _begun(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task that is kept until it is done."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _unload(self, entry: Entry) -> None:
        """Lets go of a version when its last request is over, unless it has come back meanwhile."""
        while entry.users:
            await asyncio.sleep(0.1)
        async with self._changing:
            if (entry.name, entry.version) not in self._loaded:
                await self._core.unload(entry.name, entry.version)
                log.info("model %s is unloaded", entry.id)


def _stamps(repository: Path) -> dict[Key, Hashable]:
    """What tells the files of each version from their successors: size and time of the model's file and the card's."""
    return {key: tuple(map(_stamp, (file, file.with_name("card.toml")))) for key, file in files(repository).items()}


def _stamp(path: Path) -> tuple[int, int, int]:
    """Of a file that is not there, or may not be looked at, why that is so."""
    try:
        stat = path.stat()
    except OSError as error:
        return 0, 0, -(error.errno or 0)
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def _size(stamp: Hashable) -> int:
    return stamp[0][0]  # type: ignore[index,no-any-return] # as _stamps makes them
