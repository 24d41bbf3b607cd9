"""A server whose workers can be poisoned: `python -m bench._poisoned`, with the options of a server."""

from lightwell_server.__main__ import main
from lightwell_server.pool import slot

if __name__ == "__main__":
    slot.MODULE = "bench._poisoned_worker"
    main()
