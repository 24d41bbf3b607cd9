"""What is drawn: colours whose steps look even, maps over their images, tiles with numbers, cut-outs."""

import numpy as np
import pytest
from PIL import Image as Pil

from lightwell import images
from lightwell.images import to_tensor
from lightwell.pictures import colors, drawing, render, tiles
from lightwell.results import Explanation
from lightwell.v1 import explain_pb2
from lightwell.v1 import types_pb2 as types

NEARLY_WHITE = 95


def lab(rgb):
    """CIELAB of 8-bit sRGB [..., 3], under D65."""
    light = np.asarray(rgb, float) / 255
    light = np.where(light <= 0.04045, light / 12.92, ((light + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]
    )
    xyz = light @ to_xyz.T / to_xyz.sum(1)
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)


def uneven(rgb):
    """How far the steps along colours [n, 3] are from even: the largest over the least, in lightness and in colour;
    infinite where the lightness turns back."""
    steps = np.diff(lab(rgb), axis=0)
    lightness, distance = steps[:, 0], np.linalg.norm(steps, axis=1)
    if (lightness <= 0).any():
        return np.inf
    return max(lightness.max() / lightness.min(), distance.max() / distance.min())


def heat(count):
    return colors.colored(np.linspace(0, 1, count, dtype=np.float32)[None], signed=False)[0]


def signs(count):
    return colors.colored(np.linspace(-1, 1, count, dtype=np.float32)[None], signed=True)[0]


def jet(count):
    """Blue, cyan, yellow, red, as many programs once drew maps."""
    places = np.linspace(0, 1, count)[:, None]
    return np.clip(1.5 - np.abs(4 * places - [3, 2, 1]), 0, 1) * 255


def test_heat_rises_evenly():
    assert uneven(heat(33)) < 1.4
    assert lab(heat(2))[0, 0] < 3 and lab(heat(2))[1, 0] > NEARLY_WHITE
    assert uneven(jet(33)) == uneven(jet(33)[::-1]) == np.inf  # the law tells good colours from bad ones


def test_signs_are_of_equal_strength_around_zero():
    drawn = signs(33)
    below, above = drawn[:17], drawn[:15:-1]
    assert uneven(below) < 1.4 and uneven(above) < 1.4
    assert np.abs(lab(below)[:, 0] - lab(above)[:, 0]).max() < 1
    assert np.linalg.norm(lab(below) - lab(above), axis=1)[:-3].min() > 20  # and yet two colours


def test_zero_is_the_middle_and_has_no_colour():
    zero = signs(3)[1]
    assert len(set(zero.tolist())) == 1 and lab(zero)[0] > NEARLY_WHITE


def pixelwise(signed):
    return types.Heatmap(height=40, width=50, enlargement=types.ENLARGEMENT_NONE, signed=signed)


def noisy(seed=0):
    """A map of single pixels [40, 50], one of them ten times as strong as all others."""
    values = np.random.default_rng(seed).uniform(-1, 1, (40, 50)).astype(np.float32)
    values[7, 9] = 10
    return values


@pytest.mark.parametrize("signed", [False, True])
def test_a_single_pixel_does_not_leave_the_rest_pale(signed):
    values = noisy()
    drawn = np.asarray(render.picture(values, pixelwise(signed))).astype(int)
    strongest, weakest = (np.abs(np.abs(values) - k) < 0.02 for k in (0.9, 0))
    if signed:
        assert np.ptp(drawn[strongest], axis=1).min() > 60 > np.ptp(drawn[weakest], axis=1).max()
        red, blue = drawn[strongest & (values > 0)], drawn[strongest & (values < 0)]
        assert (red[:, 0] > red[:, 2]).all() and (blue[:, 2] > blue[:, 0]).all()
    else:
        assert np.ptp(drawn, axis=2).max() == 0 and drawn[strongest].min() > 200 > 20 > drawn[weakest].max()


def test_a_map_that_is_nearly_empty_is_not_drawn_empty():
    values = np.zeros((40, 50), np.float32)
    values[3, 4] = 1e-6
    assert np.asarray(render.picture(values, pixelwise(signed=False)))[3, 4].tolist() == [255] * 3


def test_what_is_no_number_is_drawn_as_nothing():
    values = noisy()
    values[0, :3] = np.nan, np.inf, -np.inf
    drawn = np.asarray(render.picture(values, pixelwise(signed=False)))
    assert not drawn[0, :3].any() and drawn[values == 10].min() == 255


PLACE = types.Placement(scale_x=2, scale_y=2, offset_x=20, offset_y=-4, width=140, height=72)
"""Of 50 x 40 pixels in an image of 140 x 72: above and below some of them lie outside of it."""


@pytest.mark.parametrize("signed", [False, True])
def test_nothing_in_a_map_leaves_the_image_as_it_is(signed):
    original = Pil.fromarray(np.random.default_rng(1).integers(0, 256, (72, 140, 3), dtype=np.uint8))
    values = np.zeros((40, 50), np.float32)
    values[20:30, 10:20] = 1
    drawn = np.asarray(render.overlay(original, values, pixelwise(signed), PLACE)).astype(int)
    changed = np.abs(drawn - np.asarray(original)).max(2) > 0
    rows, columns = np.nonzero(changed)
    assert (drawn.shape, changed[40:52, 44:56].mean()) == ((72, 140, 3), 1)
    assert rows.min() >= 34 and rows.max() <= 57 and columns.min() >= 38 and columns.max() <= 61


@pytest.fixture
def cut():
    """An object in an image, cut out of it."""
    original = Pil.new("RGB", (140, 72), (200, 100, 50))
    mask = np.zeros((40, 50), np.uint8)
    mask[10:30, 5:25] = 1
    return original, mask, render.cutout(original, mask, PLACE)


def test_an_object_is_cut_out_of_the_whole_image(cut):
    original, _, drawn = cut
    pixels = np.asarray(drawn)
    assert (drawn.mode, drawn.size) == ("RGBA", original.size)
    assert (pixels[18:54, 32:68] == (200, 100, 50, 255)).all()
    outside = pixels[..., 3] == 0
    assert outside[:14].all() and outside[58:].all() and outside[:, :28].all() and outside[:, 72:].all()
    assert not pixels[outside].any()
    edge = pixels[36, 26:34, 3].astype(int)
    assert len(set(edge.tolist())) > 2 and (np.diff(edge) >= 0).all()  # smooth, not in steps of the mask's pixels


def test_an_object_is_shown_in_its_image(cut):
    original, mask, _ = cut
    pixels = np.asarray(render.shown(original, mask, PLACE)).astype(int)
    assert (pixels[18:54, 32:68] == (200, 100, 50)).all()
    assert np.ptp(pixels[:14], axis=2).max() == 0 and pixels[:14].max() < 40


def test_each_map_of_a_sheet_is_rescaled_on_its_own():
    maps = (
        np.random.default_rng(2).normal(size=(5, 7, 9)).astype(np.float32)
        * np.array([1e-5, 1, 100, 1, 1])[:, None, None]
    )
    maps[4] = 3  # flat
    sheet = tiles.maps(maps, [7, 0, 1203, 5, 9])
    pixels = np.asarray(sheet).astype(int)
    # Enlarged seven times, in three columns, below a line for each number.
    assert sheet.size == (3 * (63 + 4) + 4, 2 * (49 + 4 + 15) + 4)
    for i, one in enumerate(maps):
        top, left = 4 + i // 3 * 68 + 15, 4 + i % 3 * 67
        tile = pixels[top : top + 49, left : left + 63]
        assert (tile == tile[::7, ::7].repeat(7, 0).repeat(7, 1)).all() and np.ptp(tile, axis=2).max() == 0
        expected = (one - one.min()) / (np.ptp(one) or 1) * 255
        assert np.abs(tile[::7, ::7, 0] - expected).max() <= 0.51
        number = pixels[top - 15 : top, left : left + 63].min()
        assert number < 100  # there is ink
    assert pixels[-60:, -60:].min() == 255  # the place of a sixth


@pytest.mark.parametrize(
    ("shape", "shown"),
    [
        ((16, 3, 7, 7), (16, 3)),
        ((16, 1, 3, 3), (16, 1)),
        ((16, 4, 3, 5), (16, 4)),
        ((16, 24, 1, 1), (16, 24)),
        ((10, 24), (10, 24)),
        ((3, 3), (3, 3)),
        ((9000, 3, 3, 3), None),
        ((9000, 1, 11, 11), None),
        ((2048, 512, 3, 3), None),
        ((1000, 1280), None),
        ((4, 9000, 3, 3), None),
    ],
)
def test_filters_fit_into_a_picture(shape, shown):
    weights = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    sheet, count, depth = tiles.filters(weights)
    assert max(sheet.size) <= tiles.LARGEST
    assert (count, depth) == shown if shown else 100 < count * depth < shape[0] * shape[1]
    assert count <= shape[0] and depth <= shape[1]


def test_filters_of_three_channels_are_in_colour():
    weights = np.zeros((2, 3, 5, 5), np.float32)
    weights[0, 0, 1, 2], weights[0, 1, 3, 3] = 7, -7  # red, and the rest of zero grey
    pixels = np.asarray(tiles.filters(weights)[0]).astype(int)
    tile = pixels[19 : 19 + 60 : 12, 4 : 4 + 60 : 12]
    assert tile[1, 2].tolist() == [255, 128, 128] and tile[3, 3].tolist() == [128, 0, 128]
    assert tile[0, 0].tolist() == [128] * 3


def test_other_filters_have_a_row_each():
    weights = np.random.default_rng(4).normal(size=(3, 5, 3, 3)).astype(np.float32)
    weights[1] *= 1e-4
    pixels = np.asarray(tiles.filters(weights)[0]).astype(int)
    for (i, j), kernel in ((place, weights[place]) for place in np.ndindex(3, 5)):
        top, left = 36 + i * 27, 36 + j * 27
        own = weights[i]
        expected = (kernel - own.min()) / np.ptp(own) * 255
        assert np.abs(pixels[top : top + 24 : 8, left : left + 24 : 8] - expected).max() <= 0.51
    assert pixels[36:60, :36].min() < 100 and pixels[:36, 36:60].min() < 100  # numbers at both edges


SHOWN = {
    "maps": (np.eye(2, dtype=np.float32)[None], types.VIEW_MAPS),
    "images": (np.zeros((2, 3, 4, 4), np.float32), types.VIEW_IMAGES),
    "mask": (np.eye(8, dtype=np.uint8), types.VIEW_MASK),
    "points": (np.array([[1, 5]], np.float32), types.VIEW_POINTS),
    "vector": (np.zeros(3, np.float32), types.VIEW_VECTOR),
    "table": (np.zeros((2, 3), np.float32), types.VIEW_TABLE),
    "plain": (np.zeros((3, 8, 8), np.float32), types.VIEW_UNSPECIFIED),
}


def answer(*tensors, drawn=False):
    """A response with tensors that are shown so, by names of no method, and perhaps a map."""
    response = explain_pb2.ExplainResponse(resolved=explain_pb2.ExplainRequest(embedding={}))
    response.placement.CopyFrom(types.Placement(scale_x=2, scale_y=2, width=16, height=16))
    for name in tensors:
        values, view = SHOWN[name]
        response.tensors.add(name=f"some_{name}", view=view).tensor.CopyFrom(images.to_tensor(values))
    if drawn:
        response.map.height = 2
    return response


def test_what_has_no_picture_says_so():
    assert drawing.kinds(answer("vector", "table", "plain")) == ()
    assert drawing.kinds(answer(drawn=True)) == ("overlay", "map")
    assert drawing.kinds(answer("maps")) == drawing.kinds(answer("images")) == ("sheet",)
    assert drawing.kinds(answer("mask", drawn=True)) == ("cutout", "overlay", "map")
    assert drawing.kinds(answer("points")) == ("overlay",)
    assert drawing.kinds(answer("mask", "points", "maps", drawn=True), of_image=False) == ("sheet", "map")
    with pytest.raises(ValueError, match=r"^embedding has no picture$"):
        drawing.draw("map", answer("vector"), Pil.new("RGB", (9, 9)))
    with pytest.raises(ValueError, match=r"^embedding has no map; it has: sheet$"):
        drawing.draw("map", answer("maps"), Pil.new("RGB", (9, 9)))


def test_points_are_dots_where_the_model_saw_them():
    drawn = np.asarray(drawing.draw("overlay", answer("points"), Pil.new("RGB", (16, 16)))).astype(int)
    row, column = np.argwhere(drawn[..., 0] - drawn[..., 1] > 100).mean(0)
    assert (row, column) == pytest.approx((2 * 1.5, 2 * 5.5), abs=0.6)


def test_pictures_side_by_side_keep_their_colours():
    response = answer()
    values = np.zeros((2, 3, 4, 4), np.float32)
    values[0, 0], values[1, 2] = 1, 0.5
    response.tensors.add(name="faces", view=types.VIEW_IMAGES).tensor.CopyFrom(images.to_tensor(values))
    sheet = np.asarray(drawing.draw("sheet", response, None))
    assert (sheet == (255, 0, 0)).all(-1).sum() == (sheet == (0, 0, 128)).all(-1).sum() > 0


def test_numbers_are_saved_with_all_tensors_and_the_record(tmp_path):
    response = explain_pb2.ExplainResponse()
    response.resolved.saliency.SetInParent()
    response.map.values.CopyFrom(to_tensor(np.arange(6, dtype=np.float32).reshape(2, 3)))
    response.map.height, response.map.width = 2, 3
    response.tensors.add(name="mask", tensor=to_tensor(np.ones((2, 3), np.uint8)))
    seen = Explanation(response, types.Image())
    seen.save(tmp_path / "seen.npz", record="who asked")
    seen.save(tmp_path / "bare.npz")
    with np.load(tmp_path / "seen.npz") as arrays, np.load(tmp_path / "bare.npz") as bare:
        assert np.array_equal(arrays["map"], [[0, 1, 2], [3, 4, 5]]) and arrays["mask"].dtype == np.uint8
        assert str(arrays["lightwell"]) == "who asked" and set(bare) == {"map", "mask"}
    with pytest.raises(ValueError, match="has no numbers to write"):
        Explanation(explain_pb2.ExplainResponse(resolved=response.resolved), types.Image()).save(tmp_path / "no.npz")
