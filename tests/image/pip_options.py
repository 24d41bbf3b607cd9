"""Prints the options with which buildah hands this machine's settings of pip to a build: `pip_options.py FILE` writes
them to the file, the build's secret `pip.conf`, and folders of this machine that they name are mounted under /mnt."""

import ast
import subprocess
import sys
from pathlib import Path

HANDED_ON = {"index-url", "extra-index-url", "find-links", "trusted-host", "cert"}


def main(conf: Path) -> None:
    command = [sys.executable, "-m", "pip", "config", "list"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    settings: dict[str, str] = {}
    mounted: dict[Path, str] = {}
    for line in lines:
        name, _, value = line.partition("=")
        key = name.rpartition(".")[2]
        if key in HANDED_ON:
            words = [inside(word, mounted) for word in ast.literal_eval(value).split()]
            settings.setdefault(key, " ".join(words))  # the environment comes first, and goes before files
    conf.write_text("[global]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items()), "utf-8")
    volumes = [f"--volume {folder}:{place}:ro" for folder, place in mounted.items()]
    print(f"--secret id=pip.conf,src={conf}", *volumes)


def inside(word: str, mounted: dict[Path, str]) -> str:
    """What a word is in the build. Of a local path the folder around it is mounted: an index refers to files beside
    it."""
    path = Path(word.removeprefix("file://"))
    if not path.is_absolute():
        return word
    place = mounted.setdefault(path.parent, f"/mnt/{len(mounted)}")
    return word.replace(str(path), f"{place}/{path.name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
