"""Runs commands as a person does: on a terminal."""

import os
import pty
import re
import signal
import subprocess

_STYLES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_terminal(command, timeout=120, interrupt_at=None):
    """The exit code of a command, and the lines that came to the terminal, without colours. Ctrl-C is sent as soon as
    the pattern `interrupt_at` is found in them."""
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
            if interrupt_at and re.search(interrupt_at, _STYLES.sub("", seen.decode(errors="ignore"))):
                process.send_signal(signal.SIGINT)
                interrupt_at = None
        code = process.wait(timeout)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return code, [line for line in re.split(r"[\r\n]+", _STYLES.sub("", seen.decode())) if line.strip()]
