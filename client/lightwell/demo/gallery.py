"""The demo's page: a self-contained HTML file, with its pictures in the same folder. `gallery.html` is the template."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template

import numpy as np
from PIL import Image as Pil

from lightwell import images
from lightwell.pictures import colors, render
from lightwell.results import Explanation, Synthesis
from lightwell.v1 import types_pb2 as types

_METHODS = {
    "grad_cam": (
        "Grad-CAM",
        "Which places of a deep layer spoke for this answer. The bright ones are where the model found its evidence.",
        ("little", "much evidence"),
    ),
    "occlusion": (
        "Occlusion",
        "A grey window is laid over each place in turn. Red: the model needs what is there. Blue: it is surer without.",
        ("surer without", "needed"),
    ),
    "saliency": (
        "Saliency",
        "How strongly each single pixel moves the answer. At the bright ones a small change of colour counts most.",
        ("none", "strong"),
    ),
    "guided_backprop": (
        "Guided backprop",
        "The same, where on its way back no layer lets pass what speaks against: it draws the lines that were seen.",
        ("darker", "brighter"),
    ),
}
_ENLARGED = 192
"""Pictures up to this width in pixels are enlarged with sharp pixels, to show what the model sees."""


@dataclass(frozen=True)
class Attack:
    """A picture before an attack, and the result of the attack."""

    before: Pil.Image
    made: Synthesis


@dataclass(frozen=True)
class Step:
    """An intermediate picture."""

    number: int
    image: Pil.Image


@dataclass(frozen=True)
class Painted:
    """A scene, a painting, and the scene in the style of the painting."""

    scene: Pil.Image
    painting: Pil.Image
    made: Synthesis
    way: list[Step]


@dataclass(frozen=True)
class Gallery:
    """All responses. `maps` has one for each method and picture, in the order of `names`."""

    names: list[str]
    maps: dict[str, list[Explanation]]
    attacks: list[Attack]
    painted: Painted
    seconds: float


def write(gallery: Gallery, out: Path) -> Path:
    """Writes the pictures and the page, and returns the page's path."""
    out.mkdir(parents=True, exist_ok=True)
    for name, picture in _pictures(gallery):
        picture.save(out / f"{name}.png")
    page = out / "index.html"
    page.write_text(html(gallery), encoding="utf-8")
    return page


def html(gallery: Gallery) -> str:
    """The page."""
    frame = Template(Path(__file__).with_name("gallery.html").read_text(encoding="utf-8"))
    return frame.substitute(
        maps=_originals(gallery) + "".join(_maps(name, answers) for name, answers in gallery.maps.items()),
        attacks="\n".join(map(_attack, gallery.attacks)),
        painted=_painted(gallery.painted),
        facts=_facts(gallery),
    )


def drawn(seen: Explanation) -> Pil.Image:
    """The map itself if it has a value for every pixel, else the overlay."""
    return seen.picture() if render.single(seen.message.map) else seen.overlay()


def _pictures(gallery: Gallery) -> Iterable[tuple[str, Pil.Image]]:
    """Every picture with the name of its file."""
    for method, answers in gallery.maps.items():
        for name, seen in zip(gallery.names, answers, strict=True):
            yield f"{name}_{method}", drawn(seen)
    for number, attack in enumerate(gallery.attacks, 1):
        yield f"attack_{number}_before", attack.before
        yield f"attack_{number}_after", attack.made.image
        yield f"attack_{number}_difference_x10", attack.made.pictures["difference_x10"]
    yield "painted", gallery.painted.made.image
    yield from ((f"painted_step_{step.number:04d}", step.image) for step in gallery.painted.way)


def _originals(gallery: Gallery) -> str:
    """The pictures that were sent, with the model's predictions."""
    seen = zip(gallery.names, next(iter(gallery.maps.values())), strict=True)
    shown = "".join(_figure(answer.original, name, _named(answer.target)) for name, answer in seen)
    words = "Each was sent to the model, and below each stands its answer: the name it gave, and how sure it is."
    return _row("The pictures", words, "", shown)


def _maps(method: str, answers: list[Explanation]) -> str:
    title, words, ends = _METHODS[method]
    shown = "".join(_figure(drawn(seen), f"{title} of {seen.target.label}") for seen in answers)
    return _row(title, words, _legend(answers[0].message.map, ends), shown)


def _row(title: str, words: str, extra: str, shown: str) -> str:
    about = f"<div><h3>{title}</h3><p>{words}</p>{extra}</div>"
    return f'<div class="method">{about}<div class="row">{shown}</div></div>\n'


def _legend(message: types.Heatmap, ends: tuple[str, str]) -> str:
    ramp = np.linspace(-1 if message.signed else 0, 1, 110, dtype=np.float32)[None]
    grey = render.single(message) and not message.signed
    pixels = colors.grey(ramp) if grey else colors.colored(ramp, message.signed)
    return f'<div class="legend">{ends[0]}<img src="{_data(Pil.fromarray(pixels))}" alt="">{ends[1]}</div>'


def _attack(attack: Attack) -> str:
    made = attack.made
    most = f"difference × 10; no channel moved by more than <b>{made.measures['linf'] * 255:.0f}/255</b>"
    pictures = (
        _figure(attack.before, "before", "before" + _chances(made.before[:3], "var(--good)")),
        _figure(made.pictures["difference_x10"], "the difference, ten times as strong", most),
        _figure(made.image, "after", "after" + _chances(made.after[:3], "var(--bad)")),
    )
    return f'<div class="card"><div class="three">{"".join(pictures)}</div></div>'


def _chances(predictions: Iterable[types.Prediction], tint: str) -> str:
    return "".join(
        f'<div class="chance"><span>{escape(item.label)}</span>'
        f'<i style="--share:{item.probability:.1%};--tint:{tint}"></i><span>{item.probability:.1%}</span></div>'
        for item in predictions
    )


def _painted(painted: Painted) -> str:
    strip = "".join(_figure(step.image, f"step {step.number}", f"step {step.number}") for step in painted.way)
    return (
        f'<div class="sum">{_figure(painted.scene, "the scene", "the scene")}<span>+</span>'
        f"{_figure(painted.painting, 'the painting', 'the painting')}<span>=</span>"
        f"{_figure(painted.made.image, 'the scene in the style of the painting', 'the scene, painted')}</div>"
        f'<div class="strip">{strip}</div>'
    )


def _facts(gallery: Gallery) -> str:
    seen = gallery.maps["saliency"][0].provenance
    count = sum(map(len, gallery.maps.values())) + len(gallery.attacks) + 1
    return (
        f"<p>{count} questions to the model <b>{escape(seen.model)}</b>, all asked at the same time, answered in "
        f"{gallery.seconds:.1f} seconds on {escape(seen.device)} with {seen.threads} threads.</p>"
        f"<p>Lightwell {escape(seen.server_version)}, model digest {escape(seen.digest[:12])}.</p>"
    )


def _named(target: types.ExplainedTarget) -> str:
    return f"<b>{escape(target.label)}</b> {target.probability:.1%}"


def _figure(picture: Pil.Image, alt: str, caption: str = "") -> str:
    """`caption` is HTML; `alt` is text."""
    crisp = ' class="crisp"' if picture.width < _ENLARGED else ""
    return f'<figure><img{crisp} src="{_data(picture)}" alt="{escape(alt)}">' + (
        f"<figcaption>{caption}</figcaption></figure>" if caption else "</figure>"
    )


def _data(picture: Pil.Image) -> str:
    return f"data:image/png;base64,{base64.b64encode(images.png(picture)).decode()}"
