"""Containers of the image, as strict as a cluster runs them: a root that is read-only, no capabilities, no new ones."""

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

IMAGE = os.environ["IMAGE"]
PODMAN = ("podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs")
STRICT = (
    *("--read-only", "--read-only-tmpfs=false", "--tmpfs", "/tmp"),
    *("--cap-drop", "all", "--security-opt", "no-new-privileges"),
    *("--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096"),
    *("--network", "host", "--no-healthcheck"),
)
FREE_PORTS = ("--env", "LIGHTWELL_ADDRESS=127.0.0.1:0", "--env", "LIGHTWELL_METRICS_PORT=0")
_READY = re.compile(r"lightwell: serving \d+ models on port (\d+)")


def podman(*words: str, succeeds: bool = True) -> subprocess.CompletedProcess[str]:
    """What podman answers. A command that does not succeed fails the test with what it said, unless it may."""
    done = subprocess.run([*PODMAN, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not succeeds, f"podman {' '.join(words)}: {done.stderr}"
    return done


def inspected(name: str) -> dict:
    """What podman knows of an image or a container."""
    (found,) = json.loads(podman("inspect", name).stdout)
    return found


def python(code: str) -> str:
    """The output of a program in a container of its own."""
    return podman("run", "--rm", *STRICT, "--entrypoint", "python", IMAGE, "-c", code).stdout.strip()


def versions() -> list[str]:
    """The packages in the image beside Lightwell, as pip is told of them."""
    code = "from importlib.metadata import distributions as d; print(*{f'{x.name}=={x.version}' for x in d()})"
    return sorted(found for found in python(code).split() if not found.startswith("lightwell=="))


@dataclass(frozen=True)
class Container:
    """A container that serves."""

    name: str
    address: str

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """What a command in it answers, whether it succeeds or not."""
        return podman("exec", "--env", f"LIGHTWELL_SERVER={self.address}", self.name, *command, succeeds=False)

    def processes(self) -> dict[int, dict[str, str]]:
        """/proc/PID/status of its processes, by their numbers on the host."""
        everything = {int(path.name): _status(path) for path in Path("/proc").glob("[0-9]*")}
        found = {inspected(self.name)["State"]["Pid"]}
        while more := {pid for pid, told in everything.items() if int(told.get("PPid", 0)) in found} - found:
            found |= more
        return {pid: everything[pid] for pid in found}

    def stop(self) -> int:
        """The exit code after a SIGTERM."""
        podman("stop", "--time", "60", self.name)
        return inspected(self.name)["State"]["ExitCode"]


def _status(process: Path) -> dict[str, str]:
    try:
        lines = (process / "status").read_text().splitlines()
    except OSError:  # it has ended meanwhile
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@contextmanager
def serving(*words: str, volume: Path | None = None) -> Iterator[Container]:
    """A container that serves what is mounted at /models, or what the words say."""
    mounted = ("--volume", f"{volume}:/models:ro") if volume else ()
    name = podman("run", "--detach", *STRICT, *FREE_PORTS, *mounted, IMAGE, *words).stdout.strip()
    try:
        yield Container(name, f"127.0.0.1:{_port(name)}")
    finally:
        podman("rm", "--force", "--time", "0", "--volumes", name)


def _port(name: str) -> str:
    """The port on which it serves."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        done = podman("logs", name)
        if found := _READY.search(done.stdout):
            return found[1]
        assert inspected(name)["State"]["Running"], done.stderr
        time.sleep(0.2)
    raise AssertionError(f"it does not serve after two minutes: {done.stderr}")
