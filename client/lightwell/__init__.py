"""Lightwell's SDK: ask a server what an image model saw, what would change its mind, and what it dreams of.

    from lightwell import Client, GradCam
    with Client("localhost:50051") as lightwell:
        seen = lightwell.explain("cat.jpg", GradCam(), model="resnet50")
        seen.save("cat_grad_cam.png")

A method's parameters are its message (`GradCam(layer="layer4")`); what is unset takes the server's default.
"""

from lightwell.aio import AsyncClient, AsyncStream
from lightwell.client import Client, Stream
from lightwell.errors import (
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
from lightwell.results import Estimate, Explanation, Progress, Synthesis
from lightwell.v1.explain_pb2 import GradCam, Occlusion, Saliency
from lightwell.v1.synthesize_pb2 import LayerWeight, Pgd, Style, StyleTransfer
from lightwell.v1.types_pb2 import Channel, Color, Contrast, Image, Neuron, Target

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
    "Estimate",
    "Explanation",
    "ForbiddenError",
    "GradCam",
    "Image",
    "InvalidArgumentError",
    "LayerWeight",
    "LightwellError",
    "Neuron",
    "NotApplicableError",
    "NotFoundError",
    "Occlusion",
    "OverloadedError",
    "Pgd",
    "Progress",
    "Saliency",
    "Stream",
    "Style",
    "StyleTransfer",
    "Synthesis",
    "Target",
    "UnauthenticatedError",
    "UnavailableError",
]
