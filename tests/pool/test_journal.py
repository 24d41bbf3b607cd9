"""The record of what a device is at: another process reads it while it is written."""

import subprocess
import sys
import time

from lightwell_server.pool.journal import NUMBERS, CrashJournal

WRITES = """
import pathlib, sys
from lightwell_server.pool.journal import CrashJournal
record = CrashJournal(pathlib.Path(sys.argv[1]))
print("at work", flush=True)
while True:
    record.write([7, 8, 9])
    record.write(range(400))
"""


def test_what_is_read_is_what_was_written_last(tmp_path):
    record, before = CrashJournal(tmp_path / "0.record"), time.monotonic()
    assert record.read()[1] == frozenset()
    record.write([3, 4])
    since, at_work = CrashJournal(tmp_path / "0.record").read()
    assert at_work == {3, 4} and before <= since <= time.monotonic()
    record.write(range(2 * NUMBERS))
    assert record.read()[1] == set(range(NUMBERS))
    record.clear()
    assert record.read()[1] == frozenset()


def test_nothing_that_was_never_written_is_read_from_another_process(tmp_path):
    record, before = CrashJournal(tmp_path / "0.record"), time.monotonic()
    record.write([7, 8, 9])
    writer = subprocess.Popen([sys.executable, "-c", WRITES, tmp_path / "0.record"], stdout=subprocess.PIPE)
    with writer:
        assert writer.stdout.readline() == b"at work\n"
        read = []
        while len(read) < 100_000 or len({at_work for _, at_work in read[-10_000:]}) < 2:  # the writer may have to wait
            read.append(record.read())
            assert time.monotonic() < before + 60
        writer.kill()
    assert {at_work for _, at_work in read} == {frozenset((7, 8, 9)), frozenset(range(400))}
    assert all(before <= since <= time.monotonic() for since, _ in read)
