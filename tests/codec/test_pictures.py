"""Files become the pixels that their formats say, in 8 bits of RGB; what cannot be read is refused by its field."""

import io
import json
import random
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
import torch
from PIL import Image as Pil
from PIL.PngImagePlugin import PngInfo
from torchvision import transforms

from lightwell import Client, InvalidArgumentError, Saliency
from lightwell.images import to_message, to_picture
from lightwell.v1 import types_pb2 as types
from lightwell.v1.synthesize_pb2 import Style, StyleTransfer
from lightwell_server.codec import images, pictures
from lightwell_server.codec.pictures import Fit
from lightwell_server.errors import InvalidArgument
from tests.serving import bundled, served

ORIENTATION = 274
"""EXIF's and TIFF's tag of how a picture is turned."""


def decoded(data, max_pixels=pictures.MAX_PIXELS):
    """What the service makes of a file: integers [height, width, 3]."""
    rows = images.sent(types.Image(encoded=data), "style.image", max_pixels).decoded().whole()
    pixels = (rows[0] * 255).round().permute(1, 2, 0).numpy().astype(int)
    assert np.array_equal(pixels, to_picture(types.Image(encoded=data))), "what maps are drawn on is another picture"
    return pixels


def file(picture, form, **options):
    """A file that Pillow writes."""
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def of(array, mode=None):
    picture = Pil.fromarray(np.asarray(array, np.uint8))
    return picture.convert(mode) if mode else picture


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def short(*values):
    return struct.pack(f">{len(values)}H", *values)


def png(size, bits, colour, lines, *before, after=(), interlaced=False):
    """A PNG of packed lines; its size is (width, height), its colour the type in the header."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, interlaced))
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + line for line in lines)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(before) + pixels + b"".join(after) + chunk(b"IEND", b"")


def transparent(*values):
    """The chunk that names the transparent grey or colour."""
    return chunk(b"tRNS", short(*values))


def tiff(order, size, bits, photometric, samples, data, tags=None, tile=None):
    """An uncompressed TIFF of one strip, or of one square tile; its size is (width, height), order "<" or ">"."""
    each = [bits] * samples
    entries = {256: [size[0]], 257: [size[1]], 258: each, 259: [1], 262: [photometric], 277: [samples]}
    entries |= {322: [tile], 323: [tile], 325: [len(data)]} if tile else {278: [size[1]], 279: [len(data)]}
    entries |= {tag: [value] for tag, value in (tags or {}).items()}
    behind = 8 + 2 + 12 * (len(entries) + 1) + 4
    entries[324 if tile else 273] = [behind + 2 * samples]
    lines = b""
    for tag, values in sorted(entries.items()):
        kind = "H" if tag in (258, 259, 262, 277, 338, 339, ORIENTATION) else "I"
        packed = struct.pack(f"{order}{len(values)}{kind}", *values).ljust(4, b"\0")
        value = packed if len(packed) == 4 else struct.pack(order + "I", behind)
        lines += struct.pack(order + "HHI", tag, 3 if kind == "H" else 4, len(values)) + value
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, 8, len(entries))
    return head + lines + bytes(4) + struct.pack(f"{order}{samples}H", *each) + data


def over_white(colour, alpha):
    """The nearest integers; no value of 255ths lies in the middle of two."""
    colour, alpha = np.asarray(colour, int), np.asarray(alpha, int)[..., None]
    return np.rint((colour * alpha + 255 * (255 - alpha)) / 255).astype(int)


def greys(*values):
    """One line of grey, [1, width, 3]."""
    return np.repeat(np.array(values)[None, :, None], 3, axis=2)


NOISE = np.random.default_rng(0).integers(0, 256, (21, 35, 3))
GREY = NOISE[..., 0]
BINARY = np.where(GREY > 127, 255, 0)
COLOURS = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [10, 20, 30]])
INDICES = GREY % 4


def indexed():
    picture = of(INDICES)
    picture.putpalette(COLOURS.astype(np.uint8).tobytes())
    return picture


def waves(height=96, width=128):
    """Slow waves, which JPEG keeps within a few steps."""
    down, across = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return np.stack([255 * down, 127 + 90 * np.sin(4 * across + 2 * down), 255 * (1 - across * down)], axis=2).round()


# The seven passes of an interlaced PNG: the rows and the columns of each.
PASSES = [np.s_[::8, ::8], np.s_[::8, 4::8], np.s_[4::8, ::4], np.s_[::4, 2::4], np.s_[2::4, ::2], np.s_[::2, 1::2]]
PASSES += [np.s_[1::2, :]]
INTERLACED = [line.astype(np.uint8).tobytes() for each in PASSES for line in NOISE[each]]

RGB, RGBA = of(NOISE), of(NOISE).convert("RGBA")
RGBA.putalpha(of(GREY))
PALETTE = chunk(b"PLTE", COLOURS.astype(np.uint8).tobytes())
SMALL = of(NOISE[:9, :9] // 2)

# Files without loss, and their pixels.
EXACT = {
    "PNG": (file(RGB, "PNG"), NOISE),
    "interlaced PNG": (png((35, 21), 8, 2, INTERLACED, interlaced=True), NOISE),
    "PNG of grey": (file(of(GREY), "PNG"), NOISE[..., [0, 0, 0]]),
    "PNG of 1 bit": (file(of(BINARY, "1"), "PNG"), np.stack([BINARY] * 3, axis=2)),
    "PNG of 2 bits": (png((4, 1), 2, 0, [b"\x1b"]), greys(0, 85, 170, 255)),
    "PNG of 4 bits": (png((2, 1), 4, 0, [b"\x2f"]), greys(34, 255)),
    "PNG with palette": (file(indexed(), "PNG"), COLOURS[INDICES]),
    "PNG of 2 bits with palette": (png((4, 1), 2, 3, [b"\x1b"], PALETTE), COLOURS[None]),
    "PNG of 16 bits grey": (png((3, 1), 16, 0, [short(0x1280, 0x80FF, 0xFF00)]), greys(0x12, 0x80, 0xFF)),
    "PNG of 16 bits RGB": (
        png((2, 1), 16, 2, [short(0x12FF, 0x8000, 0xFFFF, 0xFF, 0x100, 0x1FF)]),
        np.array([[[0x12, 0x80, 0xFF], [0, 1, 1]]]),
    ),
    "PNG with more lines than its header says": (png((2, 1), 8, 0, [b"\1\2", b"\3\4"]), greys(1, 2)),
    "WebP": (file(RGB, "WEBP", lossless=True), NOISE),
    "GIF": (file(indexed(), "GIF"), COLOURS[INDICES]),
    "BMP": (file(RGB, "BMP"), NOISE),
    "BMP of grey": (file(of(GREY), "BMP"), NOISE[..., [0, 0, 0]]),
    "BMP of 1 bit": (file(of(BINARY, "1"), "BMP"), np.stack([BINARY] * 3, axis=2)),
    "BMP with palette": (file(indexed(), "BMP"), COLOURS[INDICES]),
    **{f"TIFF, {how}": (file(RGB, "TIFF", compression=how), NOISE) for how in ("raw", "tiff_lzw", "packbits")},
    "TIFF, deflate": (file(RGB, "TIFF", compression="tiff_adobe_deflate"), NOISE),
    "TIFF with palette": (file(indexed(), "TIFF"), COLOURS[INDICES]),
    "TIFF of 1 bit, fax": (file(of(BINARY, "1"), "TIFF", compression="group4"), np.stack([BINARY] * 3, axis=2)),
    "TIFF, tiled": (
        tiff("<", (3, 2), 8, 1, 1, bytes(range(256)), tile=16),
        greys(0, 1, 2, 16, 17, 18).reshape(2, 3, 3),
    ),
    "TIFF with white at zero": (tiff("<", (3, 1), 8, 0, 1, b"\0\1\xff"), greys(255, 254, 0)),
}
for order, name in (("<", "little"), (">", "big")):
    deep = struct.pack(order + "3H", 0x1280, 0x80FF, 0xFF00)
    EXACT |= {
        f"TIFF, {name} endian": (tiff(order, (2, 1), 8, 2, 3, bytes(range(6))), np.arange(6).reshape(1, 2, 3)),
        f"TIFF of 16 bits grey, {name} endian": (tiff(order, (3, 1), 16, 1, 1, deep), greys(0x12, 0x80, 0xFF)),
        f"TIFF of 16 bits RGB, {name} endian": (tiff(order, (1, 1), 16, 2, 3, deep), np.array([[[18, 128, 255]]])),
    }


@pytest.mark.parametrize("name", EXACT)
def test_pixels_are_the_files(name):
    data, expected = EXACT[name]
    assert np.array_equal(decoded(data), expected)


@pytest.mark.parametrize("name", EXACT)
def test_an_opened_picture_is_sent_as_its_file(name):
    data, expected = EXACT[name]
    assert np.array_equal(decoded(to_message(Pil.open(io.BytesIO(data))).encoded), expected)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_an_opened_picture_of_no_known_range_is_not_sent(mode):
    with pytest.raises(ValueError, match="no known range; 8 bits, or 16 without sign, have one"):
        to_message(Pil.new(mode, (4, 4)))


EVERY = np.mgrid[:256, :256].astype(np.uint8)  # every colour with every alpha
ALL = np.stack([EVERY[0], 255 - EVERY[0], EVERY[0] // 2, EVERY[1]], axis=2)
DEEP = short(0x1234, 0x8080, 0xFF00, 0x8000)

# Files with transparency, and their pixels on white.
TRANSPARENT = {
    "PNG": (file(of(ALL), "PNG"), over_white(ALL[..., :3], ALL[..., 3])),
    "WebP": (file(of(ALL), "WEBP", lossless=True, exact=True), over_white(ALL[..., :3], ALL[..., 3])),
    "TIFF": (file(RGBA, "TIFF"), over_white(NOISE, GREY)),
    "PNG of grey": (file(of(ALL[..., [0, 3]]), "PNG"), over_white(ALL[..., [0, 0, 0]], ALL[..., 3])),
    "TIFF of grey": (tiff("<", (1, 1), 8, 1, 2, bytes([10, 128]), {338: 2}), over_white(greys(10), [[128]])),
    "PNG of 16 bits": (png((1, 1), 16, 6, [DEEP]), over_white([[[0x12, 0x80, 0xFF]]], [[0x80]])),
    "PNG of 16 bits grey": (png((2, 1), 16, 4, [DEEP]), over_white(greys(0x12, 0xFF), [[0x80, 0x80]])),
    "TIFF of 16 bits": (tiff(">", (1, 1), 16, 2, 4, DEEP, {338: 2}), over_white([[[0x12, 0x80, 0xFF]]], [[0x80]])),
    "PNG with palette of alphas": (
        png((4, 1), 8, 3, [bytes(range(4))], PALETTE, chunk(b"tRNS", bytes([0, 128, 200]))),
        over_white(COLOURS[None], [[0, 128, 200, 255]]),
    ),
    "PNG with one index": (file(indexed(), "PNG", transparency=1), over_white(COLOURS[INDICES], 255 * (INDICES != 1))),
    "GIF with one index": (file(indexed(), "GIF", transparency=1), over_white(COLOURS[INDICES], 255 * (INDICES != 1))),
    "PNG with one grey of 1 bit": (png((2, 1), 1, 0, [b"\x40"], transparent(0)), greys(255, 255)),
    "PNG with one grey of 2 bits": (png((4, 1), 2, 0, [b"\x1b"], transparent(1)), greys(0, 255, 170, 255)),
    "PNG with one grey of 4 bits": (png((2, 1), 4, 0, [b"\x12"], transparent(1)), greys(255, 34)),
    "PNG with one grey": (png((2, 1), 8, 0, [b"\x10\x11"], transparent(0x10)), greys(255, 0x11)),
    "PNG with one grey of 16 bits": (
        png((2, 1), 16, 0, [short(0x1234, 0x1235)], transparent(0x1234)),
        greys(255, 0x12),
    ),
    "PNG with one colour": (
        png((2, 1), 8, 2, [bytes([1, 2, 3, 1, 2, 4])], transparent(1, 2, 3)),
        np.array([[[255, 255, 255], [1, 2, 4]]]),
    ),
}


@pytest.mark.parametrize("name", TRANSPARENT)
def test_alpha_is_laid_over_white(name):
    data, expected = TRANSPARENT[name]
    assert np.array_equal(decoded(data), expected)


# How an upright picture is stored under each orientation: where EXIF says that the first row and column lie.
STORED = {
    1: lambda upright: upright,  # top, left
    2: lambda upright: upright[:, ::-1],  # top, right
    3: lambda upright: upright[::-1, ::-1],  # bottom, right
    4: lambda upright: upright[::-1],  # bottom, left
    5: lambda upright: upright.swapaxes(0, 1),  # left, top
    6: lambda upright: upright.swapaxes(0, 1)[::-1],  # right, top
    7: lambda upright: upright.swapaxes(0, 1)[::-1, ::-1],  # right, bottom
    8: lambda upright: upright.swapaxes(0, 1)[:, ::-1],  # left, bottom
}


def turned(form, stored, orientation):
    """A file of a stored picture that says how it is turned."""
    exif = Pil.Exif()
    exif[ORIENTATION] = orientation
    size = stored.shape[1::-1]
    lines = [line.astype(np.uint8).tobytes() for line in stored]
    if form == "PNG, told at its end":
        return png(size, 8, 2, lines, after=[chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))])
    if form == "TIFF":
        return tiff("<", size, 8, 2, 3, b"".join(lines), {ORIENTATION: orientation})
    if form == "TIFF of 16 bits grey":
        return tiff(">", size, 16, 1, 1, stored[..., 0].astype(">u2").tobytes(), {ORIENTATION: orientation})
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(form, {})
    return file(of(stored), form, exif=exif, **options)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "PNG, told at its end", "WEBP", "TIFF"])
def test_pictures_are_turned_upright(form, orientation):
    upright = waves()
    data = turned(form, STORED[orientation](upright), orientation)
    pixels = decoded(data)
    assert np.array_equal(pixels, decoded(to_message(Pil.open(io.BytesIO(data))).encoded))
    assert pixels.shape == upright.shape
    assert np.abs(pixels - upright).max() <= (4 if form == "JPEG" else 0)


def test_grey_of_16_bits_is_turned_upright():
    upright = np.array([[1, 2, 3], [4, 5, 6]])[..., None] * 256
    data = turned("TIFF of 16 bits grey", STORED[6](upright), 6)
    assert np.array_equal(decoded(data), np.repeat(upright // 256, 3, axis=2))


@pytest.mark.parametrize("orientation", [0, 9, 99])
def test_an_unknown_orientation_is_none(orientation):
    assert np.array_equal(decoded(turned("PNG", NOISE, orientation)), NOISE)


JPEGS = {
    "4:4:4": {"subsampling": "4:4:4"},
    "4:2:2": {"subsampling": "4:2:2"},
    "4:2:0": {"subsampling": "4:2:0"},
    "progressive": {"progressive": True},
    "with restart markers": {"restart_marker_blocks": 3},
}


@pytest.mark.parametrize("name", JPEGS)
def test_lossy_pixels_are_close(name):
    data = file(of(waves()), "JPEG", quality=95, **JPEGS[name])
    assert np.abs(decoded(data) - waves()).max() <= 8
    assert np.array_equal(decoded(data), np.asarray(Pil.open(io.BytesIO(data)).convert("RGB")))


def test_other_lossy_pixels_are_close():
    grey = np.repeat(waves()[..., :1], 3, axis=2)
    assert np.abs(decoded(file(of(grey[..., 0]), "JPEG", quality=95)) - grey).max() <= 4
    assert np.abs(decoded(file(of(waves()), "WEBP", quality=95)) - waves()).max() <= 16
    assert np.abs(decoded(file(of(waves()), "TIFF", compression="jpeg", quality=95)) - waves()).max() <= 8


def test_a_progressive_jpeg_is_the_same_picture():
    plain, progressive = (file(of(waves()), "JPEG", quality=80, progressive=each) for each in (False, True))
    assert plain != progressive and np.array_equal(decoded(plain), decoded(progressive))


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_jpegs_are_fitted_to_the_bit_as_torchvision_does(subsampling):
    data = file(of(waves(301, 399)), "JPEG", quality=90, subsampling=subsampling)
    theirs = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()])
    part, _ = images.sent(types.Image(encoded=data), "image").decoded().fitted(Fit((224, 224), 256))
    assert torch.equal(part.whole()[0], theirs(Pil.open(io.BytesIO(data))))


INK = (40, 90, 200, 60)
"""Cyan, magenta, yellow and black; 255 is full."""


def jpeg_of_ink():
    """As Adobe writes it: 255 for no ink."""
    return file(Pil.new("CMYK", (16, 16), INK), "JPEG", quality=100)


def without_marker(data):
    start = data.index(b"\xff\xee")
    return data[:start] + data[start + 2 + struct.unpack(">H", data[start + 2 : start + 4])[0] :]


def as_ycck(data):
    """The same four planes, said to be brightness, two of colour, and black."""
    at = data.index(b"Adobe") + 11
    return data[:at] + b"\2" + data[at + 1 :]


def printed(inks):
    """The light that is left under the inks."""
    cyan, magenta, yellow, black = (1 - np.array(inks) / 255).clip(0, 1)
    return 255 * np.array([cyan, magenta, yellow]) * black


def inks_of_ycck():
    """JFIF's matrix on the planes that `INK` is stored in; what it calls red, green and blue is ink."""
    brightness, blue, red = 255 - np.array(INK[:3])
    inks = [
        brightness + 1.402 * (red - 128),
        brightness - 0.344136 * (blue - 128) - 0.714136 * (red - 128),
        brightness + 1.772 * (blue - 128),
    ]
    return [*np.clip(inks, 0, 255), INK[3]]


FOUR = {
    "JPEG": (jpeg_of_ink(), printed(INK)),
    "JPEG without Adobe's marker": (without_marker(jpeg_of_ink()), printed(INK)),
    "JPEG, YCCK": (as_ycck(jpeg_of_ink()), printed(inks_of_ycck())),
    "TIFF": (file(Pil.new("CMYK", (16, 16), INK), "TIFF"), printed(INK)),
    "TIFF of 16 bits": (
        tiff("<", (1, 1), 16, 5, 4, struct.pack("<4H", *(257 * ink for ink in INK))),
        printed(INK),
    ),
}


@pytest.mark.parametrize("name", FOUR)
def test_four_inks_become_light(name):
    data, expected = FOUR[name]
    assert np.abs(decoded(data) - expected).max() <= 2


MANY = {"TIFF": {}, "GIF": {}, "PNG": {}, "WEBP": {"lossless": True}, "MPO": {"quality": 100, "subsampling": 0}}


@pytest.mark.parametrize("form", MANY)
def test_the_first_of_many_pictures_is_taken(form):
    first, second = indexed().convert("RGB"), Pil.new("RGB", (35, 21), "white")
    data = file(first, form, save_all=True, append_images=[second], **MANY[form])
    assert Pil.open(io.BytesIO(data)).n_frames == 2
    assert np.abs(decoded(data) - COLOURS[INDICES]).max() <= (8 if form == "MPO" else 0)


def resized(data, at, form, *size):
    """A file whose header claims another size."""
    return data[:at] + struct.pack(form, *size) + data[at + struct.calcsize(form) :]


def webp(width, height):
    """An animation of one small frame on a canvas of this size."""
    frame = file(SMALL, "WEBP", lossless=True)[12:]

    def block(kind, data):
        return kind + struct.pack("<I", len(data)) + data

    def three(number):
        return struct.pack("<I", number)[:3]

    head = block(b"VP8X", bytes([2, 0, 0, 0]) + three(width - 1) + three(height - 1)) + block(b"ANIM", bytes(6))
    body = head + block(b"ANMF", bytes(6) + three(8) + three(8) + bytes(4) + frame)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


JPEG, GIF = file(SMALL, "JPEG"), file(indexed(), "GIF")
SIDE = 20_000
HUGE = {
    "JPEG": resized(JPEG, JPEG.index(b"\xff\xc0") + 5, ">HH", SIDE, SIDE),
    "PNG": png((SIDE, SIDE), 8, 2, [b"\0"]),
    "PNG of 1 bit": png((SIDE, SIDE), 1, 0, [bytes(SIDE // 8)] * SIDE),
    "WebP": webp(SIDE, SIDE),
    "GIF": resized(GIF, 6, "<HH", SIDE, SIDE),
    "GIF, larger than its screen": resized(GIF, GIF.index(b"\x2c" + bytes(4)) + 5, "<HH", SIDE, SIDE),
    "BMP": resized(file(SMALL, "BMP"), 18, "<ii", SIDE, SIDE),
    "BMP, from its top": resized(file(SMALL, "BMP"), 18, "<ii", SIDE, -SIDE),
    "TIFF": tiff("<", (SIDE, SIDE), 8, 1, 1, b"\0"),
    "TIFF of a few pixels in a tile": tiff("<", (16, 16), 8, 1, 1, zlib.compress(bytes(10**7)), {259: 8}, tile=SIDE),
}
MEASURE = """
import json, pathlib, re, sys, time
from lightwell_server.codec import pictures
from lightwell_server.errors import InvalidArgument
def peak(): return int(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1]) / 1024
for path in sys.argv[1:]:
    data, before, began = pathlib.Path(path).read_bytes(), peak(), time.process_time()
    try:
        pictures.opened(data, "image")
    except InvalidArgument as error:
        print(json.dumps([error.message, time.process_time() - began, peak() - before]))
"""


def test_too_many_pixels_are_refused_by_the_header(tmp_path):
    """In a process of its own, whose memory has not been higher before."""
    paths = [tmp_path / str(number) for number in range(len(HUGE))]
    for path, data in zip(paths, HUGE.values(), strict=True):
        path.write_bytes(data)
    done = subprocess.run([sys.executable, "-c", MEASURE, *map(str, paths)], capture_output=True, text=True, check=True)
    found = dict(zip(HUGE, map(json.loads, done.stdout.splitlines()), strict=True))
    sides = {"TIFF of a few pixels in a tile": "20000 x 20000", "WebP": "20000 x 20000"}  # others Pillow does not open
    told = {
        name: f"image: {sides.get(name, 'its')} pixels are more than 50,000,000; send a smaller image" for name in HUGE
    }
    assert {name: message for name, (message, _, _) in found.items()} == told
    assert {name: seconds for name, (_, seconds, _) in found.items() if seconds > 0.05} == {}
    assert {name: megabytes for name, (_, _, megabytes) in found.items() if megabytes > 20} == {}


def test_a_program_keeps_its_own_limit_of_pixels(monkeypatch):
    assert Pil.MAX_IMAGE_PIXELS == 89_478_485, "as Pillow has it"
    monkeypatch.setattr(Pil, "MAX_IMAGE_PIXELS", 35 * 21 // 2 - 1)
    assert refusal(file(RGB, "PNG")) == "its pixels are more than 50,000,000; send a smaller image"


def test_a_jpeg_of_endless_scans_is_refused():
    data = file(of(waves()), "JPEG", progressive=True)
    start, end = data.rindex(b"\xff\xda"), len(data) - 2
    again = data[start:end] * (pictures.MAX_SCANS - data.count(b"\xff\xda"))
    most = data[:end] + again + data[end:]
    assert decoded(most).shape == (96, 128, 3)
    assert refusal(most[:end] + most[start:]) == "has more than 100 scans; save the JPEG anew with fewer"


def test_the_limit_is_the_last_size_that_is_taken():
    data = file(RGB, "PNG")
    assert decoded(data, max_pixels=35 * 21).shape == (21, 35, 3)
    with pytest.raises(InvalidArgument, match="35 x 21 pixels are more than 734; send a smaller image"):
        decoded(data, max_pixels=35 * 21 - 1)


WHOLE = {
    "JPEG": file(RGB, "JPEG"),
    "progressive JPEG": file(RGB, "JPEG", progressive=True),
    "PNG": file(RGB, "PNG"),
    "WebP": file(RGB, "WEBP"),
    "lossless WebP": file(RGB, "WEBP", lossless=True),
    "GIF": file(RGB.convert("P"), "GIF"),
    "BMP": file(RGB, "BMP"),
    "TIFF": file(RGB, "TIFF"),
    "TIFF, LZW": file(RGB, "TIFF", compression="tiff_lzw"),
    "TIFF, deflate": file(RGB, "TIFF", compression="tiff_adobe_deflate"),
}
CHECKED = ("PNG", "TIFF, LZW", "TIFF, deflate")
"""Whose packing noise breaks; that of the others gives some pixels for any bytes."""
NO_IMAGE = {
    "nothing": b"",
    "text": b"no image",
    "SVG": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>',
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64),
    "PDF": b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\ntrailer\n<<>>\n%%EOF\n",
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
    "PPM": file(RGB, "PPM"),
    "PNG of no width": png((0, 1), 8, 0, [b""]),
    "PNG of 12 bits": png((2, 1), 12, 0, [b"123"]),
    "JPEG of 12 bits": JPEG.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"),
}
BROKEN = {
    "PNG of less than its header says": png((4000, 4000), 8, 2, [b"\0" * 12]),
    "PNG without a palette": png((3, 1), 8, 3, [b"\0\1\2"]),
    "PNG of 16 bits with a transparent colour": png((1, 1), 16, 2, [short(1, 2, 3)], transparent(1, 2, 3)),
    "PNG with text that unpacks to gigabytes": png(
        (1, 1), 8, 0, [b"\0"], chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**26)))
    ),
    "PNG with EXIF that is none": png((1, 1), 8, 0, [b"\0"], chunk(b"eXIf", b"garbage")),
    "TIFF of 32 bits": tiff("<", (1, 1), 32, 1, 1, bytes(4)),
    "TIFF of floats": tiff("<", (1, 1), 32, 1, 1, bytes(4), {339: 3}),
    "TIFF of 16 bits with a sign": tiff("<", (1, 1), 16, 1, 1, bytes(2), {339: 2}),
    "TIFF of 12 bits": tiff("<", (2, 1), 12, 1, 1, b"123"),
    "TIFF of 16 bits with white at zero": tiff("<", (1, 1), 16, 0, 1, bytes(2)),
    **{
        f"{name}, cut at {part} %": data[: len(data) * part // 100] for name, data in WHOLE.items() for part in (60, 95)
    },
    **{f"{n}, then noise": WHOLE[n][:140] + random.Random(0).randbytes(len(WHOLE[n])) for n in CHECKED},
}


def refusal(data):
    """The sentence, of the right field, and no other exception."""
    with pytest.raises(InvalidArgument) as caught:
        decoded(data)
    ((field, sentence),) = caught.value.violations
    assert field == "style.image"
    return sentence


@pytest.mark.parametrize("name", NO_IMAGE)
def test_what_is_no_image_is_told_what_is_one(name):
    assert refusal(NO_IMAGE[name]) == "is no image that can be read; send JPEG, PNG, WEBP, GIF, BMP, TIFF"


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of metadata that is passed over
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_image_is_told_how_to_send_it(name):
    sentence = refusal(BROKEN[name])
    assert sentence.startswith(("the image cannot be decoded: ", "is no image that can be read; send JPEG"))
    assert sentence.endswith(("; save it anew as PNG or JPEG", "TIFF")) and ": ;" not in sentence


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of metadata that is passed over
@pytest.mark.parametrize("name", WHOLE)
def test_no_damage_raises_anything_else(name):
    """Some damage still is a picture; all else is refused."""
    data, chance = WHOLE[name], random.Random(name)
    pictured = refused = 0
    for reach in [40, 200, len(data)] * 30:
        damaged = bytearray(data)
        for _ in range(chance.choice((1, 3, 10))):
            damaged[chance.randrange(min(reach, len(data)))] = chance.randrange(256)
        try:
            pictured += decoded(bytes(damaged), max_pixels=100_000).size <= 300_000
        except InvalidArgument as error:
            refused += error.violations[0][0] == "style.image"
    assert pictured + refused == 90 and refused > 9


@pytest.fixture(scope="module")
def client():
    with served(bundled()) as server, Client(server.address) as client:
        yield client


def test_the_service_refuses_by_field(client):
    broken, whole = BROKEN["PNG, cut at 60 %"], file(RGB, "PNG")
    with pytest.raises(InvalidArgumentError, match="save it anew") as caught:
        client.explain(broken, Saliency(), model="shapes")
    assert [field for field, _ in caught.value.violations] == ["image"]
    method = StyleTransfer(styles=[Style(image=types.Image(encoded=NO_IMAGE["PDF"]))])
    with pytest.raises(InvalidArgumentError, match="send JPEG, PNG") as caught:
        client.synthesize(method, image=whole, model="shapes").result()
    assert [field for field, _ in caught.value.violations] == ["style_transfer.styles[0].image"]


@pytest.mark.parametrize("kind", pictures.FORMATS)
def test_a_size_is_told_by_the_header_of_every_format_but_one(kind):
    buffer = io.BytesIO()
    Pil.new("RGB", (37, 21)).save(buffer, kind)
    assert pictures.header_size(buffer.getvalue()) == (None if kind == "TIFF" else (21, 37))


def test_a_look_at_a_header_unpacks_no_texts():
    buffer, texts = io.BytesIO(), PngInfo()
    for i in range(60):
        texts.add_text(f"{i}", "a" * 2**20, zip=True)
    Pil.new("RGB", (37, 21)).save(buffer, "PNG", pnginfo=texts)
    began = time.process_time()
    assert pictures.header_size(buffer.getvalue()) == (21, 37)
    assert time.process_time() - began < 0.05
    assert pictures.header_size(buffer.getvalue()[:20]) is None
