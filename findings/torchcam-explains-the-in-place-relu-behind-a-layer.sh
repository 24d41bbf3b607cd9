#!/usr/bin/env bash
# torchcam 0.5.0 with torch 2.13.0: asked about a layer, torchcam explains the ReLU after it where that works in place.
#
# Guess: nn.ReLU(inplace=True) saves memory and changes no explanation; captum's LayerGradCam is the same either way.
# Happens: torchcam keeps the layer's output tensor itself, which the ReLU behind overwrites; the activations it weighs,
# and the gradient it asks for later, are then those of the ReLU's output. The map is, to rounding, the one of the next
# layer. So it is for the convolutions of torchvision's VGG, whose ReLUs work in place. Nothing warns:
#
#   torch 2.13.0+cpu torchcam 0.5.0 captum 0.9.0
#   captum LayerGradCam of the convolution: the same map, in place or not
#   torchcam GradCAM  in place: 0.42 from the convolution's map, 0.00 from the ReLU's
#   torchcam XGradCAM in place: 0.62 from the convolution's map, 0.00 from the ReLU's
#   torchcam ScoreCAM in place: 0.43 from the convolution's map, 0.00 from the ReLU's
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    torch==2.13.0 numpy==2.2.6 torchcam==0.5.0 captum==0.9.0

cat >"$folder/see.py" <<'END'
import sys
from importlib.metadata import version

import torch
from captum.attr import LayerGradCam
from torch import nn
from torchcam.methods import GradCAM, ScoreCAM, XGradCAM


def network(inplace):
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 4, 3, padding=1)
    return nn.Sequential(convolution, nn.ReLU(inplace), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()


def torchcam_map(method, layer, inplace, x):
    model = network(inplace)
    with method(model, layer, input_shape=(3, 8, 8)) as extractor:
        return extractor(1, model(x))[0]


def captum_map(inplace, x):
    model = network(inplace)
    return LayerGradCam(model, model[0]).attribute(x, target=1)


def distance(a, b):
    return (a - b).abs().max().item()


print(*(f"{name} {version(name)}" for name in ("torch", "torchcam", "captum")))
torch.manual_seed(1)
x = torch.randn(1, 3, 8, 8)
if not torch.equal(network(True)(x), network(False)(x)):
    sys.exit("changed: the two networks differ")
if not torch.equal(captum_map(True, x), captum_map(False, x)):
    sys.exit("changed: captum's map depends on inplace as well")
print("captum LayerGradCam of the convolution: the same map, in place or not")
for method in (GradCAM, XGradCAM, ScoreCAM):
    inplace = torchcam_map(method, "0", True, x)
    convolution, relu = (torchcam_map(method, layer, False, x) for layer in ("0", "1"))
    off, near = distance(inplace, convolution), distance(inplace, relu)
    print(f"torchcam {method.__name__:<8} in place: {off:.2f} from the convolution's map, {near:.2f} from the ReLU's")
    if off < 0.1 or near > 1e-4:
        sys.exit("changed: the map is no longer the ReLU's")
END
OMP_NUM_THREADS=1 "$folder/venv/bin/python" -W ignore "$folder/see.py"
