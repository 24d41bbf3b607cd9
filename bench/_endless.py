"""A server that never finishes the loading of some models: `python -m bench._endless`, with the options of a server."""

from lightwell_server.__main__ import main
from lightwell_server.pool import place

if __name__ == "__main__":
    place.MODULE = "bench._endless_worker"
    main()
