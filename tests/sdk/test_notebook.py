"""The notebook of the tour: executed as it is, with a kernel of this very interpreter."""

import base64
import io
import json
import sys
from pathlib import Path

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from PIL import Image as Pil

TOUR = Path(__file__).parents[2] / "examples" / "tour.ipynb"


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The notebook after its run. Nothing is installed or read in the user's home."""
    folder = tmp_path_factory.mktemp("kernels")
    spec = {"argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"], "language": "python"}
    (folder / "tour").mkdir()
    (folder / "tour" / "kernel.json").write_text(json.dumps({**spec, "display_name": "tour"}))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
            patch.setenv(name, str(folder / name))
        specs = KernelSpecManager(kernel_dirs=[str(folder)], ensure_native_kernel=False)
        manager = AsyncKernelManager(kernel_name="tour", kernel_spec_manager=specs)
        notebook = nbformat.read(TOUR, as_version=4)
        NotebookClient(notebook, km=manager, timeout=120).execute(cwd=str(folder))
        return notebook


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def printed(notebook):
    return "".join(output.text for output in outputs(notebook) if output.output_type == "stream")


def test_the_notebook_is_committed_without_outputs():
    notebook = nbformat.read(TOUR, as_version=4)
    assert not outputs(notebook)
    assert all(cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")


def test_every_cell_runs_and_shows_its_pictures(executed):
    assert not [output for output in outputs(executed) if output.output_type == "error"]
    pictures = [output.data["image/png"] for output in outputs(executed) if "image/png" in output.get("data", {})]
    sizes = [Pil.open(io.BytesIO(base64.b64decode(picture))).size for picture in pictures]
    assert len(sizes) == 8 and all(min(size) >= 96 for size in sizes)


@pytest.mark.parametrize(
    "words",
    [
        "shapes version 1",
        "star           92.8%",
        "stride  1: 4,226 rows",
        "361 of 361 windows",
        "succeeded: True",
        "InvalidArgumentError - grad_cam.layer",
        "the same map as the server's: True",
        "the server ended with 0",
    ],
)
def test_the_notebook_tells(executed, words):
    assert words in printed(executed)
