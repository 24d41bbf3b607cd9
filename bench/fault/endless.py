"""A server that never finishes the loading of some models: `python -m bench._endless`, with the options of a server."""

from lightwell_server.__main__ import main
from lightwell_server.pool import slot

if __name__ == "__main__":
    slot.MODULE = "bench._endless_worker"
    main()
