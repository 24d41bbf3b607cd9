"""Real servers for tests: processes of their own, asked over real sockets."""

from lightwell.serving import Server, bundled
from lightwell.serving import served as served_as_is

__all__ = ["Server", "bundled", "served", "served_as_is"]


def served(repository, *options, **more):
    """A server with all in one process, which starts faster, unless the options say otherwise."""
    return served_as_is(repository, "--workers", "0", *options, **more)
