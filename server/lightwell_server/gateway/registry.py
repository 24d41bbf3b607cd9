"""The models by name: which versions there are, which of them serve, and what a name refers to."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from lightwell.v1 import models_pb2 as models
from lightwell_server.errors import LightwellError, NotFound, Refused, Unavailable, nearest
from lightwell_server.models.disk import natural
from lightwell_server.observability.metrics import GatewayMetrics
from lightwell_server.reload import Watched

ALIASES = "aliases.toml"
"""The file of a repository with other names for versions: a table for each model, `stable = "1"`."""
State = models.ModelState
Aliases = Mapping[str, Mapping[str, str]]


@dataclass(eq=False)
class ModelVersion:
    """A version. `described` is the device's description from when it was loaded; `users` counts the requests that use
    it."""

    name: str
    version: str
    state: State.ValueType = State.MODEL_STATE_LOADING
    reason: str = ""
    described: models.GetModelResponse = field(default_factory=models.GetModelResponse)
    users: int = 0

    @property
    def id(self) -> str:
        """Name and version; of a file in no version's directory the name alone."""
        return f"{self.name}@{self.version}" if self.version else self.name

    @property
    def kind(self) -> str:
        """Its kind: classifier, stylizer or generator."""
        return models.ModelKind.Name(self.described.summary.kind).removeprefix("MODEL_KIND_").lower()

    @property
    def ready(self) -> bool:
        """Whether it serves."""
        return self.state == State.MODEL_STATE_READY

    @property
    def summary(self) -> models.ModelSummary:
        """Its entry in the list of models."""
        if self.ready:
            return self.described.summary
        return models.ModelSummary(name=self.name, version=self.version, state=self.state, reason=self.reason)

    @contextmanager
    def used(self) -> Iterator[ModelVersion]:
        """Counts a user during the block."""
        self.users += 1
        try:
            yield self
        finally:
            self.users -= 1


@contextmanager
def used(entries: Iterable[ModelVersion]) -> Iterator[None]:
    """Counts a user of each version during the block."""
    with ExitStack() as stack:
        for entry in entries:
            stack.enter_context(entry.used())
        yield


class ModelRegistry:
    """Every version of every model. `aliases` are other names for versions, by model; they are read from the file
    `aliases`, else from the repository's."""

    def __init__(self, repository: Path, metrics: GatewayMetrics | None = None, *, aliases: Path | None = None) -> None:
        self._models: dict[str, dict[str, ModelVersion]] = {}  # by name, each one's versions by `natural`
        self._metrics = metrics or GatewayMetrics()
        path = aliases or repository / ALIASES
        self._aliases = Watched("aliases", [path], lambda: _aliases(path), self._metrics)
        self.aliases = self._aliases.last

    def read_aliases(self) -> None:
        """Reads the aliases if their file has changed. Safe from any thread; blocks for as long as the disk does."""
        self._aliases.get()

    def named(self, name: str) -> set[str]:
        """The versions of a model that aliases name, now or after the next `adopt`."""
        return {*self.aliases.get(name, {}).values(), *self._aliases.last.get(name, {}).values()}

    def adopt(self) -> None:
        """Applies the aliases that were last read. An alias whose new version does not serve keeps its old one while
        that serves."""

        def meant(name: str, alias: str, version: str) -> str:
            old = self.aliases.get(name, {}).get(alias, version)
            return old if self.answers(name, old) and not self.answers(name, version) else version

        wanted = self._aliases.last.items()
        self.aliases = {n: {alias: meant(n, alias, v) for alias, v in found.items()} for n, found in wanted}

    def answers(self, name: str, version: str) -> bool:
        """Whether a version serves."""
        entry = self._models.get(name, {}).get(version)
        return entry is not None and entry.ready

    def entry(self, name: str, version: str) -> ModelVersion:
        """A version's entry, created if there is none."""
        found = self._models.get(name, {})
        if not found:
            self._metrics.start_model(name)
        if version not in found:
            made = {**found, version: ModelVersion(name, version)}
            found = {each: made[each] for each in sorted(made, key=natural)}
            self._models = dict(sorted({**self._models, name: found}.items()))
        return found[version]

    def remove(self, entry: ModelVersion) -> None:
        """Removes a version."""
        versions = self._models[entry.name]
        del versions[entry.version]
        if not versions:
            del self._models[entry.name]

    def all(self) -> list[ModelVersion]:
        """Every version, sorted by name, the newest of a model last."""
        return [entry for versions in self._models.values() for entry in versions.values()]

    def versions(self, name: str) -> list[ModelVersion]:
        """The versions of a model, the newest last."""
        return list(self._models.get(name, {}).values())

    def ready(self) -> list[ModelVersion]:
        """Every version that serves."""
        return [entry for entry in self.all() if entry.ready]

    def get(self, name: str = "", version: str = "") -> ModelVersion:
        """A version that serves, by the names in a request; without a name the only model, without a version the
        newest. Raises NotFound, Refused, Unavailable."""
        if "@" in name and not version:
            name, _, version = name.partition("@")
        if not name:
            name = self._only()
        if name not in self._models:
            raise NotFound(
                f"there is no model {name!r}; {nearest(name, list(self._models))}"
                if name
                else f"name a model: {', '.join(self._models)}",
                reason="MODEL_NOT_FOUND",
                resource_name=name,
            )
        return self._answering(name, version)

    def _only(self) -> str:
        """The name of the only model that serves, even if others are loading; if none serves, of the only one that is
        not refused in all its versions. Empty if there are several, or none."""
        alive = {entry.name for entry in self.all() if entry.state != State.MODEL_STATE_REFUSED}
        names = {entry.name for entry in self.ready()} or alive or set(self._models)
        return names.pop() if len(names) == 1 else ""

    def _answering(self, name: str, version: str) -> ModelVersion:
        versions = self.versions(name)
        if not version:
            entry = ([entry for entry in versions if entry.ready] or versions)[-1]
        else:
            aliases = self.aliases.get(name, {})
            wanted = aliases.get(version, version)
            found = [entry for entry in versions if entry.version == wanted]
            if not found:
                known = ", ".join([*(entry.version for entry in versions), *(a for a in aliases if a != version)])
                means = f", which {version!r} stands for" if version in aliases else ""
                raise NotFound(
                    f"model {name} has no version {wanted!r}{means}; it has {known}",
                    reason="VERSION_NOT_FOUND",
                    resource_name=f"{name}@{version}",
                )
            (entry,) = found
        if not entry.ready:
            raise _silent(entry)
        return entry

    def listed(self) -> models.ListModelsResponse:
        """The list of all versions."""
        return models.ListModelsResponse(models=[entry.summary for entry in self.all()])


def _silent(entry: ModelVersion) -> LightwellError:
    """Why a version does not serve."""
    if entry.state == State.MODEL_STATE_REFUSED:
        return Refused(f"model {entry.id} was refused: {entry.reason}")
    if entry.state == State.MODEL_STATE_UNLOADED:
        return NotFound(
            f"model {entry.id} is not loaded; ask for the newest version, or have an administrator load it",
            reason="VERSION_NOT_LOADED",
            resource_name=entry.id,
        )
    return Unavailable(f"model {entry.id} is still being loaded; try again soon", reason="NOT_READY")


def _aliases(path: Path) -> Aliases:
    """The aliases of a file; none if there is no file. Raises ValueError saying what is wrong."""
    if not path.exists():
        return {}
    if not path.is_file():
        raise ValueError(f"{path} is no regular file; put the file itself in its place")
    try:
        return TypeAdapter(dict[str, dict[str, str]]).validate_python(tomllib.loads(path.read_text("utf-8")))
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ValueError(f'{path}: {wrong}; write versions in quotes, such as stable = "1"') from None
