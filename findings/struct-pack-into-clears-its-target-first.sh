#!/usr/bin/env bash
# CPython 3.11 to 3.13: struct.pack_into fills its target with zeros before it writes the first value.
#
# Guess: a field that gets the value it had keeps it all the while, and two aligned numbers of eight bytes that are packed
# into shared memory are each, at any moment, the old or the new one: so a single writer needs no lock where a reader can
# do with either.
# Happens: all bytes of the format are zero first, then the values are written one after the other. A reader in another
# process (mmap, multiprocessing.shared_memory) finds zeros that nobody has written: a time stamp of 0, a length of 0. Item
# assignment to a memoryview cast to "q" writes one number, and nothing before it.
#
#   struct.pack_into   while the second value is written: (7, 0)   it was (7, 8) and becomes (7, 9)
#   memoryview.cast    while the second value is written: (7, 8)   it was (7, 8) and becomes (7, 9)
set -euo pipefail
python3 - <<'END'
import platform
import struct
import sys

memory = bytearray(struct.pack("<qq", 7, 8))
found = {}


class Nine:
    """A number that looks at the memory when it is asked for its value."""

    def __index__(self):
        found[name] = struct.unpack("<qq", memory)
        return 9


print("CPython", platform.python_version())
name = "struct.pack_into"
struct.pack_into("<qq", memory, 0, 7, Nine())
memory[:] = struct.pack("<qq", 7, 8)
name = "memoryview.cast"
memoryview(memory).cast("q")[1] = Nine()
for name, seen in found.items():
    print(f"{name:<17}  while the second value is written: {seen}   it was (7, 8) and becomes (7, 9)")
if found != {"struct.pack_into": (7, 0), "memoryview.cast": (7, 8)}:
    sys.exit("changed")
END
