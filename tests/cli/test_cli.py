"""The command line against a real server: what it prints, what it writes, and how it fails."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightwell import parameters
from lightwell.cli import models
from lightwell.cli.record import fingerprint
from lightwell.requests import explain_request
from lightwell.v1.explain_pb2 import GradCam, Occlusion, Saliency
from lightwell.v1.synthesize_pb2 import Norm, StyleTransfer
from lightwell.v1.types_pb2 import Channel
from tests.commands import run, sentence, told
from tests.guarded import TOKEN, guarded
from tests.nets import Linear, export, seeded
from tests.serving import bundled, served
from tests.terminals import on_terminal

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
    return lambda *words, address=server.address: run(address, *words)


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
    words = ("-p", "layer=features.10", "-p", "relu=false", "--target", 3, "--readout", "probability", "--seed", 7)
    [answer] = told(lightwell("explain", photo, *words, "--out", out, "--json"))
    assert answer["parameters"] == {"layer": "features.10", "relu": False}
    assert (
        answer["target"]["target"] == {"class_index": 3, "readout": "probability"}
        and answer["target"]["label"] == "circle"
    )
    assert len(answer["predictions"]) == 5 and answer["predictions"][0].keys() == {
        "class_index",
        "label",
        "score",
        "probability",
    }
    assert answer["provenance"]["model"] == "shapes" and isinstance(answer["provenance"]["steps"], int)
    assert answer["file"] == str(out) and out.exists()


def test_bad_images_of_many_are_named_and_the_others_explained(lightwell, photo, tmp_path):
    text, nowhere, maps = tmp_path / "text.png", tmp_path / "nowhere.png", tmp_path / "maps"
    text.write_text("no picture")
    code, out, error = lightwell("explain", nowhere, photo, text, photo.with_name("photo.png"), "--out", maps)
    assert code == 1 and [line.split()[0] for line in out.splitlines()] == ["photo.png"]
    lines = error.splitlines()
    assert [name in line for name, line in zip(("nowhere.png", "text.png", "2 of 3"), lines, strict=True)] == [True] * 3
    assert [path.name for path in maps.iterdir()] == ["photo_grad_cam.png"]
    assert "text.png" in sentence(lightwell("explain", text, "--out", maps), 1)


@pytest.fixture
def album(photo, tmp_path):
    """A folder of pictures with folders in it, and things that are no pictures."""
    root = tmp_path / "album"
    for name in ("b.png", "a.png", "trip/a.png", "trip/day 2/c.PNG"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, root / name)
    (root / "notes.txt").write_text("no picture")
    shutil.copy(photo, root / ".hidden.png")
    return root


def below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_folder_is_explained_with_the_folders_in_it(lightwell, album, tmp_path):
    maps = tmp_path / "maps"
    code, out, error = lightwell("explain", album, "--method", "saliency", "--out", maps)
    assert (code, error) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == ["a.png", "b.png", "a.png", "c.PNG"]
    assert below(maps) == ["a_saliency.png", "b_saliency.png", "trip/a_saliency.png", "trip/day 2/c_saliency.png"]


def test_nothing_hidden_in_a_folder_is_explained(lightwell, album, tmp_path):
    for hidden in (".a.png", ".thumbs/a.png", "trip/.thumbs/small/a.png"):
        (album / hidden).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(album / "a.png", album / hidden)
    code, out, _ = lightwell("explain", album, "--out", tmp_path / "maps")
    assert code == 0 and len(out.splitlines()) == 4 and "thumbs" not in "".join(below(tmp_path / "maps"))
    lightwell("explain", album / "**" / "a.png", "--out", tmp_path / "more")
    assert below(tmp_path / "more") == ["a_grad_cam.png", "trip/a_grad_cam.png"]
    assert len(lightwell("explain", album / ".thumbs", "--out", tmp_path / "named")[1].splitlines()) == 1


def test_what_is_written_into_a_folder_is_not_explained_the_next_time(lightwell, album):
    for _ in range(2):
        code, out, _ = lightwell("explain", album, "--method", "saliency", "--out", album)
        assert code == 0 and len(out.splitlines()) == 4


def test_a_pattern_is_expanded(lightwell, album, tmp_path):
    code, out, _ = lightwell("explain", album / "**" / "a.*", "--out", tmp_path / "maps")
    assert code == 0 and len(out.splitlines()) == 2
    assert below(tmp_path / "maps") == ["a_grad_cam.png", "trip/a_grad_cam.png"]
    assert "no pictures" in sentence(lightwell("explain", album / "*.jpg"), 1)
    odd = album / "[1].png"
    shutil.copy(album / "a.png", odd)
    assert lightwell("explain", odd, "--out", tmp_path / "odd")[0] == 0  # the file of that name, not a pattern


def test_resuming_leaves_out_what_is_there(lightwell, album, tmp_path):
    maps = tmp_path / "maps"
    lightwell("explain", album / "trip" / "a.png", "--out", maps / "trip")
    before = (maps / "trip" / "a_grad_cam.png").stat().st_mtime_ns
    code, out, error = lightwell("explain", album, "--out", maps, "--resume")
    assert code == 0 and len(out.splitlines()) == 3 and "1 of 4 images" in error
    assert (maps / "trip" / "a_grad_cam.png").stat().st_mtime_ns == before
    code, out, error = lightwell("explain", album, "--out", maps, "--resume")
    assert (code, out) == (0, "") and "4 of 4 images" in error


def test_another_request_is_not_done_already(lightwell, photo, tmp_path, album):
    """Another target, parameter, seed, model or picture is another question, and so is a file of another program."""
    ask = ("explain", photo, "--out", tmp_path / "maps", "--resume")
    place = tmp_path / "maps" / "photo_grad_cam.png"

    def done(*words):
        return "1 of 1 images" in lightwell(*ask, *words)[2]

    for words in (), ("--target", "2"), ("-p", "layer=features.3"), ("--seed", "1"), ("--readout", "probability"):
        assert (done(*words), done(*words)) == (False, True), words
    assert json.loads(Image.open(place).info["lightwell"])["request"]["target"]
    Image.open(place).save(place)  # its texts are gone
    assert (done(), done()) == (False, True)
    place.write_bytes(b"no picture")
    assert (done(), done()) == (False, True)
    shutil.copy(album / "a.png", photo)
    Image.open(photo).convert("RGB").rotate(90).save(photo)
    assert (done(), done()) == (False, True)
    assert (done("--top", "2"), done("--top", "2")) == (False, True)
    one, two = (place.with_name(f"photo_grad_cam_top{number}.png") for number in (1, 2))
    kept = one.read_bytes()
    assert not done("--top", "2", "--seed", "1")
    one.write_bytes(kept)  # as if the second run had ended before its last file
    assert two.exists() and not done("--top", "2")


def test_a_fingerprint_depends_on_all_that_an_answer_does():
    """Not on how the model is named: its file says more, and an alias may move."""
    base = explain_request(np.zeros((3, 4, 4), np.float32), GradCam(), model="net", seed=1)
    same = explain_request(np.zeros((3, 4, 4), np.float32), GradCam(), model="net@stable", version="2", seed=1)
    assert fingerprint(base, "ab", None) == fingerprint(same, "ab", None)
    other = explain_request(np.ones((3, 4, 4), np.float32), GradCam(), seed=1)
    others = ((base, "ab", None), (base, "ac", None), (base, "ab", 2), (other, "ab", None))
    found = [fingerprint(*each) for each in others]
    assert len(set(found)) == 4


def test_an_interrupted_run_leaves_whole_files_and_can_be_resumed(server, photo, tmp_path):
    album, maps = tmp_path / "album", tmp_path / "maps"
    album.mkdir()
    for number in range(200):
        shutil.copy(photo, album / f"{number:03}.png")
    words = ["explain", str(album), "--method", "occlusion", "--out", str(maps), "--resume"]
    command = [sys.executable, "-c", "from lightwell.cli import app; app()", *words, "--server", server.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and error.splitlines()[-1] == "lightwell: interrupted"
    there = below(maps)
    assert 0 < len(there) < 200 and not [name for name in there if "part" in name]
    assert all(Image.open(maps / name).convert("RGB").size == (160, 120) for name in there)


def test_several_methods_are_all_asked(lightwell, album, photo, tmp_path):
    several = ("-m", "saliency", "-m", "occlusion", "-p", "stride=32", "--out", tmp_path / "maps")
    code, out, error = lightwell("explain", album, *several)
    lines = [" ".join(line.split()[:2]) for line in out.splitlines()]
    assert code == 0 and len(lines) == 8 and lines[:2] == ["a.png saliency", "a.png occlusion"], error
    assert {"a_saliency.png", "a_occlusion.png", "trip/a_saliency.png"} <= set(below(tmp_path / "maps"))
    assert "8 of 8 explanations are done already" in lightwell("explain", album, *several, "--resume")[2]
    for _ in range(2):  # what both methods have written into the folder is not explained the next time
        assert len(lightwell("explain", album, *several[:-1], album)[1].splitlines()) == 8
    answers = told(lightwell("explain", photo, "-m", "saliency", "-m", "grad_cam", "--json", "--out", tmp_path / "two"))
    assert [answer["method"] for answer in answers] == ["saliency", "grad_cam"]
    one_file = lightwell("explain", photo, *several[:4], "--out", tmp_path / "one.png")
    assert "one.png names one file for 2 methods; give a directory" in sentence(one_file, 2)
    neither = lightwell("explain", photo, *several[:4], "-p", "layer=features")
    assert "saliency has no parameter 'layer'" in sentence(neither, 2)


def test_a_map_for_each_of_the_classes_on_top(lightwell, photo, tmp_path):
    answers = told(lightwell("explain", photo, "--top", 3, "--out", tmp_path / "maps", "--json"))
    assert [Path(answer["file"]).name for answer in answers] == [f"photo_grad_cam_top{i}.png" for i in (1, 2, 3)]
    assert [answer["target"]["label"] for answer in answers] == [p["label"] for p in answers[0]["predictions"]]
    assert len({Path(answer["file"]).read_bytes() for answer in answers}) == 3
    code, out, error = lightwell("explain", photo, "--top", 3, "--out", tmp_path / "maps", "--resume")
    assert (code, out) == (0, "") and "1 of 1 images" in error
    assert "leave --target out" in sentence(lightwell("explain", photo, "--top", 3, "--target", 1), 2)


def test_a_long_explanation_shows_a_person_how_far_it_is(server, photo, tmp_path):
    words = ["explain", str(photo), "--method", "occlusion", "-p", "stride=2", "--out", str(tmp_path / "maps")]
    command = [sys.executable, "-c", "from lightwell.cli import app; app()", *words, "--server", server.address]
    code, lines = on_terminal(command)
    rows = [int(found[1]) for line in lines if (found := re.search(r" (\d+)/1089 ", line))]
    assert code == 0 and len(set(rows)) > 2 and rows == sorted(rows) and rows[-1] == 1089
    assert any(line.startswith("photo.png") for line in lines)


def test_an_estimate_is_one_line(lightwell, photo):
    code, out, _ = lightwell("estimate", photo, "--method", "occlusion", "-p", "stride=1")
    assert code == 0 and out.count("\n") == 1 and "4,226 rows" in out and "MB of" in out
    [answer] = told(lightwell("estimate", photo, "--method", "pgd", "-p", "steps=7", "--json"))
    assert answer["applies"] and answer["steps"] == 7 and answer["may_stop_early"]
    assert answer["parameters"]["steps"] == 7 and answer["memory_bytes"] < answer["memory_limit_bytes"]
    assert "at most 7 steps" in lightwell("estimate", photo, "--method", "pgd", "-p", "steps=7")[1]
    assert "pgd, predictions, saliency" in sentence(lightwell("estimate", photo, "--method", "x"), 2)
    assert "window" in sentence(lightwell("estimate", photo, "--method", "occlusion", "-p", "window=0"), 1)


@pytest.fixture(scope="session")
def guard(tmp_path_factory):
    with guarded(tmp_path_factory.mktemp("guarded")) as server:
        yield server


def test_a_guarded_server_is_asked_with_certificate_and_token(lightwell, guard, photo, tmp_path, monkeypatch):
    shown = ("--ca", guard.ca, "--cert", guard.certificate, "--key", guard.key)
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    words = ("explain", photo, "--out", tmp_path / "maps", *shown)
    assert lightwell(*words, "--token-file", tmp_path / "token", address=guard.address)[0] == 0
    assert "send a token" in sentence(lightwell(*words, address=guard.address), 1)
    monkeypatch.setenv("LIGHTWELL_TOKEN", TOKEN)
    assert (
        lightwell("synthesize", photo, "--method", "pgd", "--out", tmp_path / "a.png", *shown, address=guard.address)[0]
        == 0
    )
    assert lightwell("models", "list", *shown, address=guard.address)[1].startswith("shapes")
    (tmp_path / "token").write_text("a-token-nobody-has")
    assert "not known" in sentence(lightwell(*words, "--token-file", tmp_path / "token", address=guard.address), 1)
    assert "does not answer" in sentence(lightwell("models", "list", "--ca", guard.ca, address=guard.address), 1)
    for name, value in (("CA", guard.ca), ("CERT", guard.certificate), ("KEY", guard.key)):
        monkeypatch.setenv(f"LIGHTWELL_{name}", str(value))
    assert "1 model\n" in lightwell("status", address=guard.address)[1]


def test_status_needs_no_token(lightwell, guard):
    shown = ("--ca", guard.ca, "--cert", guard.certificate, "--key", guard.key)
    [answer] = told(lightwell("status", "--json", *shown, address=guard.address))
    assert answer["reachable"] and set(answer["services"].values()) == {"serving"}
    assert answer["models"] is None and "token" in answer["reason"]
    code, out, _ = lightwell("status", *shown, address=guard.address)
    assert code == 0 and "does not tell its models" in out and "ExplainerService  serving" in out


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--cert", "a.pem"], "go together"),
        (["--cert", "a.pem", "--key", "a.key"], "over TLS only"),
        (["--timeout", "soon"], "status --help"),
        (["--tsl"], "--tls"),
    ],
)
def test_options_that_make_no_sense_are_one_sentence(lightwell, words, part):
    assert part in sentence(lightwell("status", *words), 2)


def test_an_empty_token_is_told(lightwell, tmp_path):
    (tmp_path / "token").write_text("\n")
    assert "is empty" in sentence(lightwell("models", "list", "--token-file", tmp_path / "token"), 2)
    assert "nowhere" in sentence(lightwell("models", "list", "--token-file", tmp_path / "nowhere"), 1)
    assert "no certificate in it" in sentence(lightwell("models", "list", "--ca", tmp_path / "token"), 1)


def test_a_timeout_ends_the_call(lightwell, photo, tmp_path):
    words = ("explain", photo, "--method", "occlusion", "-p", "stride=1", "--timeout", 0.2, "--out", tmp_path)
    # Before the work, if the server knows already that it would take longer.
    assert re.search("deadline|give it more time", sentence(lightwell(*words), 1), re.IGNORECASE)


def test_help_tells_the_exit_codes(lightwell):
    code, out, _ = lightwell("--help")
    assert code == 0 and "Exit codes" in out and "130" in out and "--install-completion" in out


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("lightwell explain --method ", parameters.method_names("explain")),
        ("lightwell synthesize --method p", ["pgd"]),
        ("lightwell estimate --method sa", ["saliency"]),
        ("lightwell estimate --method st", ["style_transfer"]),
        ("lightwell sheet -m guided_b", ["guided_backprop"]),
        ("lightwell explain --model ", ["shapes"]),
        ("lightwell models show sh", ["shapes"]),
        ("lightwell explain --server 127.0.0.1:1 --model ", []),
    ],
)
def test_the_shell_completes_methods_and_models(server, line, offered):
    words = {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" ")), "_LIGHTWELL_COMPLETE": "complete_bash"}
    done = subprocess.run(
        [sys.executable, "-c", "from lightwell.cli import app; app(prog_name='lightwell')"],
        env={**os.environ, **words, "LIGHTWELL_SERVER": server.address},
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.split() == offered and not done.stderr


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
    assert "outputs: output 15\n" in shown
    assert "shapes" in sentence(lightwell("models", "show", "shape"), 1)


def test_status_tells_the_health_of_services_and_models(lightwell):
    [told_of] = told(lightwell("status", "--json"))
    assert told_of["reachable"] is True and set(told_of["services"].values()) == {"serving"}
    assert told_of["models"] == {"shapes": {"health": "serving", "versions": ["1"]}}
    out = lightwell("status")[1]
    assert "holds 1 model\n" in out and re.search(r"^shapes +1 +ready +serving", out, re.MULTILINE)
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
        (["model.onnx"], 1, "no torchvision/<name> or timm/<name>"),
        (["nowhere.pt"], 1, "nowhere.pt"),
        ([SHAPES / "model.pt", "--name", "../out"], 1, "../out"),
        ([SHAPES / "model.pt", "--size", "big"], 2, "224x320"),
        ([SHAPES / "model.pt", "--mean", "1,x"], 2, "R,G,B"),
        ([SHAPES / "model.pt", "--mean", "1,2"], 1, "one for each of 3"),
        ([SHAPES / "model.pt", "--bands", "3,-1"], 2, "whole numbers"),
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
    assert methods["pgd"] == {"method": "pgd", "applies": True, "reason": "", "layers": [], "choice": ""}
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
    assert "16 x 16 pixels" in sentence(lightwell("models", "check", file, "--size", 24), 1)
    code, out, error = lightwell("models", "check", file, "--size", 24, "--json")
    answer = json.loads(out)
    assert (code, error, answer["file"]) == (1, "", str(file)) and "16 x 16 pixels" in answer["refused"]
    assert "nowhere.pt" in sentence(lightwell("models", "check", tmp_path / "nowhere.pt"), 1)
    assert "R,G,B" in sentence(lightwell("models", "check", file, "--mean", "1,x"), 2)
    assert "one for each of 1" in sentence(lightwell("models", "check", file, "--channels", 1, "--std", "1,1,1"), 1)


def test_check_takes_every_option_of_the_card_that_add_takes(lightwell):
    def options(command):
        return {word for word in lightwell("models", command, "--help")[1].split() if word.startswith("--")}

    more = {"--repository", "--name", "--version", "--picture", "--random-weights"}
    assert options("add") - more == options("check") - {"--json"} and "--activation" in options("check")


@pytest.mark.parametrize("words", [("check", "model.pt"), ("add", "model.pt", "--repository", "models")])
def test_without_a_server_installed_models_are_neither_added_nor_checked(lightwell, monkeypatch, words):
    monkeypatch.setattr(models, "missing", lambda: "torch cannot be found; install lightwell[server]")
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


def test_the_version_is_told():
    assert run("", "--version") == (0, f"lightwell {metadata.version('lightwell')}\n", "")
