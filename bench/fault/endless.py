"""A server that never finishes the loading of some models: `python -m bench.fault.endless`, with a server's options."""

from lightwell_server.__main__ import main
from lightwell_server.pool import slot

if __name__ == "__main__":
    slot.MODULE = "bench.fault.endless_worker"
    main()
