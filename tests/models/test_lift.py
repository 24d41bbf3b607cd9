"""Lifting: the graph is the file, at any batch; its layers are the eager model's; what cannot be lifted is refused
with a sentence."""

import copy

import pytest
import torch
import torchvision
from torch import nn

from lightwell_server.contract import GRAD, OUT, OUTPUT, Ask, Part
from lightwell_server.errors import InvalidArgument
from lightwell_server.models.answer import answer
from lightwell_server.models.lifting.lift import InputSpec, Sample, lift
from lightwell_server.models.lifting.proof import Proof
from lightwell_server.models.subgraph import SubgraphKey
from tests.nets import FORMS, PLAIN, Captioned, Residual, export, lifted, seeded

SIDE = 64
PASSIVE = (torchvision.ops.StochasticDepth, nn.Dropout, nn.Identity)
"""Modules that compute nothing in eval mode."""


def vit():
    net = torchvision.models.VisionTransformer(
        image_size=SIDE, patch_size=16, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=10
    )
    nn.init.normal_(net.heads.head.weight)  # it begins as zeros, which would compare as nothing
    return net


def swin():
    """Shifted windows are masked by writes through slices."""
    return torchvision.models.SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4], num_classes=10)


NETS = {
    "resnet18": lambda: torchvision.models.resnet18(num_classes=10),
    "densenet": lambda: torchvision.models.DenseNet(8, (2, 2), 8, num_classes=10),
    "mobilenet_v2": lambda: torchvision.models.mobilenet_v2(num_classes=10, width_mult=0.25),
    "efficientnet_b0": lambda: torchvision.models.efficientnet_b0(num_classes=10),
    "squeezenet1_1": lambda: torchvision.models.squeezenet1_1(num_classes=10),
    "convnext": lambda: torchvision.models.ConvNeXt(
        [torchvision.models.convnext.CNBlockConfig(16, 32, 1), torchvision.models.convnext.CNBlockConfig(32, None, 1)],
        num_classes=10,
    ),
    "vit": vit,
    "swin": swin,
    "shufflenet": lambda: torchvision.models.shufflenet_v2_x0_5(num_classes=10),
    "googlenet": lambda: torchvision.models.googlenet(num_classes=10, init_weights=False),
    "regnet": lambda: torchvision.models.regnet_y_400mf(num_classes=10),
}
CASES = [(name, form) for name in NETS for form in (*FORMS, "frozen")]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(case))
def case(request, tmp_path_factory):
    """The eager net and its lifted file, both in float64; the eager one takes pixels. Freezing folds batch norms in the
    file's own precision: a frozen file is made in double."""
    name, form = request.param
    sample = Sample((SIDE, SIDE))
    net = seeded(NETS[name])
    net = net.double() if form == "frozen" else net
    graph = lift(export(net, form, tmp_path_factory.mktemp(name), *sample.rows(2)), sample)
    return copy.deepcopy(net).double(), graph.to("cpu", torch.float64), form


def normalised(x, form):
    """As the graph does it: its mean and deviation are as precise as the file."""
    return Sample().normalise(x, torch.float64 if form == "frozen" else torch.float32)


def rows(count):
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(count), dtype=torch.float64)


def near(ours, theirs, tolerance):
    return float((ours - theirs).abs().max() / theirs.abs().max()) <= tolerance


def test_outputs_and_gradients_are_the_eager_models(case):
    net, graph, form = case
    x = rows(3)
    ours = answer(graph, [Part(Ask(x, lambda v, i: v[:, 4], want=OUT | GRAD), 0, 3)])[0]
    leaf = x.clone().requires_grad_()
    theirs = net(normalised(leaf, form))
    assert near(ours.out, theirs, 1e-10)
    assert near(ours.grad, torch.autograd.grad(theirs[:, 4].sum(), leaf)[0], 1e-8)


def first(out):
    """What a module gave: of several tensors the first. Copied, for it may be changed in place afterwards."""
    return (out if isinstance(out, torch.Tensor) else out[0]).detach().clone()


def test_layers_are_the_eager_models_with_what_a_hook_would_see(case):
    net, graph, form = case
    if form == "frozen":
        assert all(layer.functional for layer in graph.layers), "freezing throws the modules away"
        return
    seen = {}
    # A hook's output may be changed in place afterwards: a copy is what the module gave.
    handles = [
        module.register_forward_hook(lambda _, __, out, name=name: seen.update({name: first(out)}))
        for name, module in net.named_modules()
        if name and not isinstance(module, PASSIVE)
    ]
    x = rows(2)
    net(normalised(x, form))
    for handle in handles:
        handle.remove()
    names = list(seen)
    assert [name for name in names if name not in graph.nodes] == []
    values = answer(graph, [Part(Ask(x, at=tuple(names), want=OUT), 0, 2)])[0].out
    # Layers that keep their channels last are read with their channels first.
    seen = {n: out.permute(0, 3, 1, 2) if graph.turned(graph.nodes[n]) else out for n, out in seen.items()}
    wrong = [name for name, value in zip(names, values, strict=True) if not near(value, seen[name], 1e-10)]
    assert wrong == []


def test_one_row_does_not_depend_on_its_neighbours(case):
    _, graph, _ = case
    assert not graph.mixes_rows


def test_sizes_are_free_where_the_file_allows_it(case):
    net, graph, form = case
    takes_any = form != "pt2" and not isinstance(net, torchvision.models.VisionTransformer)
    assert graph.any_size == takes_any
    if takes_any:
        out, _ = graph.subgraph(SubgraphKey((OUTPUT,))).run(
            torch.rand(1, 3, 96, 80, dtype=torch.float64), {}, torch.arange(1)
        )
        assert out[0].shape == (1, 10)


@pytest.mark.parametrize("batch", ["any", "fixed"])
def test_a_graph_that_is_another_model_at_another_size_is_pinned_to_the_cards(tmp_path, monkeypatch, batch):
    """No such file is known: what the file gives for other images is made another here."""
    given = Proof._theirs
    monkeypatch.setattr(Proof, "_theirs", lambda self, rows: given(self, rows) + (rows[0].shape[-1] != 16))
    net, path = seeded(Residual), tmp_path / "model.pt2"
    shapes = {0: torch.export.Dim("batch")} if batch == "any" else {}
    auto = {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    torch.export.save(torch.export.export(net, (torch.rand(2, 3, 16, 16),), dynamic_shapes=({**shapes, **auto},)), path)
    graph = lift(path, Sample((16, 16), **PLAIN))
    assert not graph.any_size and graph.fixed == (None if batch == "any" else 2)
    assert any("takes images of 16 x 16 alone" in note for note in graph.notes)
    x = torch.rand(3, 3, 16, 16)
    assert torch.allclose(answer(graph, [Part(Ask(x, want=OUT), 0, 3)])[0].out, net(x), atol=1e-5)
    for size in ((16, 48), (48, 16), (48, 48)):
        for at in (OUTPUT, "stem"):
            with pytest.raises(InvalidArgument, match="takes images of 16 x 16 alone") as caught:
                answer(graph, [Part(Ask(torch.rand(1, 3, *size), at=at, want=OUT), 0, 1)])
            assert caught.value.reason == "SIZE_NOT_SUPPORTED"


@pytest.mark.parametrize("form", FORMS)
def test_a_module_called_twice_has_two_call_sites(tmp_path, form):
    graph = lifted(seeded(Residual), tmp_path, form)
    assert {"relu@0", "relu@1", "relu", "stem", "norm", "conv", "head"} <= set(graph.nodes)
    assert graph.nodes["relu"] is graph.nodes["relu@1"] is not graph.nodes["relu@0"]
    names = [layer.name for layer in graph.layers if not layer.functional]
    assert names == ["stem", "norm", "relu@0", "conv", "relu@1", "head"]
    assert {layer.name: (layer.type, layer.shape) for layer in graph.layers}["norm"] == ("BatchNorm2d", (8, 16, 16))


@pytest.mark.parametrize("form", FORMS)
def test_other_inputs_are_inputs_of_the_graph(tmp_path, form):
    net = seeded(Captioned)
    graph = lifted(net, tmp_path, form, inputs={"tokens": InputSpec((4,), torch.int64)})
    x, tokens = torch.rand(3, 3, 16, 16), torch.tensor([[1, 2, 3, 4]] * 3)
    out, _ = graph.subgraph(SubgraphKey((OUTPUT,))).run(x, {"tokens": tokens}, torch.arange(3))
    assert torch.allclose(out[0], net(x, tokens), atol=1e-6)


class Softmaxed(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = Residual()

    def forward(self, x):
        return self.net(x).softmax(1)


@pytest.mark.parametrize("form", FORMS)
def test_scores_are_read_before_a_final_softmax_unless_told_otherwise(tmp_path, form):
    net, x = seeded(Softmaxed), torch.rand(2, 3, 16, 16)
    for before, truth in ((True, net.net(x)), (False, net(x))):
        graph = lifted(net, tmp_path, form, before_activation=before)
        out, _ = graph.subgraph(SubgraphKey((OUTPUT,))).run(x, {}, torch.arange(2))
        assert torch.allclose(out[0], truth, atol=1e-5)


class Mixing(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = Residual()

    def forward(self, x):
        scores = self.net(x)
        return scores - scores.mean(0, keepdim=True) * 0.5


def test_a_model_that_mixes_its_rows_is_run_row_by_row(tmp_path):
    net = seeded(Mixing)
    graph = lifted(net, tmp_path)
    assert graph.mixes_rows
    x = torch.rand(3, 3, 16, 16)
    out = answer(graph, [Part(Ask(x, lambda v, i: v[:, 0], want=OUT), 0, 3)])[0].out
    assert torch.allclose(out, torch.cat([net(x[i : i + 1]) for i in range(3)]), atol=1e-6)


class BranchOnShape(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)) if x.size(2) > 40 else x.amax((2, 3))


def test_a_branch_on_a_shape_is_guarded(tmp_path):
    graph = lifted(BranchOnShape(), tmp_path)
    x = torch.rand(2, 3, 16, 16)
    assert torch.allclose(graph.subgraph(SubgraphKey((OUTPUT,))).run(x, {}, torch.arange(2))[0][0], x.amax((2, 3)))
    with pytest.raises(InvalidArgument, match="another branch"):
        graph.subgraph(SubgraphKey((OUTPUT,))).run(torch.rand(2, 3, 48, 48), {}, torch.arange(2))


class Misnamed(nn.Module):
    """Modules whose names a graph might want for itself."""

    def __init__(self):
        super().__init__()
        self.input = nn.Conv2d(3, 4, 3)
        self.output = nn.Linear(4, 5)

    def forward(self, x):
        return self.output(self.input(x).relu().mean((2, 3))) * 2


@pytest.mark.parametrize("form", FORMS)
def test_modules_may_be_called_input_and_output(tmp_path, form):
    net, x = seeded(Misnamed), torch.rand(1, 3, 16, 16)
    graph = lifted(net, tmp_path, form)
    assert [layer.name for layer in graph.layers if not layer.functional] == ["input", "output"]
    got = answer(graph, [Part(Ask(x, lambda v, i: v[:, 0], want=OUT | GRAD), 0, 1)])[0]
    assert torch.allclose(got.out, net(x), atol=1e-6) and got.grad.shape == x.shape


@pytest.mark.parametrize("name", ["input", "id", "rows", "attention-mask"])
def test_other_inputs_may_have_any_name(tmp_path, name):
    graph = lifted(seeded(Captioned), tmp_path, "traced", inputs={name: InputSpec((4,), torch.int64)})
    assert list(graph.inputs) == [name]


class SeveralResults(nn.Module):
    """Operations that return several tensors, each used."""

    def forward(self, x):
        values, places = x.flatten(2).max(2)
        first, second = x.mean((2, 3)).chunk(2, 1)
        return values + places * 0.001 + first.sum(1, keepdim=True) * second.sum(1, keepdim=True)


@pytest.mark.parametrize("form", FORMS)
def test_operations_with_several_results(tmp_path, form):
    x = torch.rand(2, 3, 16, 16)
    graph = lifted(SeveralResults(), tmp_path, form)
    out = answer(graph, [Part(Ask(x, want=OUT), 0, 2)])[0].out  # a trace keeps 0.001 in double precision
    assert torch.allclose(out.float(), SeveralResults()(x), atol=1e-6)
