"""What may lie in a repository, looked at before it is opened: names, and what they name."""

from __future__ import annotations

import errno
from pathlib import Path

from lightwell_server.errors import Refused

WANT = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""What is wrong with this machine now, and says nothing of a file."""


def shown(name: str) -> str:
    """A name on disk in characters that can be printed and sent: bytes that are no UTF-8 as `\\xff`, other characters
    that a name may not have as `\\u0007`. No two names are shown alike."""
    return "".join(_shown(character) for character in name)


def plain(name: str) -> bool:
    """Whether a model or a version may have that name: UTF-8 that can be printed, without the @ that stands between
    both, and without the backslash of what is `shown` in its place."""
    return shown(name) == name


def there(path: Path) -> bool:
    """Whether there is something of that name, also if nobody can tell what."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # whoever opens it is told why that cannot be done
    return True


def regular(path: Path) -> Path:
    """The path itself. Raises `Refused` if it is no file that can be read to its end without waiting for somebody to
    write it, such as a directory, a pipe, a socket or a device; OSError if nobody can tell."""
    path.stat()
    if not path.is_file():
        kind = "a directory" if path.is_dir() else "a pipe, a socket or a device"
        raise Refused(f"{path.name} is {kind} and no regular file; put the file itself in its place")
    return path


def _shown(character: str) -> str:
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:  # how Python reads a byte that is no UTF-8
        return f"\\x{number - 0xDC00:02x}"
    if character == "\\":
        return "\\\\"
    if character.isprintable() and character != "@":
        return character
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
