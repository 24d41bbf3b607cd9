"""Sheets of many answers, and the pictures of methods without a map: of every client, by a real server."""

import asyncio
import io
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pil

import lightwell
from lightwell import (
    Activations,
    AsyncClient,
    Client,
    Embedding,
    Explanation,
    GradCam,
    GuidedBackprop,
    InvalidArgumentError,
    NotApplicableError,
    NotFoundError,
    Occlusion,
    Pgd,
    Predictions,
    Saliency,
    Segmentation,
    Synthesis,
    UnavailableError,
)
from lightwell.parameters import Usage
from lightwell.v1 import types_pb2 as types
from lightwell_server.local import Local
from tests.commands import run, sentence, told
from tests.serving import bundled, bundled_and_flat, served
from tests.terminals import on_terminal

SAMPLES = Path(lightwell.__file__).parent / "samples"
STAR, HEART = SAMPLES / "star.png", SAMPLES / "heart.png"
FILE = bundled() / "shapes" / "1" / "model.pt"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with served(bundled_and_flat(tmp_path_factory.mktemp("repository")), "--threads", "1") as server:
        yield server


@pytest.fixture
def client(server):
    with Client(server.address) as client:
        yield client


@pytest.fixture(params=["Client", "AsyncClient"])
def ask(request, server, client):
    """A call of either client, named with its arguments."""
    if request.param == "Client":
        return lambda name, *words, **options: getattr(client, name)(*words, **options)

    async def run_it(name, *words, **options):
        async with AsyncClient(server.address) as client:
            return await getattr(client, name)(*words, **options)

    return lambda name, *words, **options: asyncio.run(run_it(name, *words, **options))


def test_a_sheet_has_a_row_for_each_image_and_target(ask, client):
    made = ask("sheet", [STAR, HEART], [Saliency(), GradCam()], targets=["heart", 0], models="shapes")
    assert [row.name for row in made.rows] == ["star.png", "star.png", "heart.png", "heart.png"]
    assert [column.labels for column in made.columns] == [["saliency"], ["grad_cam"]]
    assert [[answer.method for answer in answers] for answers in made.answers] == [["saliency", "grad_cam"]] * 4
    for row, answers in zip(made.rows, made.answers, strict=True):
        for column, answer in zip(made.columns, answers, strict=True):
            alone = client.explain(row.image, column.method, model="shapes", target=row.target)
            assert np.allclose(answer.map, alone.map, atol=1e-4) and answer.source is row.image
    assert made.labels(2)[:2] == ["heart.png", "shapes"] and re.fullmatch(r"heart \d+\.\d%", made.labels(2)[2])


def test_a_sheet_of_the_classes_on_top(ask, client):
    made = ask("sheet", STAR, GradCam(), targets=3, models=["shapes"])
    expected = client.explain(STAR, Predictions(k=3), model="shapes").predictions
    assert [row.target for row in made.rows] == [one.class_index for one in expected]
    assert made.labels(0)[2] == f"star {expected[0].probability:.1%}"


def test_a_sweep_has_a_column_for_each_value(ask):
    sweep = {"layer": ["features.2", "features.10"], "fill": ["black", "blur"], "stride": [24]}
    made = ask("sheet", STAR, [Saliency(), GradCam(relu=False), Occlusion()], models="shapes", sweep=sweep)
    assert [column.labels for column in made.columns] == [
        ["saliency"],
        ["grad_cam", "layer=features.2", "relu=false"],
        ["grad_cam", "layer=features.10", "relu=false"],
        ["occlusion", "stride=24", "fill=black"],
        ["occlusion", "stride=24", "fill=blur"],
    ]
    assert [answer.message.resolved.grad_cam.layer for answer in made.answers[0][1:3]] == sweep["layer"]
    assert [answer.message.resolved.occlusion.fill for answer in made.answers[0][3:]] == [
        Occlusion.FILL_BLACK,
        Occlusion.FILL_BLUR,
    ]
    with pytest.raises(Usage, match="no method has a parameter 'layr'; the nearest are layer"):
        ask("sheet", STAR, GradCam(), sweep={"layr": ["a"]})
    with pytest.raises(Usage, match="fill: 'blu' is none of"):
        ask("sheet", STAR, Occlusion(), sweep={"fill": ["blu"]})


def test_a_cell_that_fails_says_why_and_the_others_are_there(ask):
    made = ask("sheet", STAR, [Saliency(), GradCam(), Pgd(steps=2)], models=["shapes", "flat", "none"], targets=2)
    assert [row.model for row in made.rows] == ["shapes", "shapes", "flat", "flat", "none"]
    kinds = [[type(answer) for answer in answers] for answers in made.answers]
    assert kinds[:2] == [[Explanation, Explanation, Synthesis]] * 2
    assert kinds[2:4] == [[Explanation, NotApplicableError, Synthesis]] * 2
    assert kinds[4] == [NotFoundError] * 3
    assert made.labels(4) == ["star.png", "none"]
    assert "no layer with height and width" in made.html() and "there is no model &#x27;none&#x27;" in made.html()


def test_a_sheet_ends_where_the_server_is_the_matter(server, tmp_path):
    with Client("127.0.0.1:1", retries=0) as client, pytest.raises(UnavailableError):
        client.sheet(STAR, [Saliency(), GradCam()])
    with Client(server.address) as client:
        with pytest.raises(FileNotFoundError):
            client.sheet([STAR, tmp_path / "nowhere.png"], Saliency(), models="shapes")
        with pytest.raises(ValueError, match="image 2 is no picture that can be read"):
            client.sheet([STAR, b"nothing"], Saliency(), models="shapes")


class Page(HTMLParser):
    """The words and the pictures of a table, cell by cell."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.inside = [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append([])
            self.inside = True
        if tag == "img":
            self.rows[-1][-1].append(dict(attrs)["src"])

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1].append(data)


METHODS = [Saliency(), GuidedBackprop(), GradCam(), Segmentation(), Activations(), Predictions(), Embedding()]


@pytest.fixture(scope="module")
def sheet(server):
    """Of a picture that is no square, with cells of every kind."""
    wide = Pil.new("RGB", (150, 100), "white")
    wide.paste(Pil.open(STAR), (25, 2))
    with Client(server.address) as client:
        return client.sheet([wide, HEART], METHODS, models=["shapes", "flat"])


def test_a_sheet_is_a_page(sheet, tmp_path):
    sheet.save(tmp_path / "sheet.html")
    text = (tmp_path / "sheet.html").read_text()
    assert not re.search(r"https?:|url\(|<script|<link|\$[a-z{]", text)
    head, *rows = Page(text).rows
    assert [cell[:1] for cell in head[1:]] == [["original"], *([column.labels[0]] for column in sheet.columns)]
    assert [row[0][:2] for row in rows] == [
        ["image 1", "shapes"],
        ["image 1", "flat"],
        ["heart.png", "shapes"],
        ["heart.png", "flat"],
    ]
    for row in rows:
        assert all(cell[0].startswith("data:image/png;base64,") for cell in row[1:3])
        assert all("%" in line for line in row[7][0].splitlines())
    assert re.fullmatch(r"embedding \[\d+\]", rows[0][8][0])
    assert "no layer with height and width" in rows[1][4][0]


def test_a_sheet_is_a_picture(sheet, tmp_path):
    sheet.save(tmp_path / "sheet.jpg")
    picture = sheet.picture()
    assert Pil.open(tmp_path / "sheet.jpg").size == picture.size == Pil.open(io.BytesIO(sheet._repr_png_())).size
    pixels = np.asarray(picture).astype(int)
    left, top = 190 + 250 * np.arange(8), 10 + 19 + 10
    # The picture as it was sent, with white at its sides; beside it the maps at the place where the model saw it.
    assert (pixels[top : top + 160, left[0] : left[0] + 240] < 128).any()
    margin = pixels[top + 5 : top + 155, left[1] + 3 : left[1] + 30]
    assert not margin.any()  # of a saliency nothing is black
    assert (pixels[top + 5 : top + 155, left[2] + 3 : left[2] + 30] == 247).all()  # of signs it is nearly white
    assert pixels[top : top + 160, left[1] : left[1] + 240].max() == 255
    assert picture.size == (left[7] + 250, top + 2 * (160 + 10) + 2 * (240 + 10))


def test_activations_are_drawn_by_the_sdk_and_by_the_server(client, tmp_path):
    seen = client.explain(STAR, Activations(max_channels=9), model="shapes", pictures=("sheet", "map", "cutout"))
    [drawn] = seen.message.pictures
    assert drawn.name == "sheet" and np.array_equal(Pil.open(io.BytesIO(drawn.png)), seen.picture())
    assert [warning.code for warning in seen.message.warnings] == [types.WARNING_CODE_NO_PICTURE] * 2
    assert seen.warnings[0] == "No map was drawn: activations has none; its pictures are sheet."
    seen.save(tmp_path / "sheet.png")
    assert np.array_equal(Pil.open(tmp_path / "sheet.png"), Pil.open(io.BytesIO(seen._repr_png_())))
    for call in (seen.overlay, seen.cutout, lambda: seen.map, lambda: seen.values):
        with pytest.raises(ValueError, match="activations has no "):
            call()
    assert "activations (9, " in repr(seen)


def test_an_object_is_cut_out_by_the_sdk_and_by_the_server(client, tmp_path):
    large = Pil.open(STAR).convert("RGB").resize((480, 300))
    seen = client.explain(large, Segmentation(), model="shapes", pictures=("cutout", "overlay", "map"))
    ours = {"cutout": seen.cutout(), "overlay": seen.overlay()}
    for picture in seen.message.pictures:
        if picture.name in ours:
            assert np.array_equal(Pil.open(io.BytesIO(picture.png)), ours[picture.name])
    assert [picture.name for picture in seen.message.pictures] == ["cutout", "overlay", "map"] and not seen.warnings[1:]
    assert np.array_equal(seen.picture(), seen.cutout()) and seen.map.shape == seen.tensors["mask"].shape
    seen.save(tmp_path / "star.png")
    seen.save(tmp_path / "star.jpg")
    cut, flat = Pil.open(tmp_path / "star.png"), Pil.open(tmp_path / "star.jpg")
    assert (cut.mode, cut.size) == ("RGBA", (480, 300)) and flat.mode == "RGB"
    clear = np.asarray(cut)[..., 3] == 0
    assert clear.any() and not clear.all() and np.asarray(flat)[clear].mean() > 250


@pytest.mark.parametrize("method", [Predictions(k=3), Embedding()], ids=lambda method: type(method).__name__)
def test_what_has_no_picture_says_so(client, tmp_path, method):
    seen = client.explain(STAR, method, model="shapes", pictures=("overlay",))
    name = type(method).__name__.lower()
    assert seen.warnings == [f"No overlay was drawn: {name} has none; it has no picture."] and not seen.message.pictures
    for call in (seen.picture, seen.overlay, seen.cutout, lambda: seen.save(tmp_path / "x.png")):
        with pytest.raises(ValueError, match=f"^{name} has no picture$"):
            call()
    with pytest.raises(ValueError, match=f"{name} has no map; it has: "):
        _ = seen.map
    assert seen._repr_png_() is None and (("star 9" in repr(seen)) or ("embedding (" in repr(seen)))


def test_the_filters_of_a_layer(ask, tmp_path):
    plain, drawn = ask("filters", model="shapes"), ask("filters", "features.4", "shapes", picture=True)
    assert (plain.layer, plain.weights.shape, plain.weights.dtype) == ("features.0", (16, 3, 3, 3), np.float32)
    assert not plain.message.png and plain.picture().mode == "RGB"
    assert (drawn.message.filters, drawn.message.channels) == drawn.weights.shape[:2]
    assert np.array_equal(Pil.open(io.BytesIO(drawn._repr_png_())), drawn.picture())
    drawn.save(tmp_path / "filters.jpg")
    assert Pil.open(tmp_path / "filters.jpg").size == drawn.picture().size
    with pytest.raises(InvalidArgumentError, match="nearest"):
        ask("filters", "features.99", "shapes")


def test_the_same_calls_in_this_process(tmp_path):
    with Local(FILE) as local:
        assert local.filters().layer == local.filters("features.0", picture=True).layer == "features.0"
        assert local.filters(picture=True).message.filters == 16
        with pytest.raises(InvalidArgumentError, match="nearest"):
            local.filters("nothing")
        made = local.sheet([STAR, HEART], [GradCam(), Pgd(steps=2)], targets=2)
        assert [[type(answer) for answer in answers] for answers in made.answers] == [[Explanation, Synthesis]] * 4
        made.save(tmp_path / "sheet.png")


@pytest.fixture
def command(server):
    return lambda *words: run(server.address, *words)


def test_the_command_draws_a_sheet(command, tmp_path):
    out = tmp_path / "deep" / "sheet.html"
    words = ("-m", "grad_cam", "-m", "saliency", "--model", "shapes", "--sweep", "layer=features.2,features.6")
    code, line, error = command("sheet", STAR, HEART, *words, "--target", "star", "--target", 3, "--out", out)
    assert (code, error, line) == (0, "", f"4 x 3 cells  {out}\n")
    assert len(Page(out.read_text()).rows) == 5
    picture = tmp_path / "sheet.png"
    code, line, _ = command("sheet", SAMPLES / "s*.png", *words, "--model", "flat", "--top", 1, "--out", picture)
    assert code == 0 and "6 without an answer" in line and "grad_cam does not apply to flat@1" in line
    assert Pil.open(picture).size[0] == 190 + 4 * 250
    cells = told(command("sheet", STAR, *words, "--model", "flat", "--out", picture, "--json"))
    assert [(cell["method"], cell["error"] is None) for cell in cells] == [
        ("grad_cam", True), ("grad_cam", True), ("saliency", True),
        ("grad_cam", False), ("grad_cam", False), ("saliency", True),
    ]  # fmt: skip
    assert cells[1]["parameters"]["layer"] == "features.6" and cells[0]["target"]["label"] == "star"
    assert cells[3]["reason"] == "METHOD_NOT_APPLICABLE" and cells[3]["file"] == str(picture)


def test_a_person_sees_how_far_a_sheet_is(server, tmp_path):
    words = ["sheet", str(STAR), "--model", "shapes", "--top", "3", "--out", str(tmp_path / "sheet.png")]
    program = "from lightwell.cli.app import app; app()"
    code, lines = on_terminal([sys.executable, "-c", program, *words, "--server", server.address])
    assert code == 0 and any("100%" in line for line in lines) and any("3 x 1 cells" in line for line in lines)


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        ([STAR, "--sweep", "layer"], 2, "write NAME=A,B,C"),
        ([STAR, "--sweep", "layr=a"], 2, "layer"),
        ([STAR, "-m", "grad_cm"], 2, "grad_cam"),
        ([STAR, "--top", 2, "--target", 3], 2, "leave --target out"),
        ([STAR, "--out", "sheet.xyz"], 2, ".xyz"),
        ([STAR, "--model", "shape"], 1, "shapes"),
        ([STAR, "--model", "flat"], 1, "no layer with height and width"),
        ([FILE, "--model", "shapes"], 1, "model.pt is no picture that can be read"),
        (["nowhere.png"], 1, "nowhere.png"),
    ],
)
def test_what_no_sheet_can_be_made_of_is_one_sentence(command, tmp_path, monkeypatch, words, code, part):
    monkeypatch.chdir(tmp_path)
    assert part in sentence(command("sheet", *words), code) and not list(tmp_path.iterdir())


def test_explain_writes_what_a_method_has(command, tmp_path):
    ask = ("explain", STAR, "--model", "shapes", "--out", tmp_path, "-m")
    for method, ending in (("activations", "png"), ("segmentation", "png"), ("embedding", "npz")):
        code, line, error = command(*ask, method)
        assert (code, error) == (0, "") and line.endswith(f"{tmp_path}/star_{method}.{ending}\n")
        assert "no target" not in line
    assert Pil.open(tmp_path / "star_segmentation.png").mode == "RGBA"
    with np.load(tmp_path / "star_embedding.npz") as arrays:
        assert arrays["embedding"].ndim == 1 and json.loads(str(arrays["lightwell"]))["model"] == "shapes@1"
    code, line, _ = command(*ask, "embedding", "--resume")
    assert (code, line) == (0, "")
    assert "let it end in .npz" in sentence(command(*ask[:4], "--out", tmp_path / "x.png", "-m", "embedding"), 2)
    assert "looks at no target" in sentence(command(*ask, "activations", "--top", 2), 1)


def test_explain_prints_predictions(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ask = ("explain", STAR, "--model", "shapes", "-m", "predictions", "-p", "k=3")
    code, out, _ = command(*ask)
    head, *classes = out.splitlines()
    assert code == 0 and head.startswith("star.png  star") and len(classes) == 3
    assert re.fullmatch(r" +\d+\.\d%  star", classes[0])
    [answer] = told(command(*ask, "--json"))
    assert len(answer["predictions"]) == 3 and answer["file"] is None
    assert "writes no file" in sentence(command(*ask, "--out", "maps"), 2) and not list(tmp_path.iterdir())


def test_filters_are_drawn(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, line, _ = command("models", "filters", "shapes")
    assert (code, line) == (0, "features.0  weights 16 x 3 x 3 x 3  shapes_features.0_filters.png\n")
    [answer] = told(command("models", "filters", "shapes", "--layer", "features.4", "--out", "f.png", "--json"))
    assert answer["layer"] == "features.4" and answer["shape"][:2] == [answer["filters"], answer["channels"]]
    assert Pil.open(tmp_path / "f.png").mode == "L" and (tmp_path / "shapes_features.0_filters.png").exists()
    assert "nearest" in sentence(command("models", "filters", "shapes", "--layer", "head.9"), 1)
