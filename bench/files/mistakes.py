"""The commonest mistakes that people make with `lightwell models check`: each a file and a card that are refused,
beside the right file and the right card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.files import miswritten as files
from bench.files.miswritten import SCRIPT, TRACE, Network, Writer, scripted, traced
from lightwell_server.importing.given import table

Card = Callable[[Network], str | None]
"""The text of a network's card; None if there is none."""


def card(scale: float = 1, top: dict[str, object] | None = None, **tables: dict[str, object]) -> Card:
    """Of images of so many times the network's own side, and with what else is given of a card's tables."""

    def written(network: Network) -> str:
        side = round(scale * network.side)
        given = {"": top or {}, **tables, "input": {"size": [side, side], **tables.get("input", {})}}
        return "\n".join(table(name, values) for name, values in given.items())

    return written


def _none(_: Network) -> None:
    return None


RIGHT = card()


@dataclass(frozen=True)
class Mistake:
    """What is wrong: a file, its card, or the card's labels, how many there are for each class. What is right is
    another file if one is given, and the card of the network's size if no other is. `on` are the networks that it is
    made on."""

    name: str
    file: Writer = SCRIPT
    card: Card = RIGHT
    labels: float = 0
    right: Writer | None = None
    right_card: Card = RIGHT
    on: tuple[str, ...] = ("cnn", "resnet18", "vit")

    def write(self, network: Network, folder: Path) -> Path:
        """Writes what is wrong."""
        return _written(self.file, self.card, self.labels, network, folder)

    def write_right(self, network: Network, folder: Path) -> Path:
        """Writes what is right."""
        return _written(*self.righted, 1 if self.labels else 0, network, folder)

    @property
    def righted(self) -> tuple[Writer, Card]:
        """The right file and its card."""
        return self.right or self.file, self.right_card


def _written(write: Writer, card: Card, labels: float, network: Network, folder: Path) -> Path:
    path, text = folder / "model.pt", card(network)
    write(network, path)
    if text is not None:
        (folder / "card.toml").write_text(text)
    (folder / "labels.txt").write_text("".join(f"class {i}\n" for i in range(round(labels * network.classes))))
    return path


def raw(text: str) -> Card:
    """The right card, with that behind it."""
    return lambda network: f"{RIGHT(network)}{text}"


FROM_FILE = card(output={"labels": "labels.txt"})
AGE = card(**{"inputs.age": {"shape": [1]}})
MEAN = [0.0, 0.0, 0.0]
CODES = card(top={"kind": "generator"}, input={"code": 16})
CONVOLUTIONS = ("cnn", "resnet18")

MISTAKES = (
    # The card: size, channels, form
    Mistake("the card has no size, the file is for 64 x 64", card=_none, on=("cnn",)),
    Mistake("twice the size", card=card(2)),
    Mistake("half the size", card=card(0.5)),
    Mistake("three quarters of the size", card=card(0.75)),
    Mistake("twice the size, of a trace", TRACE, card(2)),
    Mistake("half the size, of a trace", TRACE, card(0.5)),
    Mistake("twice the size, of a .pt2", files.program, card(2)),
    Mistake("twice the size, view(-1, K)", scripted(files.Viewed), card(2), on=CONVOLUTIONS),
    Mistake("half the size, eight rows baked in", traced(files.Eight, files.eight), card(0.5)),
    Mistake("grey as colour", scripted(files.of_channels(1)), right_card=card(input={"channels": 1})),
    Mistake("colour as grey", card=card(input={"channels": 1})),
    Mistake("colour as four bands", card=card(input={"channels": 4})),
    Mistake("nine bands as colour", scripted(files.of_channels(9)), right_card=card(input={"channels": 9})),
    Mistake("grey as colour, of a .pt2", files.program, card(input={"channels": 1})),
    Mistake("channels last, without layout", scripted(files.Last), right_card=card(input={"layout": "nhwc"})),
    Mistake("channels in front, with layout nhwc", card=card(input={"layout": "nhwc"})),
    Mistake(
        "channels last, eight rows baked in, no layout",
        scripted(files.EightLast),
        right_card=card(input={"layout": "nhwc"}),
    ),
    Mistake("one image without batch, not told", scripted(files.One), right_card=card(input={"batch": False})),
    Mistake("a batch, told as one image", card=card(input={"batch": False})),
    # The card: other fields
    Mistake("an input that the card lacks", scripted(files.Told), right_card=AGE),
    Mistake(
        "an input of another shape",
        scripted(files.Told),
        card(**{"inputs.age": {"shape": [7]}}),
        right_card=AGE,
    ),
    Mistake("an argument that the model has not", scripted(files.Scaled), card(arguments={"scales": 3.0})),
    Mistake("an unknown output.path", scripted(files.Named), card(output={"path": "logits"})),
    Mistake("several outputs", scripted(files.Twice), right_card=card(output={"path": "0"})),
    Mistake("a classifier as stylizer", card=card(top={"kind": "stylizer"})),
    Mistake("a classifier as generator", card=card(top={"kind": "generator"})),
    Mistake("a stylizer as classifier", scripted(files.Repainted), right_card=card(top={"kind": "stylizer"})),
    Mistake("a generator as classifier", scripted(files.Drawn), right_card=CODES),
    Mistake(
        "a wrong input.code",
        scripted(files.Drawn),
        card(top={"kind": "generator"}, input={"code": 100}),
        right_card=CODES,
    ),
    Mistake("too many labels", card=FROM_FILE, labels=1.1, right_card=FROM_FILE),
    Mistake("an unknown layer", card=card(layers={"grad_cam": "layer5"})),
    Mistake("bad TOML", card=raw("[output\n")),
    Mistake("an unknown field", card=card(input={"sizes": 3})),
    Mistake("mean of another length", card=card(input={"mean": [0.5]})),
    Mistake("a file of labels that is not there", card=card(output={"labels": "names.txt"})),
    # The file: not the network
    Mistake("a state dict", files.saved(torch.nn.Module.state_dict), right=SCRIPT),
    Mistake(
        "a checkpoint of a trainer", files.saved(lambda net: {"model": net.state_dict(), "epoch": 9}), right=SCRIPT
    ),
    Mistake("a pickled network", files.saved(lambda net: net), right=SCRIPT),
    Mistake("ONNX", files.beginning(b"\x08\x08\x12\x07pytorch"), right=SCRIPT),
    Mistake("safetensors", files.beginning(b'\x40\0\0\0\0\0\0\0{"__metadata__"'), right=SCRIPT),
    Mistake("a Git LFS pointer", files.content(b"version https://git-lfs.github.com/spec/v1\n"), right=SCRIPT),
    Mistake("a page of HTML", files.content(b"<!DOCTYPE html><html></html>"), right=SCRIPT),
    Mistake("an empty file", files.content(b""), right=SCRIPT),
    Mistake("truncated", files.changed(lambda data: data[:-3000]), right=TRACE),
    Mistake("damaged", files.changed(files.flipped), right=TRACE),
    Mistake("packed in a zip archive", files.packed, right=TRACE),
    Mistake("after optimize_for_inference", files.optimised, right=TRACE, on=CONVOLUTIONS),
    # The file: not such a network
    Mistake("text", scripted(files.Words), right=SCRIPT),
    Mistake("sound", scripted(files.Sound), right=SCRIPT),
    Mistake("volumes", scripted(files.Volume), right=SCRIPT),
    Mistake("rows of numbers", scripted(files.Rows), right=SCRIPT),
    Mistake("no input", scripted(files.Raw), right=SCRIPT, on=("cnn",)),
    Mistake("quantised", scripted(files.quantised), right=scripted(Network.made)),
    Mistake("argmax", scripted(files.Decided), right=SCRIPT),
    Mistake("rounded pixels: no gradient", scripted(files.Rounded), right=SCRIPT),
    Mistake("detached scores: no gradient", scripted(files.Detached), right=SCRIPT),
    Mistake("a branch on the scores", scripted(files.Branching), right=SCRIPT),
    Mistake("a number of the pixels", scripted(files.Measured), right=SCRIPT),
    Mistake("rows chosen by their scores", scripted(files.Selected), right=SCRIPT),
    Mistake("random numbers", scripted(files.Noisy), right=SCRIPT),
    Mistake("a counter of its own", scripted(files.Counting), right=SCRIPT),
    Mistake("a buffer of its own", scripted(files.Averaging), right=SCRIPT),
    Mistake("a loop without end", scripted(files.Endless), right=SCRIPT),
    Mistake("a loop without end, of tensors", scripted(files.Refining), right=SCRIPT),
)
