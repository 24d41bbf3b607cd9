"""The five methods on real ImageNet weights and photographs, by SDK and by command line."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pil

from lightwell import GradCam, Occlusion, Pgd, Saliency, Style, StyleTransfer
from lightwell.images import to_message
from tests.real.conftest import MODELS

both = pytest.mark.parametrize("model", MODELS)


def right(client, model, photographs):
    """The photographs that the model gets right, with their class."""
    paths = [path for path, _ in photographs]
    seen = client.explain_all(paths, GradCam(), model=model, concurrency=4)
    return [
        pair for pair, result in zip(photographs, seen, strict=True) if result.predictions[0].class_index == pair[1]
    ]


@both
def test_the_models_see_what_they_should(client, photographs, model):
    assert len(right(client, model, photographs)) >= MODELS[model]


@both
def test_maps_of_all_photographs(client, photographs, model):
    side = 227 if model == "squeezenet1_0" else 224
    for method in (Saliency(), GradCam(), Occlusion(window=64, stride=48)):
        for result in client.explain_all([path for path, _ in photographs], method, model=model, concurrency=4):
            assert result.map.shape == (side, side) and np.isfinite(result.map).all() and result.map.any()
            assert result.overlay().size == result.original.size


@both
def test_an_attack_fools_the_model_on_every_photograph_it_got_right(client, photographs, model):
    correct = right(client, model, photographs)
    attack = Pgd(epsilon=2 / 255, step=0.5 / 255, steps=40)
    for path, index in correct:
        result = client.synthesize(attack, image=path, model=model).result()
        assert result.succeeded, path.name
        again = client.explain(result.message.png, GradCam(), model=model, fit="exact")
        assert again.predictions[0].class_index != index, path.name
        assert result.measures["linf"] <= 2 / 255 + 1e-6


@both
def test_a_city_in_the_style_of_a_painting(client, images, model, tmp_path):
    """The style's Gram matrices come several times nearer while the content stays recognisable."""
    style = Style(image=to_message(images / "starry_night.jpg"))
    method = StyleTransfer(styles=[style], size=256, steps=80)
    stream = client.synthesize(method, image=images / "chicago.jpg", model=model, previews=2)
    objectives = [frame.objective for frame in stream]
    assert objectives[-1] < objectives[0] / 4
    result = stream.result()
    content = Pil.open(images / "chicago.jpg").convert("L").resize(result.image.size)
    stylised = result.image.convert("L")
    likeness = np.corrcoef(np.asarray(content).ravel(), np.asarray(stylised).ravel())[0, 1]
    assert 0.5 < likeness < 0.99


def run(*arguments):
    command = [str(Path(sys.executable).with_name("lightwell")), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@both
def test_all_methods_by_command_line(server, photographs, images, model, tmp_path):
    path, _ = photographs[0]
    common = ("--model", model, "--server", server.address, "--json")
    for method in ("saliency", "grad_cam", "occlusion"):
        options = ("-p", "stride=64", "-p", "window=64") if method == "occlusion" else ()
        told = json.loads(run("explain", path, "--method", method, *options, "--out", tmp_path, *common))
        assert told
    run("synthesize", path, "--method", "pgd", "-p", "steps=3", "--out", tmp_path / "fooled.png", *common)
    painting = f"styles={images / 'the_scream.jpg'}"
    style = ("-p", painting, "-p", "steps=3", "-p", "size=128")
    run(
        "synthesize", images / "chicago.jpg", "--method", "style_transfer", *style, "--out", tmp_path / "s.png", *common
    )
    for name in ("fooled.png", "s.png"):
        assert Pil.open(tmp_path / name).width > 100
