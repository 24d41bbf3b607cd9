"""Bringing models: what is written beside the file, whose scores the check holds, and that a failure leaves nothing."""

import dataclasses
import shutil
import sys
import time
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image as Pil
from torch import nn
from torchvision import transforms

from lightwell_server.codec import pictures
from lightwell_server.codec.pictures import Fit
from lightwell_server.errors import Refused
from lightwell_server.importing import add as bring
from lightwell_server.importing import published
from lightwell_server.importing.add import Given
from lightwell_server.importing.expected import Picture
from lightwell_server.importing.inspection import inspect
from lightwell_server.models.card import Card
from lightwell_server.models.store import load_version
from tests.nets import Captioned, Residual, export, seeded

SMALL = Given(size=(32, 32))


class Ending(nn.Module):
    """A classifier with something behind its scores."""

    def __init__(self, end):
        super().__init__()
        self.net, self.end = seeded(Residual), end

    def forward(self, x):
        return self.end(self.net(x))


class Grey(nn.Module):
    """A classifier of luminance that returns its features, too."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4, 7)

    def forward(self, x):
        features = self.conv(x).relu().mean((2, 3))
        return {"scores": self.head(features), "features": features}


def add(source, repository, given=SMALL, name="net", **options):
    return bring.add(str(source), repository, name, "", given, **options)


@pytest.fixture
def residual(tmp_path):
    return export(seeded(Residual), "scripted", tmp_path)


def tree(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("source", "make", "lines"),
    [
        ("timm/test_resnet", lambda: timm.create_model("test_resnet"), ["size = [160, 160]", "resize = 168"]),
        ("timm/test_vit.r160_in1k", lambda: timm.create_model("test_vit"), ['interpolation = "bicubic"']),
        ("torchvision/squeezenet1_1", torchvision.models.squeezenet1_1, ["size = [224, 224]", "resize = 256"]),
    ],
)
def test_a_published_networks_check_holds_its_own_scores(tmp_path, source, make, lines):
    torch.manual_seed(0)
    added = add(source, tmp_path, Given(), name="", random_weights=True)
    directory = tmp_path / source.split("/")[1] / "1"
    text = (directory / "card.toml").read_text()
    assert all(line in text.splitlines() for line in lines) and not added.notes
    labels = (directory / "labels.txt").read_text().splitlines()
    assert len(labels) == 1000 and labels[281].split(",")[0] == "tabby"

    torch.manual_seed(0)
    net = make().eval()
    if source.startswith("timm"):
        pixels = timm.data.create_transform(**timm.data.resolve_model_data_config(net), is_training=False)
    else:
        pixels = torchvision.models.get_model_weights("squeezenet1_1").DEFAULT.transforms()
    with torch.no_grad():
        scores = net(pixels(Pil.open(directory / "check.png"))[None])[0]
    check = added.model.card.check
    assert check.classes == tuple(scores.topk(5).indices.tolist())
    assert check.scores == pytest.approx(scores.topk(5).values.tolist(), rel=1e-4)


def test_a_published_network_whose_preprocessing_is_not_the_cards_is_refused(tmp_path, monkeypatch, residual):
    add(residual, tmp_path / "models")
    before = tree(tmp_path / "models")

    def flipped(name, random_weights):
        found = published.timm(name, random_weights)
        return dataclasses.replace(found, pixels=lambda picture: found.pixels(picture).flip(0))  # blue, green, red

    monkeypatch.setitem(bring._ORIGINS, "timm", flipped)
    with pytest.raises(ValueError, match="refused: the card's check fails"):
        add("timm/test_resnet", tmp_path / "models", Given(), random_weights=True)
    assert tree(tmp_path / "models") == before and not (tmp_path / "models" / "net" / "2").exists()


def test_a_card_that_is_changed_afterwards_is_refused(tmp_path, residual):
    add(residual, tmp_path)
    directory = tmp_path / "net" / "1"
    assert load_version(directory, tmp_path).card.check.picture == "check.png"
    card = directory / "card.toml"
    card.write_text(card.read_text().replace("[input]", "[input]\nmean = [0.5, 0.4, 0.4]"))
    with pytest.raises(Refused, match="check fails"):
        load_version(directory, tmp_path)
    with pytest.raises(ValueError, match="check fails"):
        inspect(directory / "model.pt", Given())


@pytest.mark.parametrize("form", ["scripted", "traced", "pt2"])
def test_a_file_is_checked_on_ones_own_picture(tmp_path, form):
    net = seeded(Residual)
    file = export(net, form, tmp_path, torch.rand(2, 3, 32, 32))
    picture = tmp_path / "Cat.JPG"
    Picture.drawn().opened().resize((90, 50)).save(picture, "JPEG")
    added = add(file, tmp_path, picture=picture)
    assert (tmp_path / "net" / "1" / "check.jpg").read_bytes() == picture.read_bytes()
    card = Card.model_validate({"input": {"size": [32, 32]}})
    rows, _ = pictures.fitted(pictures.opened(picture.read_bytes(), "picture"), card.fit, "picture")
    with torch.no_grad():
        scores = net(card.sample().normalise(rows))[0]
    check = added.model.card.check
    assert check.picture == "check.jpg" and len(check.classes) == 5
    assert check.scores == pytest.approx(scores[list(check.classes)].tolist(), abs=1e-5)


def test_a_file_of_four_rows_and_one_in_half_precision_are_checked(tmp_path, residual):
    four = tmp_path / "four.pt"
    fixed = Ending(lambda scores: scores.reshape(4, 5)).eval()
    torch.jit.trace(fixed, torch.rand(4, 3, 32, 32), check_trace=False).save(four)
    assert add(four, tmp_path).model.card.check.tolerance == 1e-3
    half = tmp_path / "half.pt"
    torch.jit.script(seeded(Residual).half()).save(half)
    assert add(half, tmp_path).model.card.check.tolerance == 0.02
    coarse = add(residual, tmp_path, dataclasses.replace(SMALL, dtype="bfloat16")).model
    assert coarse.graph.dtype is torch.bfloat16, "a check is as strict as the numbers computed with allow"
    assert coarse.card.check.tolerance == 1e-3


@pytest.mark.parametrize(
    ("end", "given", "reason"),
    [
        (nn.Softmax(1), SMALL, "final softmax"),
        (nn.Sigmoid(), SMALL, "final sigmoid"),
        (nn.Unflatten(1, (5, 1, 1)), dataclasses.replace(SMALL, kind="stylizer"), "no scores"),
    ],
)
def test_a_note_says_why_there_is_no_check(tmp_path, end, given, reason):
    file = tmp_path / "file.pt"
    torch.jit.script(Ending(end).eval()).save(file)
    added = add(file, tmp_path, given)
    assert len(added.notes) == 1 and reason in added.notes[0]
    assert added.model.card.check is None and not (tmp_path / "net" / "1" / "check.png").exists()


def test_what_is_given_of_a_file_stands_in_its_card(tmp_path):
    file = tmp_path / "grey.pt"
    torch.jit.trace(Grey().eval(), torch.rand(2, 1, 32, 32), strict=False, check_trace=False).save(file)
    given = dataclasses.replace(SMALL, channels=1, path="scores", activation="sigmoid", interpolation="bicubic")
    model = add(file, tmp_path, given).model
    assert (model.facts.classes, model.facts.activation) == (7, "sigmoid") and model.card.check is not None
    assert load_version(tmp_path / "net" / "1", tmp_path).card == model.card
    with pytest.raises(ValueError, match="mean has 3 values; it needs one for each of 1"):
        add(file, tmp_path, dataclasses.replace(given, mean=(0.5, 0.5, 0.5)))
    with pytest.raises(ValueError, match=r"output\.path"):
        add(file, tmp_path, dataclasses.replace(given, path=None))


def test_a_file_with_further_inputs_is_refused(tmp_path):
    file = export(Captioned().eval(), "traced", tmp_path, torch.rand(2, 3, 32, 32), torch.zeros(2, 4, dtype=torch.long))
    with pytest.raises(ValueError, match=r"\[inputs\]"):
        add(file, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_a_picture_that_is_none_changes_nothing(tmp_path, residual):
    for picture, error in ((residual, ValueError), (tmp_path / "nowhere.png", FileNotFoundError)):
        with pytest.raises(error, match=picture.name):
            add(residual, tmp_path / "models", picture=picture)
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("name", "random_weights", "sentence"),
    [
        ("test_resnot", True, "the nearest are test_resnet"),
        ("test_resnet.a1", True, "the nearest are test_resnet"),
        ("test_vit4", False, "no weights of test_vit4; give --random-weights"),
    ],
)
def test_what_timm_does_not_have_is_a_sentence(tmp_path, name, random_weights, sentence):
    with pytest.raises(ValueError, match=sentence):
        add(f"timm/{name}", tmp_path, Given(), random_weights=random_weights)


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_a_library_that_is_missing_is_a_sentence(tmp_path, monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ValueError, match=f"install {library}"):
        add(f"{library}/resnet50", tmp_path, Given())


def test_a_hub_out_of_reach_is_a_sentence_at_once(tmp_path, monkeypatch):
    def silent(self, repository, timeout):
        raise ConnectionError(f"{repository} does not answer within {timeout:g} s.\nFurther lines")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", silent)
    begun = time.monotonic()
    with pytest.raises(ValueError, match="cannot be downloaded") as caught:
        add("timm/test_resnet", tmp_path / "models", Given())
    assert time.monotonic() - begun < 5
    told = "the weights of test_resnet cannot be downloaded (timm/test_resnet.r160_in1k does not answer within 5 s); "
    assert str(caught.value) == told + "export the model elsewhere and add its file, or give --random-weights"
    assert not (tmp_path / "models").exists()


def test_weights_that_cannot_be_fetched_after_all_are_a_sentence(tmp_path, monkeypatch):
    def fails(*args, **options):
        raise OSError("no space left on device")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **options: "here")  # an old copy is here
    monkeypatch.setattr(timm, "create_model", fails)
    with pytest.raises(ValueError, match=r"cannot be downloaded \(no space left on device\)"):
        add("timm/test_resnet", tmp_path, Given())


def test_a_network_that_does_not_take_the_size_is_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="cannot be written as TorchScript: Input height"):
        add("timm/vit_tiny_patch16_224", tmp_path / "models", Given(size=(64, 64)), random_weights=True)
    assert not (tmp_path / "models").exists()


def test_resize_and_interpolation_are_the_publishers(monkeypatch):
    assert published.timm("vit_tiny_patch16_224", True).given.resize == 248  # 224 / 0.9, rounded down
    assert published.torchvision("efficientnet_b0", True).given.interpolation == "bicubic"
    assert published.torchvision("squeezenet1_1", True).given.interpolation is None
    config = timm.data.resolve_model_data_config

    def lanczos(network):
        return {**config(network), "interpolation": "lanczos"}

    monkeypatch.setattr(timm.data, "resolve_model_data_config", lanczos)
    with pytest.raises(ValueError, match="lanczos interpolation"):
        published.timm("test_resnet", True)


@pytest.mark.parametrize(("mode", "words"), [("squash", "squeezes"), ("border", "border")])
def test_a_crop_that_the_card_does_not_know_is_told(tmp_path, monkeypatch, mode, words):
    config = timm.data.resolve_model_data_config
    monkeypatch.setattr(timm.data, "resolve_model_data_config", lambda net: {**config(net), "crop_mode": mode})
    added = add("timm/test_resnet", tmp_path, Given(), random_weights=True)
    assert len(added.notes) == 1 and words in added.notes[0] and added.model.card.check is not None


SIZES = [((31, 47), (16, 16), 20), ((200, 133), (66, 64), 73), ((97, 401), (48, 48), 48), ((20, 33), (40, 40), 45)]


def picture(height, width):
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Pil.fromarray(noise)


def theirs(resize, size, interpolation, antialias):
    """As the published weights have it; `transforms.v2` resizes 8-bit tensors with another bicubic curve, of PIL's."""
    mode = transforms.InterpolationMode(interpolation)
    return transforms.Compose([transforms.Resize(resize, mode, antialias=antialias), transforms.CenterCrop(size)])


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize(("original", "size", "resize"), SIZES)
def test_pictures_are_fitted_as_torchvision_does(original, size, resize, interpolation):
    image = picture(*original)
    rows, _ = pictures.fitted(image, Fit(size, resize, interpolation), "image")
    expected = np.asarray(theirs(resize, size, interpolation, True)(image))
    assert np.array_equal((rows[0] * 255).round().byte().permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("original", "size", "resize"), SIZES)
def test_tensors_are_fitted_as_torchvision_does(original, size, resize, interpolation, antialias):
    image = picture(*original)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    fit = Fit(size, resize, interpolation, antialias)
    ours = [pictures.fitted(pixels / 255, fit, "image")[0][0]]
    if not antialias:
        ours.append(pictures.fitted(image, fit, "image")[0][0])
    expected = theirs(resize, size, interpolation, antialias)(pixels) / 255
    for rows in ours:
        assert (rows - expected).abs().max() <= 1 / 255 + 1e-6


def test_inspection_tells_what_the_file_is(tmp_path, residual):
    found = inspect(residual, SMALL)
    assert (found.kind, found.input, found.output, found.classes) == ("classifier", (3, 32, 32), (5,), 5)
    assert (found.weights, found.computed, found.any_size, found.batches) == ("float32", "float32", True, True)
    assert (found.modules, found.operations, found.checked) == (6, 2, False) and 0 < found.seconds < 60
    assert {support.method: support.applies for support in found.methods}["grad_cam"]
    generator = tmp_path / "generator.pt"
    torch.jit.script(nn.Sequential(nn.Linear(16, 192), nn.Unflatten(1, (3, 8, 8)))).save(generator)
    found = inspect(generator, Given(kind="generator", code=16))
    assert (found.input, found.output, found.classes) == ((16,), (3, 8, 8), 0)
    assert all("needs a classifier" in support.reason for support in found.methods)


def test_inspection_reads_the_card_beside_the_file(tmp_path, residual):
    directory = tmp_path / "net" / "1"
    directory.mkdir(parents=True)
    file = shutil.copy(residual, directory / "model.pt")
    (tmp_path / "labels.txt").write_text("ant\nbee\ncat\ndog\neel\n")
    card = '[input]\nsize = [16, 24]\n[output]\nactivation = "sigmoid"\nlabels = "../../labels.txt"\n'
    (directory / "card.toml").write_text(card)
    found = inspect(Path(file), Given())
    assert (found.input, found.activation) == ((3, 16, 24), "sigmoid")
    found = inspect(Path(file), Given(size=(32, 16)))
    assert (found.input, found.activation) == ((3, 32, 16), "sigmoid")
    (directory / "card.toml").write_text("[input]\nsize = [16]\n")
    with pytest.raises(ValueError, match=r"input\.size"):
        inspect(Path(file), Given())
