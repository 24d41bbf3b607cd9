"""A server whose workers can be poisoned: `python -m bench.fault.poisoned`, with the options of a server."""

from lightwell_server.__main__ import main
from lightwell_server.pool import slot

if __name__ == "__main__":
    slot.MODULE = "bench.fault.poisoned_worker"
    main()
