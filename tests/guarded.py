"""A server that lets in only whom it knows: TLS, callers' certificates and tokens."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.serving import bundled, served
from tests.transport.test_access import Authority

TOKEN, LOOKER = "a-token-that-explains", "a-token-that-only-looks"


@dataclass(frozen=True)
class Guarded:
    """Where it is, and what a caller must show: files, and `TOKEN`."""

    address: str
    ca: Path
    certificate: Path
    key: Path


@contextmanager
def guarded(folder: Path) -> Iterator[Guarded]:
    """A server of the bundled model; its files go into the folder."""
    authority = Authority("tests")
    files = {"ca.pem": authority.pem}
    for name in ("server", "caller"):
        files[f"{name}.pem"], files[f"{name}.key"] = authority.issue(name)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / "tokens.toml").write_text(
        f'[team]\ntoken = "{TOKEN}"\nrights = ["explain"]\n[looker]\ntoken = "{LOOKER}"\nrights = ["admin"]\n'
    )
    flags = {
        "tls-certificate": "server.pem",
        "tls-key": "server.key",
        "tls-client-ca": "ca.pem",
        "tokens": "tokens.toml",
    }
    words = [word for flag, name in flags.items() for word in (f"--{flag}", str(folder / name))]
    with served(bundled(), "--threads", "1", *words) as server:
        yield Guarded(server.address, folder / "ca.pem", folder / "caller.pem", folder / "caller.key")
