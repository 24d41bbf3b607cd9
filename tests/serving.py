"""Real servers for tests: processes of their own, asked over real sockets."""

from lightwell.serving import Server, bundled, served

__all__ = ["Server", "bundled", "served"]
