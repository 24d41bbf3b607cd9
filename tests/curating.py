"""A repository's models as a server has them, without a server; and servers that look at it at short intervals."""

import asyncio

from lightwell_server import reload
from lightwell_server.config import Settings
from lightwell_server.gateway import reconciler as reconcilers
from lightwell_server.gateway.reconciler import Reconciler
from lightwell_server.gateway.registry import ModelRegistry
from lightwell_server.runtime.device import Device


def hurry(monkeypatch):
    """Has reconcilers of this process look at models and files all the time."""
    monkeypatch.setattr(reconcilers, "EVERY", 0.05)
    monkeypatch.setattr(reload, "EVERY", 0.0)


def curated(repository, decided=None, **settings):
    """The library once all of a repository is decided, and the names of the models in the order in which they were,
    which can be watched in a list of one's own."""
    decided = [] if decided is None else decided

    async def load():
        library = ModelRegistry(repository)

        async def told(name):
            decided.append(name)

        device = Device(Settings(repository=repository, **settings), "cpu")
        reconciler = Reconciler(repository, library, device, told)
        await reconciler.expect()
        before = library.listed()
        await reconciler.load_all()
        await device.stop()
        return library, decided, before

    return asyncio.run(load())
