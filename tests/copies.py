"""Copies of the project that tests add to."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LEFT = shutil.ignore_patterns(".*", "gallery", "__pycache__", "*.egg-info", "results")


class Copy:
    """The project's files in a folder. `tools` is a Python with what the build hook needs."""

    def __init__(self, folder: Path, tools: str):
        self.root, self._tools = folder, tools
        shutil.copytree(ROOT, folder, ignore=LEFT, dirs_exist_ok=True)

    @property
    def environment(self):
        """For programs that shall import the copy."""
        paths = (self.root / "client", self.root / "server", self.root)
        return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "LIGHTWELL_SDK_PYTHON": self._tools}

    def write(self, path, text):
        """Adds a file."""
        assert not (self.root / path).exists(), f"{path} is there already"
        (self.root / path).write_text(text, "utf-8")

    def insert(self, path, after, text):
        """Adds text behind the only place where there is that one."""
        old = (self.root / path).read_text("utf-8")
        assert old.count(after) == 1, f"{path} has {old.count(after)} of {after!r}"
        (self.root / path).write_text(old.replace(after, after + text), "utf-8")

    def patch(self, text):
        """Applies a difference."""
        done = subprocess.run(
            ["git", "apply", "--recount", "-"], cwd=self.root, input=text, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{done.stderr}\n{text}"

    def generate(self):
        """Generates the stubs anew."""
        code = "import pathlib, hatch_build; hatch_build.generate(pathlib.Path.cwd())"
        path = os.pathsep.join([str(Path(self._tools).parent), os.environ["PATH"]])
        done = subprocess.run(
            [self._tools, "-c", code],
            cwd=self.root,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def run(self, *arguments, check=True):
        """Runs Python in the copy."""
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done
