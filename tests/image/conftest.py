"""What the image's tests share: a server in a container, the image's files, and lines that are told at the end."""

from pathlib import Path

import pytest

from lightwell.serving import bundled
from tests.image.containers import IMAGE, podman, serving

TOLD = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def server():
    """Two workers that serve a repository of the host, mounted at /models."""
    with serving("serve", "--workers", "2", volume=bundled()) as container:
        yield container


@pytest.fixture(scope="session")
def root():
    """The image's files."""
    yield Path(podman("image", "mount", IMAGE).stdout.strip())
    podman("image", "unmount", IMAGE)


@pytest.fixture
def tell(request):
    """Adds a line to what is told at the end."""
    return request.config.stash.setdefault(TOLD, []).append


def pytest_terminal_summary(terminalreporter, config):
    for line in config.stash.get(TOLD, []):
        terminalreporter.write_line(line)
