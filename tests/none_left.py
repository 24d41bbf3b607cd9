"""A pool whose process has no descriptors left when its worker ends; it prints how that went."""

import asyncio
import os
import resource
import signal

from tests.pool.test_exhaustion import living, until


def used_up():
    opened = []
    while True:
        try:
            opened.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            return opened


async def story():
    async with living() as pool:
        (slot,) = pool._slots
        await until(lambda: slot.ready)
        first, opened = slot.pid, used_up()
        os.kill(first, signal.SIGKILL)
        await until(lambda: slot.ready and slot.pid != first)
        again = used_up()
        print("ready", len(opened) > 20, len(again) < 20, slot.last_end, flush=True)
        for descriptor in opened + again:
            os.close(descriptor)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    asyncio.run(story())
