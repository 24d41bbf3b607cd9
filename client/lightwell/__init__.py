"""Lightwell's SDK: explanations of image models, adversarial examples and synthesised images from a server.

    from lightwell import Client, GradCam
    with Client("localhost:50051") as lightwell:
        seen = lightwell.explain("cat.jpg", GradCam(), model="resnet50")
        seen.save("cat_grad_cam.png")

A method's parameters are its message (`GradCam(layer="layer4")`); what is unset takes the server's default.
"""

from lightwell.aio import AsyncClient, AsyncStream
from lightwell.client import Client, Stream
from lightwell.filters import Filters
from lightwell.results import Estimate, Explanation, Progress, Synthesis
from lightwell.sheets.sheet import Sheet
from lightwell.transport.errors import (
    AbortedError,
    CancelledCallError,
    DeadlineError,
    ForbiddenError,
    InvalidArgumentError,
    LightwellError,
    NotApplicableError,
    NotFoundError,
    OverloadedError,
    UnauthenticatedError,
    UnavailableError,
)
from lightwell.v1 import methods_pb2
from lightwell.v1.methods_pb2 import *  # noqa: F403 - every method's message, by the protos
from lightwell.v1.synthesize_pb2 import LayerWeight, Style
from lightwell.v1.types_pb2 import Channel, Color, Contrast, Direction, Element, Image, Neuron, Target, Tensor

__all__ = [
    "AbortedError",
    "AsyncClient",
    "AsyncStream",
    "CancelledCallError",
    "Channel",
    "Client",
    "Color",
    "Contrast",
    "DeadlineError",
    "Direction",
    "Element",
    "Estimate",
    "Explanation",
    "Filters",
    "ForbiddenError",
    "Image",
    "InvalidArgumentError",
    "LayerWeight",
    "LightwellError",
    "Neuron",
    "NotApplicableError",
    "NotFoundError",
    "OverloadedError",
    "Progress",
    "Sheet",
    "Stream",
    "Style",
    "Synthesis",
    "Target",
    "Tensor",
    "UnauthenticatedError",
    "UnavailableError",
]
__all__ += methods_pb2.__all__
