"""The command line against a real server: what it prints, what it writes, and how it fails."""

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from lightwell import cli_models, parameters
from lightwell.cli import app
from lightwell.v1.explain_pb2 import Occlusion, Saliency
from lightwell.v1.synthesize_pb2 import Norm, StyleTransfer
from lightwell.v1.types_pb2 import Channel
from tests.nets import Linear, export, seeded
from tests.serving import bundled, served

SHAPES = bundled() / "shapes" / "1"


@pytest.fixture(scope="session")
def server():
    with served(bundled(), "--threads", "1") as running:
        yield running
    assert running.exit_code == 0


@pytest.fixture
def photo(tmp_path):
    """A picture that is no square."""
    noise = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def lightwell(server):
    """Runs a command against the server; gives exit code, standard output and standard error."""

    def run(*words, address=server.address):
        result = CliRunner().invoke(
            app, [str(word) for word in words], env={"LIGHTWELL_SERVER": address, "COLUMNS": "200"}
        )
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.stdout, result.stderr

    return run


def told(outcome):
    """The JSON objects that a command printed."""
    code, out, error = outcome
    assert code == 0, error
    return [json.loads(line) for line in out.splitlines()]


def sentence(outcome, code):
    """The one sentence on standard error of a command that failed with that code."""
    assert (outcome[0], outcome[1]) == (code, "")
    assert outcome[2].startswith("lightwell: ") and outcome[2].count("\n") == 1
    return outcome[2]


def test_explain_writes_an_overlay_for_each_image_and_says_so(lightwell, photo, tmp_path):
    second = tmp_path / "other" / "photo.png"
    second.parent.mkdir()
    shutil.copy(photo, second)
    code, out, _ = lightwell(
        "explain", photo, second, "--method", "saliency", "--target", "star", "--out", tmp_path / "maps"
    )
    assert code == 0
    lines = out.splitlines()
    assert [line.split()[:2] for line in lines] == [["photo.png", "star"]] * 2 and all("%" in line for line in lines)
    assert {path.name for path in (tmp_path / "maps").iterdir()} == {"photo_saliency.png", "photo_2_saliency.png"}
    assert Image.open(tmp_path / "maps" / "photo_saliency.png").size == (160, 120)


def test_explain_prints_json_that_says_everything(lightwell, photo, tmp_path):
    out = tmp_path / "map.png"
    words = ("-p", "layer=features.10", "-p", "relu=false", "--target", 3, "--of", "probability", "--seed", 7)
    [answer] = told(lightwell("explain", photo, *words, "--out", out, "--json"))
    assert answer["parameters"] == {"layer": "features.10", "relu": False}
    assert (
        answer["target"]["target"] == {"class_index": 3, "of": "probability"} and answer["target"]["label"] == "circle"
    )
    assert len(answer["predictions"]) == 5 and answer["predictions"][0].keys() == {
        "class_index",
        "label",
        "score",
        "probability",
    }
    assert answer["provenance"]["model"] == "shapes" and isinstance(answer["provenance"]["steps"], int)
    assert answer["file"] == str(out) and out.exists()


def test_explain_names_the_one_bad_image_of_many(lightwell, photo, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    code, _, error = lightwell("explain", photo, tmp_path / "text.png", "--out", tmp_path / "maps")
    assert code == 1 and "text.png" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (["--method", "grad_cm"], 2, "grad_cam"),
        (["--method", "pgd"], 2, "lightwell synthesize"),
        (["-p", "layr=x"], 2, "layer"),
        (["-p", "layer"], 2, "NAME=VALUE"),
        (["-p", "relu=maybe"], 2, "true"),
        (["--method", "occlusion", "-p", "fill=blu"], 2, "blur"),
        (["--method", "occlusion", "-p", "window=wide"], 2, "whole number"),
        (["--out", "map.xyz"], 2, ".xyz"),
        (["--target", "sta"], 1, "star"),
        (["-p", "layer=features.99"], 1, "features.9"),
        (["--model", "shape"], 1, "shapes"),
        (["--method", "occlusion", "-p", "window=0"], 1, "window"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(lightwell, photo, tmp_path, monkeypatch, words, code, part):
    monkeypatch.chdir(tmp_path)
    assert part in sentence(lightwell("explain", photo, *words), code)


def test_a_missing_file_and_a_missing_server_are_one_sentence(lightwell, photo, tmp_path):
    assert "nowhere.png" in sentence(lightwell("explain", tmp_path / "nowhere.png"), 1)
    assert "127.0.0.1:1 does not answer" in sentence(lightwell("models", "list", address="127.0.0.1:1"), 1)


def test_an_attack_tells_its_verdict_and_writes_the_difference(lightwell, photo, tmp_path):
    out = tmp_path / "fooled.png"
    words = ("--method", "pgd", "--out", out, "--pictures")
    code, line, _ = lightwell("synthesize", photo, *words)
    assert code == 0 and "→" in line and all(word in line for word in ("succeed", "linf", "l2", "queries"))
    [answer] = told(lightwell("synthesize", photo, *words, "--json"))
    assert answer["measures"]["linf"] <= 8 / 255 + 1e-6 and answer["measures"]["queries"] > 1
    changed = answer["predictions_before"][0]["label"] != answer["predictions_after"][0]["label"]
    assert answer["succeeded"] is changed
    assert [Path(path).name for path in answer["pictures"]] == ["fooled_difference.png", "fooled_difference_x10.png"]
    assert all(Image.open(path).size == (96, 96) for path in (answer["file"], *answer["pictures"]))


def test_a_fooling_picture_fools_again_when_sent_exactly(lightwell, photo, tmp_path):
    out = tmp_path / "fooled.png"
    [made] = told(lightwell("synthesize", photo, "--method", "pgd", "-p", "steps=20", "--out", out, "--json"))
    [seen] = told(lightwell("explain", out, "--fit", "exact", "--out", tmp_path, "--json"))
    assert made["predictions_after"][0]["label"] == seen["predictions"][0]["label"]


def test_style_transfer_writes_its_previews(lightwell, photo, tmp_path):
    words = (
        "-p",
        f"styles={photo}:2",
        "-p",
        "size=48",
        "-p",
        "steps=4",
        "-p",
        "style_layers=features.2:1,features.6:0.5",
    )
    out, way = tmp_path / "painted.png", tmp_path / "way"
    [answer] = told(
        lightwell("synthesize", photo, *words, "--out", out, "--previews", 2, "--previews-dir", way, "--json")
    )
    assert answer["parameters"]["style_layers"] == [
        {"layer": "features.2", "weight": 1},
        {"layer": "features.6", "weight": 0.5},
    ]
    assert answer["previews"] == [str(way / "step_00002.png"), str(way / "step_00004.png")]
    assert Image.open(out).size == Image.open(way / "step_00004.png").size == (48, 36)


def test_models_are_listed_and_shown(lightwell):
    assert lightwell("models", "list")[1].split()[:4] == ["shapes", "1", "classifier", "ready"]
    [line] = told(lightwell("models", "list", "--json"))
    assert line["name"] == "shapes" and len(line["digest"]) == 64
    [card] = told(lightwell("models", "show", "shapes", "--json"))
    first = card["layers"][0]
    assert (first["name"], first["type"], first["shape"]) == ("features.0", "Conv2d", [16, 96, 96])
    assert 0 < first["share"] < 1 and card["layers"][-1]["name"] == "head"
    assert {method["method"]: method["applies"] for method in card["methods"]}["grad_cam"] is True
    shown = lightwell("models", "show")[1]
    assert "16 x 96 x 96" in shown and "style_transfer" in shown
    assert "shapes" in sentence(lightwell("models", "show", "shape"), 1)


def test_status_tells_the_health_of_services_and_models(lightwell):
    [told_of] = told(lightwell("status", "--json"))
    assert told_of["reachable"] is True and set(told_of["services"].values()) == {"serving"}
    assert told_of["models"] == {"shapes": {"health": "serving", "versions": ["1"]}}
    assert "model shapes  serving" in lightwell("status")[1]
    code, out, _ = lightwell("status", "--json", address="127.0.0.1:1")
    assert code == 1 and json.loads(out)["reachable"] is False
    assert "does not answer" in sentence(lightwell("status", address="127.0.0.1:1"), 1)


def test_an_added_model_is_served(lightwell, photo, tmp_path):
    card = (
        "--size",
        96,
        "--resize",
        96,
        "--mean",
        "0.5,0.5,0.5",
        "--std",
        "0.2,0.2,0.2",
        "--labels",
        SHAPES / "labels.txt",
    )
    for version in "12":
        code, line, _ = lightwell(
            "models", "add", SHAPES / "model.pt", "--repository", tmp_path / "models", "--name", "mine", *card
        )
        assert code == 0 and f"mine version {version}" in line and "15 classes" in line
    with served(tmp_path / "models", "--threads", "1") as other:
        [seen] = told(
            lightwell("explain", photo, "--target", "star", "--out", tmp_path, "--json", address=other.address)
        )
        [shown] = told(lightwell("models", "show", "--json", address=other.address))
    assert (seen["provenance"]["model"], seen["provenance"]["version"]) == ("mine", "2")
    assert shown["card"]["mean"] == [0.5, 0.5, 0.5] and shown["card"]["resize"] == 96


def test_a_pt2_file_is_added_under_its_own_name(lightwell, tmp_path):
    file = export(seeded(Linear), "pt2", tmp_path, torch.rand(2, 3, 16, 16))
    code, line, error = lightwell(
        "models", "add", file, "--repository", tmp_path / "models", "--size", 16, "--version", "v1"
    )
    assert code == 0, error
    assert "Linear_pt2 version v1" in line and (tmp_path / "models" / "Linear_pt2" / "v1" / "model.pt2").exists()


def test_a_refused_model_does_not_stay(lightwell, tmp_path):
    (tmp_path / "junk.pt").write_text("no model")
    repository = tmp_path / "models"
    assert "refused" in sentence(lightwell("models", "add", tmp_path / "junk.pt", "--repository", repository), 1)
    assert not repository.exists()
    (tmp_path / "labels.txt").write_text("one\ntwo\n")
    words = ("models", "add", SHAPES / "model.pt", "--repository", repository, "--labels", tmp_path / "labels.txt")
    assert "2 labels" in sentence(lightwell(*words), 1)
    assert not repository.exists()


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (["model.onnx"], 1, ".pt2"),
        (["nowhere.pt"], 1, "nowhere.pt"),
        ([SHAPES / "model.pt", "--name", "../out"], 1, "../out"),
        ([SHAPES / "model.pt", "--size", "big"], 2, "224x320"),
        ([SHAPES / "model.pt", "--mean", "1,2"], 2, "R,G,B"),
        (["torchvision/resnet51"], 1, "resnet50"),
    ],
)
def test_what_cannot_be_added_is_one_sentence(lightwell, tmp_path, words, code, part):
    assert part in sentence(lightwell("models", "add", *words, "--repository", tmp_path / "models"), code)
    assert not (tmp_path / "models").exists()


def test_torchvision_comes_with_its_published_card(lightwell, tmp_path):
    words = ("models", "add", "torchvision/squeezenet1_1", "--repository", tmp_path, "--random-weights", "--size", 64)
    code, line, error = lightwell(*words, "--resize", 72)
    assert code == 0 and "1000 classes" in line, error
    card = (tmp_path / "squeezenet1_1" / "1" / "card.toml").read_text()
    assert "size = [64, 64]" in card and "resize = 72" in card and "mean = [0.485, 0.456, 0.406]" in card
    assert (tmp_path / "squeezenet1_1" / "1" / "labels.txt").read_text().startswith("tench\n")


def test_weights_that_cannot_be_downloaded_are_one_sentence(lightwell, tmp_path, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    code, _, error = lightwell("models", "add", "torchvision/squeezenet1_1", "--repository", tmp_path / "models")
    assert code == 1 and "cannot be downloaded" in error and "--random-weights" in error
    assert not (tmp_path / "models").exists()


def test_options_become_the_card(lightwell, photo, tmp_path):
    file = export(seeded(Linear), "scripted", tmp_path)
    words = ("models", "add", file, "--repository", tmp_path / "models", "--name", "mine", "--size", 16)
    options = {"kind": "classifier", "channels": 3, "interpolation": "bicubic", "activation": "sigmoid"}
    options |= {"dtype": "float64", "picture": photo}
    given = [word for name, value in options.items() for word in (f"--{name}", value)]
    code, line, error = lightwell(*words, *given)
    assert code == 0 and "checked on check.png" in line, error
    card = tomllib.loads((tmp_path / "models" / "mine" / "1" / "card.toml").read_text())
    assert card["input"] == {"size": [16, 16], "channels": 3, "interpolation": "bicubic"}
    assert (card["kind"], card["dtype"], card["output"]) == ("classifier", "float64", {"activation": "sigmoid"})
    assert (tmp_path / "models" / "mine" / "1" / "check.png").read_bytes() == photo.read_bytes()
    assert "no output 'scores'" in sentence(lightwell(*words, "--output", "scores"), 1)
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    assert "latin.txt is no text" in sentence(lightwell(*words, "--labels", tmp_path / "latin.txt"), 1)


def test_a_file_is_checked_without_a_server(lightwell, tmp_path):
    file = export(seeded(Linear), "scripted", tmp_path)
    words = ("models", "check", file, "--size", 16)
    code, out, error = lightwell(*words, address="127.0.0.1:1")
    assert (code, error) == (0, "") and f"{file} can be explained: a classifier" in out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert {"input 3 x 16 x 16, no other size", "output 3 classes, activation softmax", "rows in batches"} <= {*lines}
    assert "numbers weights float32, computed in float32" in lines and "layers 1 of modules, 0 of operations" in lines
    assert {"pgd applies", "grad_cam the model has no layer with height and width"} <= {*lines}
    [found] = told(lightwell(*words, "--json"))
    assert (found["input"], found["output"], found["classes"]) == ([3, 16, 16], [3], 3)
    assert (found["weights"], found["batches"], found["notes"]) == ("float32", True, [])
    methods = {method["method"]: method for method in found["methods"]}
    assert methods["pgd"] == {"method": "pgd", "applies": True, "reason": ""}
    assert methods["grad_cam"]["applies"] is False and methods["grad_cam"]["reason"]


def test_a_check_prints_each_note(lightwell, tmp_path):
    torch.jit.script(seeded(Linear).train()).save(tmp_path / "model.pt")
    out = lightwell("models", "check", tmp_path / "model.pt", "--size", 16)[1]
    assert "  note     the file was saved in training mode and is set to eval\n" in out


def test_the_card_beside_a_checked_file_is_read(lightwell):
    [found] = told(lightwell("models", "check", SHAPES / "model.pt", "--json"))
    assert (found["input"], found["classes"], found["modules"]) == ([3, 96, 96], 15, 25)


def test_a_checked_file_that_is_refused_is_one_sentence(lightwell, tmp_path):
    file = export(seeded(Linear), "pt2", tmp_path, torch.rand(2, 3, 16, 16))
    assert "16 x 16 pixels" in sentence(lightwell("models", "check", file), 1)
    code, out, error = lightwell("models", "check", file, "--json")
    answer = json.loads(out)
    assert (code, error, answer["file"]) == (1, "", str(file)) and "16 x 16 pixels" in answer["refused"]
    assert "nowhere.pt" in sentence(lightwell("models", "check", tmp_path / "nowhere.pt"), 1)
    assert "R,G,B" in sentence(lightwell("models", "check", file, "--mean", "1,2"), 2)
    assert "one for each of 1" in sentence(lightwell("models", "check", file, "--channels", 1, "--std", "1,1,1"), 1)


@pytest.mark.parametrize("words", [("check", "model.pt"), ("add", "model.pt", "--repository", "models")])
def test_without_a_server_installed_models_are_neither_added_nor_checked(lightwell, monkeypatch, words):
    monkeypatch.setattr(cli_models, "missing", lambda: "torch cannot be found; install lightwell[server]")
    assert "install lightwell[server]" in sentence(lightwell("models", *words), 1)


def test_serve_passes_its_options_to_the_server():
    command = [sys.executable, "-c", "from lightwell.cli import app; app()", "serve", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "--repository" in done.stdout and "--max-rows" in done.stdout


def test_parameters_of_every_shape_are_read(photo):
    occlusion = parameters.method("explain", "occlusion", ["color=1,0.5,0", "window=24", "value=log_probability"])
    assert isinstance(occlusion, Occlusion) and (occlusion.color.red, occlusion.color.green, occlusion.window) == (
        1,
        0.5,
        24,
    )
    saliency = parameters.method("explain", "saliency", ["channels=none", "magnitude=no"])
    assert saliency == Saliency(channels=Saliency.REDUCTION_NONE, magnitude=False)
    assert parameters.method("synthesize", "pgd", ["norm=l2"]).norm == Norm.NORM_L2
    style = parameters.method("synthesize", "style_transfer", [f"styles={photo}:2,{photo}", f"styles={photo}"])
    assert isinstance(style, StyleTransfer) and [part.weight for part in style.styles] == [2, 0, 0]
    assert all(part.image.encoded == photo.read_bytes() for part in style.styles)
    assert parameters.target("channel:layer4.1:3") == Channel(layer="layer4.1", channel=3)
    assert (parameters.target("12"), parameters.target("tabby"), parameters.target(None)) == (12, "tabby", None)
    for bad in ("color=1,0", "color=a,b,c", "nothing=1"):
        with pytest.raises(parameters.Usage):
            parameters.method("explain", "occlusion", [bad])
