"""Models that come and go while a server runs: what is loaded follows the repository, and nobody asks in vain."""

import asyncio
import shutil
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from lightwell_server.config import Settings
from lightwell_server.errors import NotFound, Refused, Unavailable
from lightwell_server.gateway import reconciler as reconcilers
from lightwell_server.gateway.reconciler import Reconciler
from lightwell_server.gateway.registry import ModelRegistry, State
from lightwell_server.models import store
from lightwell_server.runtime.device import Device
from tests.curating import curated, hurry
from tests.nets import Residual, export, seeded

SIDE = 16


def add(repository, version, seed=0, classes=5, name="net"):
    """A version, moved into place as a whole."""
    parts = repository.parent / f"parts-{name}-{version}"
    parts.mkdir()
    export(seeded(Residual, classes, seed=seed), "scripted", parts).rename(parts / "model.pt")
    (parts / "card.toml").write_text(f"[input]\nsize = [{SIDE}, {SIDE}]\n")
    target = repository / name / version
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        shutil.rmtree(target)
    parts.rename(target)
    return target


def write(aliases, text):
    """Moves a file of aliases into place: one that is being written may be read while it is empty."""
    parts = aliases.with_suffix(".parts")
    parts.write_text(text)
    parts.rename(aliases)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    hurry(monkeypatch)
    add(tmp_path / "repository", "1")
    return tmp_path / "repository"


@asynccontextmanager
async def kept(repository, every_version=False):
    """A library that is kept in step with a repository."""

    async def told(name):
        pass

    library, device = ModelRegistry(repository), Device(Settings(repository=repository), "cpu")
    reconciler = Reconciler(repository, library, device, told, every_version)
    await reconciler.expect()
    await reconciler.load_all()
    watching = asyncio.create_task(reconciler.watch())
    try:
        yield library, reconciler, device
        assert not watching.done()
    finally:
        watching.cancel()
        await device.stop()


async def until(condition, patience=20.0):
    async with asyncio.timeout(patience):
        while not condition():
            await asyncio.sleep(0.02)


def test_a_new_version_takes_over_and_the_old_one_goes_when_its_last_request_is_over(repository):
    async def story():
        async with kept(repository) as (library, _, device):
            old = library.get("net")
            with old.used():
                add(repository, "2", seed=1)
                await until(lambda: library.get("net").version == "2")
                assert library.get("net").described.summary.digest != old.described.summary.digest
                await asyncio.sleep(0.3)
                assert ("net", "1") in device._models, "a request is at work with it"
                with pytest.raises(NotFound, match="net@1 is not loaded"):
                    library.get("net", "1")
            await until(lambda: ("net", "1") not in device._models)
            assert [entry.state for entry in library.all()] == [State.MODEL_STATE_UNLOADED, State.MODEL_STATE_READY]

    asyncio.run(story())


def test_a_new_version_that_is_refused_never_serves_and_the_old_one_stays(repository):
    async def story():
        async with kept(repository) as (library, _, _):
            bad = add(repository, "2")
            (bad / "model.pt").write_bytes(b"no model")
            await until(lambda: library.all()[-1].state == State.MODEL_STATE_REFUSED)
            assert library.get("net").version == "1"
            with pytest.raises(Refused, match="net@2 was refused"):
                library.get("net", "2")
            add(repository, "2", seed=2)  # its files are mended
            await until(lambda: library.get("net").version == "2")

    asyncio.run(story())


def test_a_server_that_starts_beside_a_refused_version_serves_the_one_before(repository):
    async def story():
        bad = add(repository, "10")
        (bad / "model.pt").write_bytes(b"no model")
        add(repository, "9", seed=2)
        async with kept(repository) as (library, _, device):
            assert library.get("net").version == "9" and set(device._models) == {("net", "9")}

    asyncio.run(story())


def test_all_versions_are_kept_where_that_is_wanted(repository):
    async def story():
        add(repository, "2", seed=1)
        async with kept(repository, every_version=True) as (library, _, _):
            assert library.get("net", "1").version == "1" and library.get("net").version == "2"

    asyncio.run(story())


def test_aliases_keep_versions_and_move_in_one_line(repository):
    async def story():
        add(repository, "2", seed=1)
        add(repository, "3", seed=2)
        aliases = repository / "aliases.toml"
        write(aliases, '[net]\nstable = "1"\n')
        async with kept(repository) as (library, _, device):
            assert library.get("net@stable").version == "1" == library.get("net", "stable").version
            assert library.get("net").version == "3" and set(device._models) == {("net", "1"), ("net", "3")}
            write(aliases, '[net]\nstable = "2"\ncanary = "3"\n')
            await until(lambda: ("net", "2") in device._models and ("net", "1") not in device._models)
            assert library.get("net@stable").version == "2" and library.get("net@canary").version == "3"
            write(aliases, "[net]\nstable = 1\n")  # no text: the aliases before stay in force
            await asyncio.sleep(0.3)
            assert library.get("net@stable").version == "2"
            write(aliases, '[net]\nstable = "7"\nnext = "7"\n')  # there is none
            await until(lambda: "next" in library.aliases["net"])
            assert library.get("net@stable").version == "2", "it means what it meant while that answers"
            with pytest.raises(NotFound, match="no version '7', which 'next' stands for; it has 1, 2, 3"):
                library.get("net@next")

    asyncio.run(story())


def test_an_alias_that_moves_answers_all_the_time(repository):
    async def story():
        for version in "23":
            add(repository, version, seed=int(version))
        aliases = repository / "aliases.toml"
        write(aliases, '[net]\nstable = "1"\n')
        async with kept(repository) as (library, _, _):
            write(aliases, '[net]\nstable = "2"\n')
            seen = set()
            async with asyncio.timeout(20):
                while "2" not in seen:
                    seen.add(library.get("net@stable").version)
                    await asyncio.sleep(0.005)
            assert seen == {"1", "2"}

    asyncio.run(story())


def test_without_a_name_the_one_model_that_answers_is_meant(tmp_path):
    library = ModelRegistry(tmp_path)
    loading = [library.entry(name, "1") for name in ("net", "other")]
    with pytest.raises(NotFound, match="name a model: net, other"):
        library.get()
    loading[0].state = State.MODEL_STATE_REFUSED
    with pytest.raises(Unavailable):
        library.get()
    loading[0].state = State.MODEL_STATE_READY
    library.entry("third", "1").state = State.MODEL_STATE_REFUSED
    assert library.get().name == "net", "whatever else is being loaded"
    loading[1].state = State.MODEL_STATE_READY
    with pytest.raises(NotFound, match="name a model: net, other, third"):
        library.get()


def test_wrong_aliases_are_told_when_a_server_starts(repository):
    (repository / "aliases.toml").write_text("[net]\nstable = 1\n")
    with pytest.raises(ValueError, match=r"net\.stable: .*write versions in quotes"):
        ModelRegistry(repository)


def test_administrators_load_and_unload(repository):
    async def story():
        add(repository, "2", seed=1)
        async with kept(repository) as (library, reconciler, device):
            assert (await reconciler.load("net", "1")).summary.version == "1"
            await asyncio.sleep(0.2)
            assert library.get("net", "1").ready and library.get("net").version == "2"
            await reconciler.unload("net", "2")
            await until(lambda: ("net", "2") not in device._models)
            assert library.get("net").version == "1", "what was asked for stays"
            await reconciler.unload("net", "1")
            with pytest.raises(NotFound, match="have an administrator load it"):
                library.get("net")
            await asyncio.sleep(0.2)
            assert not device._models, "nothing comes back by itself"
            assert (await reconciler.load("net", "")).summary.version == "2"
            for name, version in (("net", "5"), ("other", "")):
                with pytest.raises(NotFound, match="the repository has no"):
                    await reconciler.load(name, version)

    asyncio.run(story())


def test_files_that_change_in_place_are_loaded_anew(repository):
    async def story():
        async with kept(repository) as (library, _, _):
            before = library.get("net").described.summary.digest
            parts = repository.parent / "other"
            parts.mkdir()
            export(seeded(Residual, seed=5), "scripted", parts).replace(repository / "net" / "1" / "model.pt")
            await until(lambda: library.get("net").described.summary.digest != before)
            (repository / "net" / "1" / "model.pt").write_bytes(b"no model")
            await asyncio.sleep(0.5)
            assert library.get("net").ready, "what was loaded still answers"

    asyncio.run(story())


def test_a_version_that_is_removed_goes_and_a_disk_that_is_away_takes_nothing_along(repository):
    async def story():
        add(repository, "1", name="other")
        async with kept(repository) as (library, _, device):
            repository.rename(repository.parent / "away")
            await asyncio.sleep(0.3)
            assert library.get("net").ready and library.get("other").ready
            (repository.parent / "away").rename(repository)
            shutil.rmtree(repository / "net")
            await until(lambda: set(device._models) == {("other", "1")})
            assert library.get().name == "other"
            with pytest.raises(NotFound, match="there is no model 'net'"):
                library.get("net")

    asyncio.run(story())


def test_what_is_still_being_loaded_says_so(repository):
    library = ModelRegistry(repository)
    library.entry("net", "1")
    with pytest.raises(Unavailable, match="still being loaded"):
        library.get("net")


def test_models_that_are_loaded_have_answered_once(repository):
    add(repository, "1", name="other")

    async def story():
        async with kept(repository) as (_, _, device):
            assert len(device._engine._scheduler._experience) == 2, "a step for each of the two models"

    asyncio.run(story())


def test_a_version_that_goes_before_its_successor_is_there_answers_until_then(repository):
    async def story():
        async with kept(repository) as (library, _, _):
            before = library.get("net")
            add(repository, "2", seed=2)
            shutil.rmtree(repository / "net" / "1")
            while (now := library.get("net")) is before:
                await asyncio.sleep(0)
            assert now.version == "2"

    asyncio.run(story())


def test_a_version_that_may_not_be_read_hides_no_other(repository, monkeypatch):
    for version in "234":
        add(repository, version)
    real = Path.stat

    def stat(path, **options):
        if path.parent.name in ("2", "4"):
            raise PermissionError(13, "Permission denied", str(path))  # which an administrator's tests never meet
        return real(path, **options)

    monkeypatch.setattr(Path, "stat", stat)
    library, _, _ = curated(repository)
    assert library.get("net").version == "3"
    newest = library.versions("net")[-1]
    assert (newest.version, newest.state) == ("4", State.MODEL_STATE_REFUSED) and "Permission denied" in newest.reason


def test_loading_a_version_loads_nothing_else_that_is_still_being_copied(repository, monkeypatch):
    monkeypatch.setattr(reconcilers, "EVERY", 60.0)  # the next look would find it

    async def story():
        async with kept(repository) as (library, reconciler, _):
            half = repository / "other" / "1"
            half.mkdir(parents=True)
            (half / "model.pt").write_bytes(b"the first bytes of a model")
            await reconciler.load("net", "1")
            assert {entry.name for entry in library.all()} == {"net"}

    asyncio.run(story())


def test_a_load_is_finished_when_who_asked_for_it_has_left(repository):
    async def story():
        add(repository, "2", seed=1)
        async with kept(repository) as (library, reconciler, device):
            asking = asyncio.create_task(reconciler.load("net", "1"))
            await until(lambda: library.versions("net")[0].state == State.MODEL_STATE_LOADING)
            asking.cancel()
            await until(lambda: library.versions("net")[0].ready)
            assert set(device._models) == {("net", "1"), ("net", "2")}

    asyncio.run(story())


def test_a_look_at_the_repository_that_fails_ends_nothing(repository, monkeypatch):
    async def story():
        async with kept(repository) as (library, _, _):
            real = reconcilers.files

            def stale(path):
                raise OSError(116, "Stale file handle")

            monkeypatch.setattr(reconcilers, "files", stale)
            await asyncio.sleep(0.2)
            assert library.get("net").ready
            monkeypatch.setattr(reconcilers, "files", real)
            add(repository, "2", seed=1)
            await until(lambda: library.get("net").version == "2")

    asyncio.run(story())


def test_an_accelerator_that_fails_while_a_model_is_loaded_ends_its_process(repository, monkeypatch):
    ended = []

    def broken(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    async def load():
        device = Device(Settings(repository=repository), "cpu", failed=lambda: ended.append(True))
        with pytest.raises(Refused, match="illegal memory access"):
            await device.load("net", "1")
        await device.stop()

    monkeypatch.setattr(store, "lift", broken)
    asyncio.run(load())
    assert ended == [True]


def test_a_file_in_no_versions_directory_is_told(repository):
    """It is listed and refused, beside good versions too; where it should be, it answers."""
    shutil.copyfile(repository / "net" / "1" / "model.pt", repository / "net" / "model.pt")
    shutil.copyfile(repository / "net" / "1" / "model.pt", repository / "model.pt")
    (repository / "lone").mkdir()
    shutil.copyfile(repository / "net" / "1" / "model.pt", repository / "lone" / "model.pt")

    async def story():
        async with kept(repository) as (library, _, _):
            assert library.get("net").version == "1"
            refused = {entry.name: entry.reason for entry in library.all() if not entry.version}
            assert set(refused) == {"net", "lone", "model.pt"}
            assert "move it to <model>/<version>/, such as lone/1/model.pt" in refused["lone"]
            assert "such as net/1/model.pt" in refused["model.pt"]
            with pytest.raises(Refused, match="model lone was refused: it lies in no directory"):
                library.get("lone")
            (repository / "lone" / "1").mkdir()
            shutil.copyfile(repository / "net" / "1" / "card.toml", repository / "lone" / "1" / "card.toml")
            (repository / "lone" / "model.pt").rename(repository / "lone" / "1" / "model.pt")
            await until(lambda: [entry.version for entry in library.versions("lone") if entry.ready] == ["1"])
            await until(lambda: len(library.versions("lone")) == 1)

    asyncio.run(story())
