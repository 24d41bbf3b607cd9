"""Which networks are compared, in which forms and at which layers."""

from tests.nets import FORMS

SIDE = 64

# Layers of each network from fine to coarse, the last being our default of a file that knows its modules. An in-place
# ReLU follows many of them: what is read must be what was there before it.
LAYERS = {
    "resnet18": ("bn1", "layer2.0.conv2", "layer4"),
    "vgg19_bn": ("features.1", "features.14", "avgpool"),
    "mobilenet_v2": ("features.0.1", "features.7.conv.1.0", "features.18"),
    "squeezenet1_1": ("features.0", "features.6.expand3x3", "features.12", "classifier.2"),
    "googlenet": ("conv1.bn", "inception4a", "inception5b"),
    "densenet121": ("features.norm0", "features.denseblock2.denselayer6.conv1", "features"),
    "efficientnet_b0": ("features.0.1", "features.4.0.block.1.0", "features"),
    "convnext_tiny": ("features.0", "features.3", "features"),
    "vit_b_16": tuple(f"encoder.layers.encoder_layer_{i}.ln_1" for i in (1, 6, 11)),
}
# The same layers of a frozen file, by their order in its graph, the last being our default again. A convolution whose
# batch norm was folded into it is none any more; the last layer of DenseNet is its last ReLU, which is no module.
FROZEN = {
    "resnet18": {"bn1": "conv2d_0", "layer4": "relu_16"},
    "vgg19_bn": {"features.1": "conv2d_0", "avgpool": "adaptive_avg_pool2d_0"},
    "mobilenet_v2": {"features.0.1": "conv2d_0", "features.18": "hardtanh_34"},
    "squeezenet1_1": {"features.0": "conv2d_0", "features.12": "cat_7", "classifier.2": "relu_25"},
    "googlenet": {"conv1.bn": "conv2d_0", "inception4a": "cat_2", "inception5b": "cat_8"},
    "densenet121": {"features.norm0": "conv2d_0", "features": "batch_norm_119", "relu": "relu_120"},
    "efficientnet_b0": {"features.0.1": "conv2d_0", "features": "silu_48"},
    "convnext_tiny": {"features.3": "add_5", "features": "add_17"},
    "vit_b_16": {f"encoder.layers.encoder_layer_{i}.ln_1": f"layer_norm_{2 * i}" for i in (1, 6, 11)},
}
NETS = tuple(LAYERS)
FILES = [f"{name}-{form}" for name in NETS for form in (*FORMS, "frozen")]
"""Every network in every form."""


def layers(file):
    """The layers of a file that are compared, by the names that its network has for them."""
    name, form = file.split("-")
    return tuple(FROZEN[name] if form == "frozen" else LAYERS[name])


PLACES = [
    (file, layer)
    for file in FILES
    for layer in (layers(file) if file.endswith(("-scripted", "-frozen")) else layers(file)[-1:])
]
"""The last of these layers of every file, and the others of those whose graphs differ most."""

SMALL = ("resnet18", "squeezenet1_1", "mobilenet_v2")
SMALL_FILES = [f"{name}-{form}" for name in SMALL for form in FORMS]
SCRIPTED = [f"{name}-scripted" for name in SMALL]
MIXED = ["resnet18-scripted", "squeezenet1_1-pt2", "mobilenet_v2-traced"]
"""Three networks and every form that knows its modules once, for what takes longer."""
