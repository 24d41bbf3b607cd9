"""Predictions are the original file's, through a real server."""

import numpy as np
import pytest
import torch

from lightwell import Channel, Client, GradCam, NotApplicableError, Predictions
from tests.nets import FORMS, Residual, export, seeded
from tests.serving import served

LABELS = ("ape", "bee", "cat", "dog", "eel")


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    root = tmp_path_factory.mktemp("predictions")
    for form in FORMS:
        place = root / form / "1"
        place.mkdir(parents=True)
        made = export(seeded(Residual), form, place, torch.rand(2, 3, 16, 16))
        made.rename(place / f"model{made.suffix}")
        (place / "card.toml").write_text(
            "[input]\nsize = [16, 16]\nmean = [0.0, 0.0, 0.0]\nstd = [1.0, 1.0, 1.0]\n"
            f"[output]\nlabels = {list(LABELS)}\n"
        )
    with served(root) as server, Client(server.address) as client:
        yield client


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)


@pytest.mark.parametrize("form", FORMS)
def test_they_are_the_files(client, image, form):
    seen = client.explain(image, Predictions(k=3), model=form, fit="exact")
    with torch.no_grad():
        scores = seeded(Residual)(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)[0]
    highest = scores.topk(3)
    assert [item.class_index for item in seen.predictions] == highest.indices.tolist()
    assert [item.label for item in seen.predictions] == [LABELS[i] for i in highest.indices]
    assert [item.score for item in seen.predictions] == pytest.approx(highest.values.tolist(), abs=1e-5)
    chances = scores.softmax(0)[highest.indices].tolist()
    assert [item.probability for item in seen.predictions] == pytest.approx(chances, abs=1e-5)
    assert seen.target.label == LABELS[highest.indices[0]]


def test_how_many(client, image):
    def count(method, **options):
        return len(client.explain(image, method, model="traced", **options).predictions)

    assert count(Predictions()) == 5 and count(Predictions(k=2)) == 2
    assert count(Predictions(k=2), predictions=4) == 4 and count(GradCam(), predictions=1) == 1


def test_a_target_within_the_model_has_its_score_beside_them(client, image):
    seen = client.explain(image, Predictions(k=2), model="traced", target=Channel(layer="stem", channel=3), fit="exact")
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    assert seen.target.score == pytest.approx(float(seeded(Residual).stem(pixels)[0, 3].mean()), abs=1e-5)
    assert len(seen.predictions) == 2


def test_a_model_without_classes_has_none(tmp_path):
    place = tmp_path / "maps" / "1"
    place.mkdir(parents=True)
    export(torch.nn.Conv2d(3, 4, 3).eval(), "traced", place, torch.rand(2, 3, 16, 16)).rename(place / "model.pt")
    (place / "card.toml").write_text('[input]\nsize = [16, 16]\n[output]\nactivation = "none"\n')
    with served(tmp_path) as server, Client(server.address) as client, pytest.raises(NotApplicableError) as told:
        client.explain(np.zeros((16, 16, 3), np.uint8), Predictions())
    assert "no scores of classes" in told.value.message
