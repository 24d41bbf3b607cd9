"""Models that are not a plain classifier of colour images: what the card says of them, and what is found out."""

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightwell import Client, GradCam, InvalidArgumentError, Occlusion, Saliency
from lightwell.v1 import types_pb2
from lightwell_server.contract import GRAD, OUT, Ask, Part
from lightwell_server.errors import Refused
from lightwell_server.local import Local
from lightwell_server.models.answer import answer
from lightwell_server.models.card import Card
from lightwell_server.models.lifting.lift import Sample, lift
from lightwell_server.models.lifting.sample import LUMINANCE
from tests.nets import FORMS, PLAIN, Residual, export, lifted, seeded
from tests.serving import served

SIDE = 16


def out(graph, rows, **ask):
    """The output for rows, in one step."""
    return answer(graph, [Part(Ask(rows, want=OUT, **ask), 0, len(rows))])[0].out


def images(count=3, side=SIDE):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(count))


class Grey(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        return self.head(self.conv(x).relu().mean((2, 3)))


@pytest.mark.parametrize("form", FORMS)
def test_one_channel_is_the_luminance_and_gradients_are_in_colour(tmp_path, form):
    net, sample = seeded(Grey), Sample((SIDE, SIDE), mean=(0.4,), std=(0.2,), channels=1)
    path = export(net, form, tmp_path, torch.rand(2, 1, SIDE, SIDE))
    graph, x = lift(path, sample), images().requires_grad_()
    red, green, blue = LUMINANCE
    grey = red * x[:, :1] + green * x[:, 1:2] + blue * x[:, 2:]
    truth = net((grey - 0.4) / 0.2)
    got = answer(graph, [Part(Ask(x.detach(), lambda v, i: v[:, 1], want=OUT | GRAD), 0, 3)])[0]
    assert torch.allclose(got.out, truth, atol=1e-5)
    assert torch.allclose(got.grad, torch.autograd.grad(truth[:, 1].sum(), x)[0], atol=1e-5)


def test_the_card_of_one_channel_takes_pixels_as_they_are():
    sample = Card.model_validate({"input": {"channels": 1}}).sample()
    assert (sample.channels, sample.mean, sample.std) == (1, (0.0,), (1.0,))
    with pytest.raises(ValueError, match="mean has 1 values; it needs one for each of 3"):
        Card.model_validate({"input": {"mean": [0.5]}})


class Outputs(NamedTuple):
    logits: Tensor
    features: Tensor


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = Residual()

    def forward(self, x):
        return Outputs(self.net(x), self.net.stem(x))


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = Residual()

    def forward(self, x):
        return self.net(x), (self.net(x * 2), [self.net.stem(x)])


class Keyed(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = Residual()

    def forward(self, x) -> dict[str, Tensor]:
        return {"first": self.net(x), "second": self.net(x * 2)}


@pytest.mark.parametrize(("form", "path"), [("traced", "1"), ("scripted", "features")])
def test_the_only_scores_among_several_outputs_are_taken(tmp_path, form, path):
    """A trace forgets the names of a named tuple's fields."""
    net = seeded(Named)
    assert torch.allclose(out(lifted(net, tmp_path, form), images()), net(images()).logits, atol=1e-6)
    features = lifted(net, tmp_path, form, output=path)
    assert torch.allclose(out(features, images()), net(images()).features, atol=1e-6)


@pytest.mark.parametrize(
    ("module", "form", "path", "pick"),
    [
        (Keyed, "scripted", "second", lambda given: given["second"]),
        (Keyed, "pt2", "second", lambda given: given["second"]),
        (Nested, "scripted", "1.0", lambda given: given[1][0]),
        (Nested, "traced", "1.1.0", lambda given: given[1][1][0]),
        (Nested, "pt2", "1.1.0", lambda given: given[1][1][0]),
    ],
)
def test_the_card_names_an_output_by_its_path(tmp_path, module, form, path, pick):
    net = seeded(module)
    assert torch.allclose(out(lifted(net, tmp_path, form, output=path), images()), pick(net(images())), atol=1e-6)


@pytest.mark.parametrize(("module", "form"), [(Keyed, "scripted"), (Keyed, "pt2"), (Nested, "scripted")])
def test_without_a_path_the_candidates_are_told(tmp_path, module, form):
    with pytest.raises(Refused) as caught:
        lifted(seeded(module), tmp_path, form)
    first = "first [n, 5]; second [n, 5]" if module is Keyed else "0 [n, 5]; 1.0 [n, 5]; 1.1.0 [n, 8, 16, 16]"
    assert str(caught.value).endswith(first) and "output.path" in str(caught.value)
    with pytest.raises(Refused, match=r"no output 'thrid'.*nearest are first"):
        lifted(seeded(Keyed), tmp_path, "scripted", output="thrid")


def test_an_image_is_no_classifiers_output(tmp_path):
    with pytest.raises(Refused, match=r"set its kind, .*It returns: output \[n, 4, 16, 16\]"):
        lifted(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1)).eval(), tmp_path)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_computed_with_as_the_card_says(tmp_path, form, dtype):
    net = seeded(Residual)
    path = export(net.to(dtype), form, tmp_path, torch.rand(2, 3, SIDE, SIDE).to(dtype))
    graph = lift(path, Sample((SIDE, SIDE), **PLAIN))
    assert graph.dtype is dtype
    exact = out(graph.to("cpu", torch.float32), images())
    assert exact.dtype is torch.float32 and torch.allclose(exact, net.float()(images()), atol=1e-5)
    halved = out(graph.to("cpu", dtype), images())
    assert halved.dtype is torch.float32, "methods never compute in a model's half precision"
    assert 0 < (halved - exact).abs().max() < 0.05


def test_the_provenance_tells_the_cards_type(tmp_path):
    for dtype, number in (("float64", types_pb2.DATA_TYPE_FLOAT64), ("bfloat16", types_pb2.DATA_TYPE_BFLOAT16)):
        card = Card.model_validate({"dtype": dtype, "input": {"size": [SIDE, SIDE]}})
        with Local(seeded(Residual), card) as local:
            seen = local.explain(images(1)[0].numpy(), Saliency())
            assert seen.provenance.dtype == number and seen.map.any()


class Fixed(nn.Module):
    """An attention over tokens and windows, with the batch written into its shapes."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 2, 1)
        self.token = nn.Parameter(torch.rand(1, 1, 4))
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        rows = int(x.shape[0])
        tokens = self.conv(x).view(rows, 4, -1).transpose(1, 2)
        tokens = torch.cat([self.token.expand(rows, 1, 4), tokens], 1)
        windows = self.norm(tokens[:, 1:].reshape(rows * 4, 16, 4)).relu()
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.head(self.norm(tokens)[:, 0] + windows.view(rows, 64, 4).mean(1))


@pytest.mark.parametrize("form", ["traced", "pt2"])
@pytest.mark.parametrize("rows", [1, 2])
def test_a_fixed_batch_is_made_dynamic(tmp_path, form, rows):
    net, sample = seeded(Fixed), torch.rand(rows, 3, SIDE, SIDE)
    path = tmp_path / f"model.{'pt2' if form == 'pt2' else 'pt'}"
    if form == "pt2":
        torch.export.save(torch.export.export(net, (sample,)), path)
    else:
        torch.jit.trace(net, sample, check_trace=False).save(path)
    graph = lift(path, Sample((SIDE, SIDE), **PLAIN))
    assert graph.fixed == rows and not graph.row_by_row
    assert f"takes {rows} row" in graph.notes[0]
    x = images(4).requires_grad_()
    truth = net(x)
    got = answer(graph, [Part(Ask(x.detach(), lambda v, i: v[:, 2], want=OUT | GRAD), 0, 4)])[0]
    assert torch.allclose(got.out, truth, atol=1e-5)
    assert torch.allclose(got.grad, torch.autograd.grad(truth[:, 2].sum(), x)[0], atol=1e-5)
    convolved = out(graph, x.detach(), at="conv")
    assert torch.allclose(convolved, net.conv(x), atol=1e-5)
    half = answer(graph, [Part(Ask(x.detach(), lambda v, i: v[:, 2], wrt="conv", want=GRAD), 0, 4)])[0].grad
    assert half.shape == convolved.shape and half.any()
    for rule in ("guided", "deconvnet"):
        ask = Ask(x.detach(), lambda v, i: v[:, 2], want=GRAD, rule=rule)
        whole = answer(graph, [Part(ask, 0, 4)])[0].grad
        single = torch.cat([answer(graph, [Part(ask, i, i + 1)])[0].grad for i in range(4)])
        assert torch.allclose(whole, single, atol=1e-6) and not torch.allclose(whole, got.grad, atol=1e-4)


def test_what_cannot_be_made_dynamic_is_run_row_by_row(tmp_path, monkeypatch):
    def unknown(function):
        raise RuntimeError("there is no batching rule for one of the operations")

    monkeypatch.setattr(torch, "vmap", unknown)
    net = seeded(Fixed)
    torch.export.save(torch.export.export(net, (torch.rand(1, 3, SIDE, SIDE),)), tmp_path / "model.pt2")
    graph = lift(tmp_path / "model.pt2", Sample((SIDE, SIDE), **PLAIN))
    assert graph.row_by_row and "row by row" in graph.notes[0]
    assert torch.allclose(out(graph, images(3)), net(images(3)), atol=1e-5)


def test_get_model_tells_what_was_found_in_a_file(tmp_path):
    """A fixed batch, values that are no scores, a type of numbers and a name from the card, over the wire."""
    directory = tmp_path / "fixed" / "1"
    directory.mkdir(parents=True)
    torch.export.save(torch.export.export(seeded(Fixed), (torch.rand(2, 3, SIDE, SIDE),)), directory / "model.pt2")
    (directory / "card.toml").write_text(
        f'dtype = "float64"\n[input]\nsize = [{SIDE}, {SIDE}]\n[output]\nactivation = "none"\n'
        '[names]\nentrance = "conv"\n'
    )
    with served(tmp_path) as server, Client(server.address) as client:
        model = client.model("fixed")
    assert list(model.notes) == ["the file takes 2 rows at a time; rows are made to share steps"]
    assert model.dtype == types_pb2.DATA_TYPE_FLOAT64 and model.batches and not model.any_size
    aliases = {layer.name: list(layer.aliases) for layer in model.layers if layer.aliases}
    assert aliases == {"conv": ["entrance"]}
    reasons = {method.method: method.reason for method in model.methods if not method.applies}
    assert reasons["pgd"] == "the model's values are no scores of classes"


class Training(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = Residual()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return self.dropout(self.net(F.dropout(x, 0.3, self.training)))


@pytest.mark.parametrize("form", FORMS)
def test_what_was_left_in_training_mode_is_set_to_eval(tmp_path, form):
    net = seeded(Training).train()
    path = export(net, form, tmp_path, torch.rand(2, 3, SIDE, SIDE))  # tracing moves the running statistics
    graph = lift(path, Sample((SIDE, SIDE), **PLAIN))
    assert torch.allclose(out(graph, images()), net.eval()(images()), atol=1e-5)
    assert any("set to eval" in note for note in graph.notes) and not graph.mixes_rows


def test_a_batch_norm_without_statistics_mixes_its_rows(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten()).eval()
    graph = lifted(net, tmp_path)
    assert graph.mixes_rows and any("row by row" in note for note in graph.notes)
    assert torch.allclose(out(graph, images(2))[:1], net(images(2)[:1]), atol=1e-5)


ENDS = {
    "softmax": (nn.Softmax(1), "softmax"),
    "log-softmax": (nn.LogSoftmax(-1), "softmax"),
    "sigmoid": (nn.Sigmoid(), "sigmoid"),
}


@pytest.mark.parametrize("form", [*FORMS, "frozen"])
@pytest.mark.parametrize("end", ENDS)
def test_scores_are_read_before_a_final_activation(tmp_path, form, end):
    activation, name = ENDS[end]
    net = nn.Sequential(seeded(Residual), activation).eval()
    graph = lifted(net, tmp_path, form)
    assert graph.activation == name and torch.allclose(out(graph, images()), net[0](images()), atol=1e-5)
    as_returned = lifted(net, tmp_path, form, before_activation=False)
    assert torch.allclose(out(as_returned, images()), net(images()), atol=1e-5)


def probabilities(net, **card):
    """The probabilities of all classes that a caller is told, and the scores beside them."""
    described = Card.model_validate({"input": {"size": [SIDE, SIDE]}, "output": card})
    with Local(net, described) as local:
        seen = local.explain(images(1)[0].numpy(), GradCam(layer="0.stem" if len(net) > 1 else "0"), predictions=5)
        told = {item.class_index: item for item in seen.predictions}
        return [told[i].probability for i in range(5)], [told[i].score for i in range(5)], seen


def test_probability_means_what_the_activation_says():
    net = nn.Sequential(seeded(Residual), nn.Identity()).eval()
    chances, scores, _ = probabilities(net)
    assert chances == pytest.approx(torch.tensor(scores).softmax(0).tolist(), abs=1e-5)
    chances, scores, seen = probabilities(net, activation="sigmoid")
    assert chances == pytest.approx(torch.tensor(scores).sigmoid().tolist(), abs=1e-5)
    assert seen.target.probability == pytest.approx(chances[seen.target.target.class_index], abs=1e-5)
    chances, scores, seen = probabilities(net, activation="none")
    assert chances == [0] * 5 and not seen.target.HasField("probability")
    assert seen.target.score == pytest.approx(max(scores), abs=1e-5)


def test_the_files_own_activation_is_the_default():
    net = nn.Sequential(seeded(Residual), nn.Sigmoid()).eval()
    chances, scores, _ = probabilities(net)
    assert chances == pytest.approx(torch.tensor(scores).sigmoid().tolist(), abs=1e-5)


def test_a_regression_has_no_probability_to_explain():
    with Local(seeded(Residual, 1), Card.model_validate({"input": {"size": [SIDE, SIDE]}})) as local:
        picture = images(1)[0].numpy()
        seen = local.explain(picture, Occlusion(window=8, stride=8))
        assert seen.message.resolved.occlusion.value == 1, "the score is recorded where there is no probability"
        with pytest.raises(InvalidArgumentError, match="no probabilities"):
            local.explain(picture, Occlusion(window=8, stride=8, value="READOUT_PROBABILITY"))
        with pytest.raises(InvalidArgumentError, match="no probabilities"):
            local.explain(picture, Occlusion(window=8), target=0, readout="log_probability")


@pytest.mark.parametrize("form", FORMS)
def test_a_generator_turns_codes_into_pictures(tmp_path, form):
    net = nn.Sequential(nn.Linear(6, 48), nn.Unflatten(1, (3, 4, 4)), nn.Upsample(scale_factor=4), nn.Tanh()).eval()
    path = export(net, form, tmp_path, torch.randn(2, 6))
    graph = lift(path, Sample(kind="generator", code=6, range=(-1.0, 1.0)))
    codes = torch.randn(3, 6)
    assert torch.allclose(out(graph, codes), (net(codes) + 1) / 2, atol=1e-6)
    got = answer(graph, [Part(Ask(codes, lambda v, i: v.mean((1, 2, 3)), want=GRAD), 0, 3)])[0]
    assert got.grad.shape == codes.shape and got.grad.any()


def test_a_stylizers_pictures_are_in_its_cards_range(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.InstanceNorm2d(3, affine=True), nn.Tanh()).eval()
    card = Card.model_validate({"kind": "stylizer", "input": {"size": [SIDE, SIDE]}, "output": {"range": [-1, 1]}})
    path = export(net, "scripted", tmp_path)
    assert torch.allclose(out(lift(path, card.sample()), images()), (net(images()) + 1) / 2, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_the_fused_attention_of_a_trace_without_gradients_is_taken_apart(tmp_path, form):
    layers = [nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=first) for first in (True, False)]
    net = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Flatten(2), _Turned(), *layers, _Averaged()).eval()
    with torch.no_grad():
        path = export(net, form, tmp_path, torch.rand(2, 3, SIDE, SIDE))
    graph = lift(path, Sample((SIDE, SIDE), **PLAIN))
    x = images().requires_grad_()
    truth = net(x)
    got = answer(graph, [Part(Ask(x.detach(), lambda v, i: v[:, 2], want=OUT | GRAD), 0, 3)])[0]
    assert torch.allclose(got.out, truth, atol=1e-5)
    assert torch.allclose(got.grad, torch.autograd.grad(truth[:, 2].sum(), x)[0], atol=1e-5)


class _Turned(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)


class _Averaged(nn.Module):
    def forward(self, x):
        return x.mean(1)


@pytest.mark.parametrize("form", [*FORMS, "frozen"])
def test_operations_outside_of_modules_are_layers_by_call_site(tmp_path, form):
    """A frozen file has lost its modules; an alias of the card names its operations as well."""
    net = seeded(Residual)
    graph = lifted(net, tmp_path, form)
    x = images()
    truth = {"stem": net.stem(x)}
    operation = "conv2d_0" if form == "frozen" else "stem"
    graph.name({"entrance": operation})
    assert torch.allclose(out(graph, x, at="entrance"), out(graph, x, at=operation))
    assert next(layer for layer in graph.layers if layer.name == operation).aliases == ("entrance",)
    if form != "frozen":
        assert torch.allclose(out(graph, x, at="entrance"), truth["stem"], atol=1e-5)
        relu = net.relu(net.norm(net.stem(x)))
        assert torch.allclose(out(graph, x, at="add_0"), net.conv(relu) + relu, atol=1e-5)
    assert {layer.name for layer in graph.layers if layer.functional} >= {"add_0", "adaptive_avg_pool2d_0"}


def test_the_shares_of_a_forwards_cost(tmp_path):
    """Multiply-adds by hand: 3x3 convolutions of 3 and 8 channels to 8 at 16 x 16, and a head of 8 x 5."""
    shares = {layer.name: layer.share for layer in lifted(seeded(Residual), tmp_path).layers}
    stem, conv = 8 * 256 * 27, 8 * 256 * 72
    assert shares["conv"] / shares["stem"] == pytest.approx(conv / stem)
    assert shares["head"] / shares["stem"] == pytest.approx(40 / stem)
    assert sum(shares.values()) == pytest.approx(1, abs=0.01), "no layer of this network lies within another"


def test_a_card_that_names_an_unknown_layer_is_refused(tmp_path):
    from lightwell_server.models.store import load_file

    path = export(seeded(Residual), "frozen", tmp_path)
    sizes = {"input": {"size": [SIDE, SIDE]}}
    model = load_file(path, Card.model_validate({**sizes, "names": {"entrance": "conv2d_0"}}), (), "frozen", "1")
    assert model.facts.layer("entrance").name == "conv2d_0"
    with pytest.raises(Refused, match="names a layer 'conv2d_9'; the nearest are conv2d"):
        load_file(path, Card.model_validate({**sizes, "names": {"entrance": "conv2d_9"}}), (), "frozen", "1")


class Flat(nn.Module):
    def forward(self, x):
        return x.reshape(1, -1)[:, :5] * 2


def test_what_takes_several_rows_for_one_image_is_given_one(tmp_path):
    """The file runs with any number of rows, and gives one: it is a model of one image."""
    graph = lifted(Flat(), tmp_path, "traced")
    assert graph.fixed == 1
    assert torch.allclose(out(graph, images(3)), images(3).flatten(1)[:, :5] * 2)


class Padded(nn.Module):
    """Padding as tensors compute it in a trace, and a type of numbers that the code names."""

    def forward(self, x):
        needed = torch.clamp(torch.ceil(torch.tensor(x.size(2)) / 5) * 5 - x.size(2), min=0)
        padded = F.pad(x.to(torch.float32), (0, int(needed), int(needed), 0))
        return padded.mean((2, 3)).to(torch.float32)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_types_that_the_code_names_follow_the_cards(tmp_path, dtype):
    graph = lifted(Padded(), tmp_path, "traced").to("cpu", dtype)
    assert torch.allclose(out(graph, images()).float(), Padded()(images()), atol=1e-3)


class Asking(nn.Module):
    def forward(self, x):
        if x.dtype == torch.float64:
            return x.amax((2, 3))
        return x.mean((2, 3))


def test_a_branch_on_the_type_goes_the_files_way(tmp_path):
    assert torch.allclose(out(lifted(Asking(), tmp_path, "scripted"), images()), images().mean((2, 3)))


class Painted(nn.Module):
    """A map whose channels come last, out of a linear layer at each place."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, 4)

    def forward(self, x):
        return self.head(torch.tanh(self.conv(x)).permute(0, 2, 3, 1))


@pytest.mark.parametrize("form", FORMS)
def test_a_map_with_its_channels_last_is_one_with_them_first(tmp_path, form):
    net = seeded(Painted)
    graph = lifted(net, tmp_path, form, scored=False)
    assert graph.shape(graph.output) == (4, SIDE, SIDE)
    assert torch.allclose(out(graph, images()), net(images()).permute(0, 3, 1, 2), atol=1e-6)
