"""The command line's options for a model card."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lightwell.parameters import Usage

if TYPE_CHECKING:  # the SDK runs without the server
    from lightwell_server.importing.given import Given

Kind = StrEnum("Kind", ["classifier", "stylizer", "generator"])
Order = StrEnum("Order", ["rgb", "bgr"])
Layout = StrEnum("Layout", ["nchw", "nhwc"])
InputType = StrEnum("InputType", ["float", "uint8"])
Interpolation = StrEnum("Interpolation", ["bilinear", "bicubic", "nearest"])
Activation = StrEnum("Activation", ["softmax", "sigmoid", "none"])
Floating = StrEnum("Floating", ["float32", "float64", "float16", "bfloat16"])


def _option(help_: str, *names: str, **more: Any) -> Any:  # noqa: ANN401 - typer's own type is Any
    return typer.Option(*names, help=help_, rich_help_panel="The card", **more)


@dataclass(frozen=True)
class CardOptions:
    """One option for each field. The default is what the file declares, else the card's default."""

    kind: Annotated[Kind | None, _option("What the model is; else a classifier.")] = None
    size: Annotated[str, _option("The input's side in pixels, or HEIGHTxWIDTH.")] = ""
    resize: Annotated[int | None, _option("The shorter side in pixels before the crop.", min=1)] = None
    interpolation: Annotated[Interpolation | None, _option("How images are resized; else bilinear.")] = None
    channels: Annotated[
        int | None,
        _option("Of the input: 3 for RGB, 1 for luminance, others for tensors that are no pictures.", min=1, max=64),
    ] = None
    bands: Annotated[
        str, _option("One or three channels, counted from 1, by which tensors that are no pictures are drawn.")
    ] = ""
    order: Annotated[Order | None, _option("Of the input's colours, and of --mean and --std; else rgb.")] = None
    layout: Annotated[Layout | None, _option("Of the input: channels in front of the height, or last; else nchw.")] = (
        None
    )
    input_dtype: Annotated[InputType | None, _option("Of the input: uint8 for pixels from 0 to 255; else float.")] = (
        None
    )
    batch: Annotated[
        bool | None,
        _option(
            "Whether the input is a batch of images, or one image without one; else a batch.", "--batch/--no-batch"
        ),
    ] = None
    mean: Annotated[str, _option("R,G,B: subtracted from pixels in [0, 1].")] = ""
    std: Annotated[str, _option("R,G,B: what pixels are then divided by.")] = ""
    code: Annotated[int | None, _option("Of a generator: the length of its codes.", min=1)] = None
    output: Annotated[str | None, _option("Which output, if there are several: names and numbers joined by dots.")] = (
        None
    )
    activation: Annotated[
        Activation | None, _option("What makes probabilities of scores; else the file's own, or softmax.")
    ] = None
    dtype: Annotated[Floating | None, _option("The type of numbers computed with; else the server's.")] = None
    labels: Annotated[Path | None, _option("A file with the classes' names, one a line.")] = None

    def given(self) -> Given:
        """The options as a `Given` of the server. Raises `Usage` for an invalid option, ValueError or OSError for a
        file that cannot be read."""
        from lightwell_server.importing.given import Given

        return Given(
            kind=self.kind and self.kind.value,
            dtype=self.dtype and self.dtype.value,
            size=_size(self.size),
            resize=self.resize,
            interpolation=self.interpolation and self.interpolation.value,
            channels=self.channels,
            bands=_bands(self.bands),
            order=self.order and self.order.value,
            layout=self.layout and self.layout.value,
            input_dtype=self.input_dtype and self.input_dtype.value,
            batch=self.batch,
            mean=_each("--mean", self.mean),
            std=_each("--std", self.std),
            code=self.code,
            path=self.output,
            activation=self.activation and self.activation.value,
            labels=_lines(self.labels) if self.labels else None,
        )


def _lines(path: Path) -> tuple[str, ...]:
    try:
        return tuple(path.read_text("utf-8").splitlines())
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text in UTF-8") from None


def _size(text: str) -> tuple[int, int] | None:
    words = text.split("x") if text else []
    if not all(word.isdecimal() and int(word) for word in words) or len(words) > 2:
        raise Usage(f"--size {text}: write 224 or 224x320")
    return (int(words[0]), int(words[-1])) if words else None


def _bands(text: str) -> tuple[int, ...] | None:
    words = text.split(",") if text else []
    if not all(word.isdecimal() for word in words):
        raise Usage(f"--bands {text}: write three whole numbers, such as 4,3,2, or one")
    return tuple(map(int, words)) or None


def _each(option: str, text: str) -> tuple[float, ...] | None:
    try:
        values = tuple(float(word) for word in text.split(",")) if text else None
    except ValueError:
        values = ()
    if values == ():
        raise Usage(f"{option} {text}: write three numbers, R,G,B, or one for each channel")
    return values
