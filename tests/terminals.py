"""Runs commands as a person does: on a terminal."""

import os
import pty
import re
import subprocess

_STYLES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_terminal(command, timeout=120):
    """The exit code of a command, and the lines that came to the terminal, without colours."""
    ours, its = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(command, stdin=its, stdout=its, stderr=its, env=environment)
    os.close(its)
    seen = b""
    try:
        while True:
            try:
                seen += os.read(ours, 65536)
            except OSError:  # the other end is closed: the command is over
                break
        code = process.wait(timeout)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return code, [line for line in re.split(r"[\r\n]+", _STYLES.sub("", seen.decode())) if line.strip()]
