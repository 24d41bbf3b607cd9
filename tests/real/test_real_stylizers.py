"""The image transformation networks: they load as stylizers, and stylise a photograph at a size of their own choice."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pil

from lightwell_server.codec import pictures
from lightwell_server.codec.pictures import Fit
from lightwell_server.contract import GRAD, OUT, Ask, Part
from lightwell_server.models.answer import answer
from lightwell_server.models.store import load_version

NAMES = ("style_udnie", "style_wave", "style_rain_princess")
FIT = Fit((256, 384), 256)


@pytest.fixture(scope="module")
def stylised(images):
    """Chicago, and what each network makes of it: grey values [256, 384] and the picture, by name."""
    repository = Path(os.environ["LIGHTWELL_REAL"])
    content, _ = pictures.fitted(Pil.open(images / "chicago.jpg").convert("RGB"), FIT, "image")
    made = {}
    for name in NAMES:
        model = load_version(repository / name / "1", repository)
        assert model.facts.kind == "stylizer" and model.facts.any_size and not model.graph.row_by_row
        ask = Ask(content, lambda values, index: values.mean((1, 2, 3)), want=OUT | GRAD)
        made[name] = answer(model.graph, [Part(ask, 0, 1)])[0]
    return content, made


def test_pictures_keep_the_content_and_change_its_look(stylised):
    content, made = stylised
    for name, given in made.items():
        assert given.out.shape == content.shape
        assert given.grad.isfinite().all() and given.grad.any(), "styles can be searched through"
        picture = given.out.clamp(0, 1)
        assert (given.out - picture).abs().mean() < 0.02, f"{name} is in [0, 1]"
        likeness = np.corrcoef(content.mean(1).ravel(), picture.mean(1).ravel())[0, 1]
        assert 0.4 < likeness < 0.98, name
        assert (picture - content).abs().mean() > 0.05, name


def test_each_has_a_style_of_its_own(stylised):
    _, made = stylised
    pairs = [(a, b) for i, a in enumerate(NAMES) for b in NAMES[i + 1 :]]
    assert all(float(torch.dist(made[a].out, made[b].out, 1)) / made[a].out.numel() > 0.05 for a, b in pairs)
