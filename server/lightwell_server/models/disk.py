"""Checks the names in a repository, and the files that they name, before these are opened."""

from __future__ import annotations

import errno
import re
from pathlib import Path

from lightwell_server.errors import Refused

WANT = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""Errors of this machine at the moment, which say nothing about a file."""


def shown(name: str) -> str:
    """A name on disk in characters that can be printed and sent: bytes that are not UTF-8 as `\\xff`, other characters
    that a name may not have as `\\u0007`. Different names are shown differently."""
    return "".join(_shown(character) for character in name)


def plain(name: str) -> bool:
    """Whether a model or a version may have this name: printable UTF-8, without the @ that separates the two, and
    without the backslash of an escape."""
    return shown(name) == name


def natural(version: str) -> tuple[list[tuple[int, str]], str]:
    """A sort key for versions with numbers by value: 2 before 10. No two are equal."""
    parts = re.split(r"(\d+)", version)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], version


def there(path: Path) -> bool:
    """Whether something of this name exists, also if its kind cannot be found out."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # opening it reports the reason
    return True


def regular(path: Path) -> Path:
    """The path itself. Raises `Refused` if it is not a file that can be read to its end without waiting for a writer,
    such as a directory, a pipe, a socket or a device; OSError if this cannot be found out."""
    path.stat()
    if not path.is_file():
        kind = "a directory" if path.is_dir() else "a pipe, a socket or a device"
        raise Refused(f"{path.name} is {kind} and no regular file; put the file itself in its place")
    return path


def _shown(character: str) -> str:
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:  # how Python decodes a byte that is not UTF-8
        return f"\\x{number - 0xDC00:02x}"
    if character == "\\":
        return "\\\\"
    if character.isprintable() and character != "@":
        return character
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
