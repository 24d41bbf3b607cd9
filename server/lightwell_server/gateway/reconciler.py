"""Keeps the loaded models in step with the repository on disk: new versions are loaded and warmed while the old ones
serve, traffic moves, and unwanted versions are unloaded after their last request."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from pathlib import Path
from typing import Any, TypeVar

from lightwell.v1 import models_pb2 as models
from lightwell_server.errors import Internal, LightwellError, NotFound, Refused, Unavailable
from lightwell_server.gateway.registry import ModelRegistry, ModelVersion, State
from lightwell_server.models.disk import natural
from lightwell_server.models.store import files
from lightwell_server.requests.backend import Backend
from lightwell_server.threads import aside

log = logging.getLogger(__name__)

T = TypeVar("T")
EVERY = 1.0
"""Seconds between two scans of the repository."""
LOOK, LONGEST_LOOK = 10.0, 600.0
"""Timeout of a scan in seconds, and its maximum. It doubles at each timeout, because each leaves a blocked thread
behind."""
Key = tuple[str, str]


class Reconciler:
    """With `every_version` all versions are kept; otherwise of each model the newest that loads, and those that an
    alias names. `notify(name)` is awaited whenever the readiness of a model may have changed."""

    def __init__(
        self,
        repository: Path,
        registry: ModelRegistry,
        backend: Backend,
        notify: Callable[[str], Awaitable[object]],
        every_version: bool = False,
    ) -> None:
        self._repository, self._registry, self._backend, self._notify = repository, registry, backend, notify
        self._every_version = every_version
        self._stamps: dict[Key, Hashable] = {}
        self._loaded: dict[Key, Hashable] = {}
        self._away: set[Key] = set()
        self._asked: set[Key] = set()
        self._asking: Counter[Key] = Counter()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loads: dict[Key, asyncio.Task[None]] = {}
        self._changing: defaultdict[Key, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._patience, self._found = LOOK, False

    async def expect(self) -> None:
        """Scans the repository for models to load, if it responds in time."""
        seen = await self._scan()
        if seen is not None:
            self._stamps, self._found = seen, True
            self._list()

    async def load_all(self) -> None:
        """Loads what is wanted; returns when each load has succeeded or failed."""
        while not self._found:
            await asyncio.sleep(EVERY)
            await self.expect()
        await self._follow()
        while self._loads:
            await asyncio.wait(self._loads.values(), return_when=asyncio.FIRST_COMPLETED)

    async def watch(self) -> None:
        """Follows the repository until it is cancelled. A change is handled once the files have stopped changing."""
        before = self._stamps
        while True:
            await asyncio.sleep(EVERY)
            seen = await self._scan()
            if seen is None:
                continue  # a disk that is unavailable for a moment unloads no model
            steady = {key: stamp for key, stamp in seen.items() if before.get(key) == stamp}
            before = seen
            self._away -= {key for key, stamp in steady.items() if self._stamps.get(key) != stamp}
            coming = {name for name, _ in seen.keys() - self._stamps.keys() - steady.keys()}
            kept = {key for key in self._stamps if key in seen or key[0] in coming}  # until its successor is stable
            self._stamps = {key: self._stamps[key] for key in kept} | steady
            await self._follow()

    async def load(self, name: str, version: str) -> models.GetModelResponse:
        """Loads a version again (empty: the newest). It goes on if the caller disconnects. Raises NotFound, Refused,
        Unavailable."""
        loading = self._begun(self._load_anew(name, version))
        return await asyncio.shield(loading)

    async def _load_anew(self, name: str, version: str) -> models.GetModelResponse:
        seen = await self._scan()
        if seen is None:
            raise Unavailable("the repository does not answer now; the log says more, try again", reason="NOT_READY")
        versions = sorted((v for n, v in seen if n == name), key=natural)
        if not versions or (version and version not in versions):
            known = ", ".join(versions) or "nothing"
            raise NotFound(
                f"the repository has no {name}@{version or 'newest'}; it has {known}",
                reason="VERSION_NOT_FOUND",
                resource_name=f"{name}@{version}",
            )
        key = (name, version or versions[-1])
        self._stamps[key] = seen[key]  # other changed files may still be changing
        self._asking[key] += 1
        try:
            await self._anew(key)
            entry = self._registry.entry(*key)
            if not entry.ready:
                raise Refused(f"model {entry.id} was refused: {entry.reason}")
            self._away.discard(key)
            self._asked.add(key)
        finally:
            self._asking[key] -= 1
        await self._follow()
        return entry.described

    async def _anew(self, key: Key) -> None:
        """Loads a version, or waits for a load in progress, and again if the files have changed since. Raises NotFound
        if the files have been removed."""
        if key not in self._loads:
            self._begin(key)
        while key in self._loads:
            await asyncio.wait([self._loads[key]])
        if key not in self._stamps:
            name = "@".join(key)
            sentence = f"the files of {name} have gone while they were loaded"
            raise NotFound(sentence, reason="VERSION_NOT_FOUND", resource_name=name)

    async def unload(self, name: str, version: str) -> None:
        """Stops routing requests to a version; it is unloaded after its last request. Raises NotFound."""
        entry = self._registry.get(name, version)
        self._away.add((entry.name, entry.version))
        self._asked.discard((entry.name, entry.version))
        self._retire(entry)
        await self._notify(entry.name)

    async def _scan(self) -> dict[Key, Hashable] | None:
        """Scans the repository and its aliases. None if the repository is unavailable or does not respond in time: a
        disk may block for ever, and must not block the event loop."""
        try:
            async with asyncio.timeout(self._patience):
                seen = await aside("look", _seen, self._repository, self._registry)
        except TimeoutError:
            log.warning("the repository has not answered for %g seconds; it is looked at again", self._patience)
            self._patience = min(2 * self._patience, LONGEST_LOOK)
            return None
        except (OSError, RuntimeError) as error:  # it is unavailable, or there are no files or threads left
            log.warning("the repository cannot be looked at now: %s", error)
            return None
        self._patience = LOOK
        return seen

    async def _follow(self) -> None:
        """Applies changes, and notifies of the models that may have stopped serving."""
        for name in self._settle():
            await self._notify(name)

    def _settle(self) -> list[str]:
        """Starts to load what is wanted and not loaded, and retires what is loaded and not wanted. While a load of a
        wanted version of a model is pending, its loaded versions stay. Returns the names of models that were
        changed."""
        self._list()
        missing = [key for key in self._wanted() if self._loaded.get(key) != self._stamps[key]]
        for key in missing:
            if key not in self._loads:
                self._begin(key)
        self._registry.adopt()
        wanted, undecided, changed = set(self._wanted()), {name for name, _ in missing}, []
        for entry in self._registry.all():
            key = (entry.name, entry.version)
            gone = key not in self._stamps
            if entry.name in undecided or not (gone or (entry.ready and key not in wanted)):
                continue
            if gone:
                self._asked.discard(key)
            self._retire(entry, forget=gone)
            changed.append(entry.name)
        return changed

    def _list(self) -> None:
        """Adds an entry for each version on disk."""
        wanted = self._wanted()
        for key in self._stamps:
            entry = self._registry.entry(*key)
            if key not in self._loaded and key not in wanted:
                entry.state = State.MODEL_STATE_UNLOADED

    def _wanted(self) -> list[Key]:
        """The versions that should serve, small files first: of each model from the newest down to the first that is
        not refused, those that aliases name, and those that an administrator has loaded and not unloaded."""
        wanted: list[Key] = []
        for name in {name for name, _ in self._stamps}:
            aliases = self._registry.named(name)
            found = False
            for version in sorted((v for n, v in self._stamps if n == name), key=natural, reverse=True):
                key = (name, version)
                named = self._every_version or version in aliases or key in self._asked
                named = named or not version  # it is refused, which tells that it lies in the wrong place
                if self._asking[key] or (key not in self._away and (named or not found)):
                    wanted.append(key)
                found = found or not self._refused(key)
        return sorted(wanted, key=lambda key: _size(self._stamps[key]))

    def _refused(self, key: Key) -> bool:
        """Whether a version was refused with its files as they are now."""
        entry = self._registry.entry(*key) if key in self._loaded else None
        return entry is not None and entry.state == State.MODEL_STATE_REFUSED and self._loaded[key] == self._stamps[key]

    def _begin(self, key: Key) -> None:
        """Starts to load a version, with its files as they are now."""
        entry = self._registry.entry(*key)
        if not entry.ready:
            entry.state = State.MODEL_STATE_LOADING
        self._loads[key] = self._begun(self._load(key, self._stamps[key]))

    async def _load(self, key: Key, stamp: Hashable) -> None:
        """Loads a version. If that fails it is refused, unless it was serving before: then the loaded one keeps
        serving."""
        async with self._changing[key]:
            described = await self._loaded_or_not(key)
            entry = self._registry.entry(*key)  # retired at once if its files have been removed meanwhile
            if isinstance(described, LightwellError):
                self._refuse(entry, described)
            else:
                entry.state, entry.described = State.MODEL_STATE_READY, described
            self._loaded[key] = stamp
            del self._loads[key]
        for name in (key[0], *self._settle()):
            await self._notify(name)

    async def _loaded_or_not(self, key: Key) -> models.GetModelResponse | LightwellError:
        """A version's description, or why it is refused."""
        try:
            return await self._backend.load(*key)
        except LightwellError as error:
            return error
        except Exception:  # a bug that one model triggers must not affect the others
            log.exception("model %s@%s could not be loaded", *key)
            return Internal("internal error; the server's log has the details")

    def _refuse(self, entry: ModelVersion, error: LightwellError) -> None:
        if entry.ready:
            log.error("model %s has changed and is refused, what was loaded stays: %s", entry.id, error.message)
        else:
            entry.state, entry.reason = State.MODEL_STATE_REFUSED, error.message

    def _retire(self, entry: ModelVersion, forget: bool = False) -> None:
        """Stops routing requests to a version."""
        ready = entry.ready
        entry.state = State.MODEL_STATE_UNLOADED
        self._loaded.pop((entry.name, entry.version), None)
        if forget:
            self._registry.remove(entry)
        if ready:
            self._begun(self._unload(entry))

    def _begun(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Starts a task and keeps a reference to it until it is done."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _unload(self, entry: ModelVersion) -> None:
        """Unloads a version after its last request, unless it has been loaded again meanwhile."""
        while entry.users:
            await asyncio.sleep(0.1)
        async with self._changing[entry.name, entry.version]:
            if not self._registry.answers(entry.name, entry.version):
                await self._backend.unload(entry.name, entry.version)
                log.info("model %s is unloaded", entry.id)


def _seen(repository: Path, registry: ModelRegistry) -> dict[Key, Hashable] | None:
    """Reads the aliases, and the stamps of each version's files; None if there is no repository."""
    if not repository.is_dir():
        return None
    registry.read_aliases()
    return _stamps(repository)


def _stamps(repository: Path) -> dict[Key, Hashable]:
    """A stamp of each version's files, by which changes are detected: size, time and inode of the model's file and the
    card."""
    return {key: tuple(map(_stamp, (file, file.with_name("card.toml")))) for key, file in files(repository).items()}


def _stamp(path: Path) -> tuple[int, int, int]:
    """The stamp of a file; the negative error number if it cannot be read."""
    try:
        stat = path.stat()
    except OSError as error:
        return 0, 0, -(error.errno or 0)
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def _size(stamp: Hashable) -> int:
    return stamp[0][0]  # type: ignore[index,no-any-return] # as _stamps makes them
