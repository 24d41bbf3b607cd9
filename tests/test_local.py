"""The calls of the SDK in this process, on files, modules and cards."""

import gc
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image as Pil

from lightwell import (
    GradCam,
    InvalidArgumentError,
    LightwellError,
    Occlusion,
    Pgd,
    Saliency,
    Style,
    StyleTransfer,
    UnavailableError,
)
from lightwell.images import to_message
from lightwell.requests import explain_request
from lightwell_server.gateway.images import decode_images
from lightwell_server.local import Local
from lightwell_server.models.card import Card, TensorCard
from lightwell_server.runtime.describe import described
from tests.curating import curated
from tests.nets import Captioned, Residual, export, seeded

CARD = Card.model_validate(
    {
        "input": {"size": [32, 32]},
        "output": {"labels": ["ant", "bee", "cat", "dog", "eel"]},
        "layers": {"grad_cam": "relu"},
    }
)
PICTURE = torch.randint(0, 256, (40, 40, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8).numpy()


def test_a_module_in_training_mode_is_explained_and_left_as_it_was():
    net = seeded(Residual).train()
    with Local(net, CARD) as local:
        seen = local.explain(PICTURE, Saliency(), target="cat")
    assert net.training and seen.target.label == "cat" and seen.map.shape == (32, 32)


def test_a_card_may_name_a_module_that_is_called_twice():
    with Local(seeded(Residual), CARD) as local:
        assert local.explain(PICTURE, GradCam()).message.resolved.grad_cam.layer == "relu"
        assert local.explain(PICTURE, GradCam(layer="relu@0")).values.shape == (32, 32)


def test_a_transformers_default_map_is_not_empty():
    torch.manual_seed(0)
    net = torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=5
    )
    torch.nn.init.normal_(net.heads.head.weight)
    with Local(net, CARD.model_copy(update={"layers": {}})) as local:
        seen = local.explain(PICTURE, GradCam(relu=False))
    assert seen.message.resolved.grad_cam.layer == "encoder.layers.encoder_layer_1.ln_1"
    assert seen.values.shape == (4, 4) and seen.values.any()


def test_errors_are_the_sdks(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"nothing")
    with pytest.raises(LightwellError, match="no TorchScript archive"):
        Local(tmp_path / "model.pt")
    with Local(seeded(Residual), CARD) as local, pytest.raises(InvalidArgumentError, match="nearest"):
        local.explain(PICTURE, GradCam(layer="stm"))


def test_the_other_calls_of_the_client():
    with Local(seeded(Residual), CARD) as local:
        first, second = local.explain(PICTURE, Saliency(), targets=2)
        assert first.predictions[0].class_index == first.target.target.class_index != second.target.target.class_index
        stream = local.explain_stream(PICTURE, Occlusion(window=8, stride=4))
        *_, last = stream
        assert last.step == last.steps and stream.result().values.shape == tuple([round(last.steps**0.5)] * 2)
        cost = local.estimate(Pgd(steps=9), PICTURE)
        assert cost.applies and (cost.steps, cost.gradients) == (9, 9) and cost.may_stop_early
        stylised = local.estimate(Occlusion(window=8, stride=4), PICTURE)
        assert stylised.rows == 1 + last.steps and stylised.memory_bytes < stylised.memory_limit_bytes


def test_numbers_that_another_input_has_no_entry_for_are_told():
    card = Card(input=CARD.input, inputs={"tokens": TensorCard(shape=(4,), dtype="int64")})
    with Local(seeded(Captioned), card) as local:
        good = np.array([0, 1, 6, 2])
        assert local.explain(PICTURE, Saliency(), inputs={"tokens": good}).map.any()
        for bad in (7, -1):
            with pytest.raises(InvalidArgumentError, match="no entry for") as caught:
                local.explain(PICTURE, Saliency(), inputs={"tokens": np.array([0, 1, bad, 2])})
            assert caught.value.violations[0][0] == "inputs"
        assert local.explain(PICTURE, Saliency(), inputs={"tokens": good}).map.any()


def test_words_that_are_no_options_are_refused():
    with Local(seeded(Residual), CARD) as local:
        with pytest.raises(TypeError, match="no option tagret"):
            local.explain(PICTURE, Saliency(), tagret=3)
        assert local.explain(PICTURE, Saliency(), target=np.int64(3)).target.target.class_index == 3


def test_cancelling_stops_the_work():
    with Local(seeded(Residual), CARD) as local:
        stream = local.synthesize(Pgd(steps=10_000, stop_early=False), image=PICTURE)
        next(iter(stream))
        stream.cancel()
        threading.Event().wait(0.3)
        assert not local._engine.runs


def test_one_bad_directory_takes_nothing_else_down(tmp_path):
    for name, labels in (("good", "ant\nbee\ncat\ndog\neel"), ("latin", "caf\xe9")):
        directory = tmp_path / name / "1"
        directory.mkdir(parents=True)
        export(seeded(Residual), "scripted", directory).rename(directory / "model.pt")
        (directory / "labels.txt").write_bytes(labels.encode("latin-1"))
        (directory / "card.toml").write_text('[input]\nsize = [16, 16]\n[output]\nlabels = "labels.txt"\n')
    (tmp_path / "outside" / "1").mkdir(parents=True)
    (tmp_path / "outside" / "1" / "model.pt").write_bytes(b"")
    (tmp_path / "outside" / "1" / "card.toml").write_text('[output]\nlabels = "../../../../etc/passwd"\n')
    library, _, _ = curated(tmp_path)
    assert library.get("good").described.card.labels[2] == "cat"
    reasons = {entry.name: entry.reason for entry in library.all()}
    assert "UTF-8" in reasons["latin"] and "inside the repository" in reasons["outside"]


@pytest.mark.parametrize(("pictures", "kept"), [((), False), (("overlay",), True)])
def test_a_picture_stays_in_memory_only_to_be_drawn_on(pictures, kept):
    with Local(seeded(Residual), CARD) as local:
        sight = decode_images(explain_request(PICTURE, Saliency(), pictures=pictures), described(local.model))
        assert (sight.original is not None) == kept


LEFT_OPEN = """
import atexit, os, sys, threading

atexit.register(lambda: print("left:", *(t.name for t in threading.enumerate()[1:])))  # runs after all that follows

import numpy as np

from lightwell import GradCam, Pgd, UnavailableError
from lightwell_server.local import Local
from lightwell_server.models.card import Card
from tests.nets import Residual, seeded

local = Local(seeded(Residual), Card.model_validate({"input": {"size": [32, 32]}}))
more, attack, picture = Local(local.model), Pgd(steps=10_000, stop_early=False), np.zeros((40, 40), np.uint8)
streams = [iter(one.synthesize(attack, image=picture)) for one in (local, more)]
for stream in streams:
    next(stream)
waits = lambda: local.synthesize(attack, image=picture).result()
threading.Thread(target=waits, name="caller", daemon=True).start()
if os.fork() == 0:
    try:
        local.explain(picture, GradCam())
    except UnavailableError as error:
        print("forked:", error)
    sys.exit()
os.wait()
"""


def test_a_process_that_leaves_models_at_work_ends_their_threads_first():
    """A thread that comes out of an operation while the interpreter is taken apart may end the process by an abort."""
    ended = subprocess.run(
        [sys.executable, "-c", LEFT_OPEN], capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[1]
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    forked, *left = ended.stdout.splitlines()
    assert "forked:" in forked and "in each process" in forked and left == ["left:", "left: caller"]


def test_a_program_keeps_its_own_filters_of_warnings(tmp_path):
    script = """
import sys, threading, warnings, numpy, sympy, torch  # some set filters of their own when they are imported
before = list(warnings.filters)
from lightwell import Saliency
from lightwell_server.local import Local
print(warnings.filters == before)
models = []
threads = [threading.Thread(target=lambda: models.append(Local(sys.argv[1]))) for _ in range(3)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
print(warnings.filters == before or set(warnings.filters) ^ set(before), len(models))
"""
    file = export(seeded(Residual), "traced", tmp_path, torch.rand(2, 3, 32, 32))
    told = subprocess.run([sys.executable, "-c", script, str(file)], capture_output=True, text=True, check=True)
    assert told.stdout.splitlines() == ["True", "True 3"] and not told.stderr


def test_a_program_keeps_its_own_choice_of_deterministic_algorithms(monkeypatch):
    with Local(seeded(Residual), CARD) as local:
        set_by_us = []
        monkeypatch.setattr(torch, "use_deterministic_algorithms", set_by_us.append)
        (told,) = local.explain(PICTURE, Saliency(), reproducible=True).provenance.exceptions
        assert "call torch.use_deterministic_algorithms(True)" in told and not set_by_us
        monkeypatch.undo()
        torch.use_deterministic_algorithms(True)
        try:
            assert not local.explain(PICTURE, Saliency(), reproducible=True).provenance.exceptions
        finally:
            torch.use_deterministic_algorithms(False)


def test_the_thread_of_a_model_ends_with_it():
    model = Local(seeded(Residual), CARD).model
    before = threading.active_count()
    for _ in range(50):
        local = Local(model)
        local.explain(PICTURE, Saliency())
    threads = [local._engine._thread]
    del local
    gc.collect()
    threads[0].join(20)
    assert not threads[0].is_alive() and threading.active_count() <= before


def test_work_that_comes_when_pools_are_shut_is_refused_by_name():
    """As `concurrent.futures` shuts them once the main thread is over, whatever other threads still do."""
    painting = StyleTransfer(styles=[Style(image=to_message(PICTURE))], size=32, steps=1)
    with Local(seeded(Residual), CARD) as local:
        local._engine._work_threads.shutdown()
        with pytest.raises(UnavailableError, match="keep its main thread"):
            local.synthesize(painting, image=PICTURE).result()
        assert local.explain(PICTURE, Saliency()).map.any()


SHADES = PICTURE[..., 0]
FLOATS = SHADES / np.float32(255)
GREY = {
    "[H, W]": (SHADES, SHADES),
    "[H, W, 1]": (SHADES[..., None], SHADES),
    "[1, H, W]": (SHADES[None], SHADES),
    "wide whole numbers": (SHADES.astype(np.int64), SHADES),
    "floats": (FLOATS, FLOATS),
    "a PIL image": (Pil.fromarray(SHADES), SHADES),
}


@pytest.fixture(scope="module")
def residual():
    with Local(seeded(Residual), CARD) as local:
        yield local


@pytest.mark.parametrize("fit", ["card", "exact"])
@pytest.mark.parametrize(("form", "shades"), GREY.values(), ids=GREY)
def test_an_image_without_colours_is_grey(residual, form, shades, fit):
    seen = residual.explain(form, Saliency(), fit=fit)
    same = residual.explain(np.stack([shades] * 3), Saliency(), fit=fit)
    assert np.array_equal(seen.map, same.map) and np.array_equal(seen.overlay(), same.overlay())


WRONG = {
    "colours with alpha": (np.zeros((80, 90, 4), np.uint8), "is no image; give .* grey as"),
    "a batch": (np.zeros((1, 3, 40, 40), np.uint8), "is no image; give .* grey as"),
    "two ways": (np.zeros((3, 40, 3), np.uint8), "can be read in two ways; give"),
    "grey or a line": (np.zeros((1, 40, 3), np.uint8), "can be read in two ways; give"),
    "16 bits": (np.full((40, 40), 300, np.uint16), "from 300 to 300; an image has whole numbers from 0 to 255"),
}


@pytest.mark.parametrize(("array", "sentence"), WRONG.values(), ids=WRONG)
def test_arrays_that_are_no_picture_are_told_what_is_one(array, sentence):
    with pytest.raises(ValueError, match=sentence):
        to_message(array)


def test_a_grey_array_is_the_same_in_all_colours(tmp_path):
    net, grey = seeded(Residual), np.random.default_rng(0).random((32, 32), dtype=np.float32)
    with Local(net, CARD) as local:
        maps = [
            local.explain(image, Saliency(), fit="exact").map
            for image in (grey, grey[None], grey[..., None], np.repeat(grey[None], 3, 0))
        ]
    assert all(np.array_equal(one, maps[-1]) for one in maps)


@pytest.fixture
def repository(tmp_path):
    """A model in versions 9 and 10, each with a card and labels in a file; the older one's file has another mean."""
    for version, mean in (("9", 0.1), ("10", 0.5)):
        directory = tmp_path / "net" / version
        directory.mkdir(parents=True)
        export(seeded(Residual), "traced", directory, torch.rand(2, 3, 32, 32)).rename(directory / "model.pt")
        card = f"[input]\nsize = [32, 32]\nmean = [{mean}, {mean}, {mean}]\n[output]\nlabels = 'names.txt'\n"
        (directory / "card.toml").write_text(card)
        (directory / "names.txt").write_text("ant\nbee\ncat\ndog\neel\n")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "options", "version", "mean"),
    [
        ("net", {}, "10", 0.5),
        ("net", {"version": "9"}, "9", 0.1),
        ("net/9", {}, "9", 0.1),
        ("net/9/model.pt", {}, "9", 0.1),
    ],
)
def test_a_file_is_used_with_the_card_and_the_labels_beside_it(repository, path, options, version, mean):
    with Local(repository / path, **options) as local:
        assert local.model.id == f"net@{version}" and local.model.card.input.mean == (mean,) * 3
        assert local.explain(PICTURE, Saliency(), target="cat").target.label == "cat"


def test_what_is_given_goes_before_the_card_beside_the_file(repository):
    file = repository / "net" / "9" / "model.pt"
    with Local(file, CARD) as local:
        assert local.model.card == CARD and local.model.labels[0] == "ant"
    with Local(file, labels=tuple("vwxyz"), mean=(0.3,) * 3, size=(40, 40)) as local:
        assert local.model.labels == tuple("vwxyz") and local.model.facts.size == (40, 40)
        assert local.model.card.input.mean == (0.3,) * 3


def test_labels_in_a_file_that_a_given_card_names_are_read(repository):
    card = Card.model_validate({"input": {"size": [32, 32]}, "output": {"labels": "names.txt"}})
    with Local(repository / "net" / "9" / "model.pt", card) as local:
        assert local.model.labels == ("ant", "bee", "cat", "dog", "eel")


def test_a_card_whose_check_fails_is_told(repository):
    directory = repository / "net" / "9"
    Pil.fromarray(PICTURE).save(directory / "seen.png")
    with (directory / "card.toml").open("a") as card:
        card.write("[check]\npicture = 'seen.png'\nclasses = [0]\nscores = [1000.0]\n")
    with pytest.raises(LightwellError, match="the card's check fails"):
        Local(directory)


@pytest.mark.parametrize(
    ("path", "version", "wrong"),
    [
        ("net", "11", "no version '11'; the nearest are 10"),
        ("net/8", "", "No such file"),
        ("", "", "holds no model"),
    ],
)
def test_a_model_that_is_not_there_is_told(repository, path, version, wrong):
    with pytest.raises(OSError, match=wrong):
        Local(repository / path, version=version)


def test_a_network_of_timm_brings_its_own_preprocessing():
    torch.manual_seed(0)
    net = timm.create_model("test_resnet.r160_in1k", pretrained=False).eval()
    with Local(net) as local:
        card, said = local.model.card.input, timm.data.resolve_model_data_config(net)
        assert (3, *card.size) == said["input_size"] and (card.mean, card.std) == (said["mean"], said["std"])
        assert card.interpolation == said["interpolation"] and card.mean != Card().input.mean
        assert local.model.labels[0].startswith("tench")
    with Local(net, size=(96, 96), mean=(0.1, 0.1, 0.1)) as local:
        assert (local.model.card.input.size, local.model.card.input.mean) == ((96, 96), (0.1, 0.1, 0.1))
    with Local(net, CARD.model_copy(update={"output": Card().output, "layers": {}})) as local:
        assert local.model.card.input.size == (32, 32) and not local.model.labels
