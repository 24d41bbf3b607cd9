"""A server whose workers can be poisoned: `python -m bench._poisoned`, with the options of a server."""

from lightwell_server.__main__ import main
from lightwell_server.pool import place

if __name__ == "__main__":
    place.MODULE = "bench._poisoned_worker"
    main()
