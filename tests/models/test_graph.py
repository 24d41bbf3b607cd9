"""Cuts: nothing more is run than an Ask needs, and what is exchanged on the way is exchanged rightly."""

import pytest
import torch
from torch import nn

from lightwell_server.contract import ACT, GRAD, OUT, OUTPUT, SCORE, Answer, Ask, Edit, Part
from lightwell_server.errors import InvalidArgument, OutOfMemory
from lightwell_server.models.answer import answer
from lightwell_server.models.folding import scaled
from lightwell_server.models.subgraph import SubgraphKey
from tests.nets import Residual, lifted, seeded


@pytest.fixture(scope="module")
def net():
    return seeded(Residual).double()


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    return lifted(seeded(Residual), tmp_path_factory.mktemp("graph")).to("cpu", torch.float64)


def ask(graph, *args, **kwargs) -> Answer:
    question = Ask(*args, **kwargs)
    return answer(graph, [Part(question, 0, question.count)])[0]


def image(rows=1):
    return torch.rand(rows, 3, 16, 16, generator=torch.Generator().manual_seed(rows), dtype=torch.float64)


def first(values, index):
    return values[:, 0]


def operations(subgraph):
    """Everything that a cut computes, in order."""
    nodes = [node for stage in subgraph.stages for node in stage.module.graph.nodes]
    return [node.target for node in nodes if node.op == "call_function"]


def test_what_lies_behind_the_layer_read_is_not_in_the_cut(graph):
    aten = torch.ops.aten
    assert operations(graph.subgraph(SubgraphKey(("stem",)))) == [aten.conv2d.default]
    assert aten.linear.default in operations(graph.subgraph(SubgraphKey((OUTPUT,))))


def test_what_lies_before_wrt_runs_without_autograd(graph, monkeypatch):
    modes = []
    subgraph = graph.subgraph(SubgraphKey((OUTPUT,), wrt="conv"))
    for stage in subgraph.stages:
        stage.module.register_forward_pre_hook(lambda *_: modes.append(torch.is_grad_enabled()))
    _, act = subgraph.run(image(), {}, torch.arange(1), grad=True)
    assert modes == [False, True]
    assert act.is_leaf and act.requires_grad


def test_without_gradients_wanted_no_autograd_runs_at_all(graph):
    (out,), act = graph.subgraph(SubgraphKey((OUTPUT,))).run(image(), {}, torch.arange(1))
    assert not out.requires_grad and not act.requires_grad


def test_batch_norms_are_folded_unless_the_layer_between_is_asked_for(graph):
    assert scaled not in operations(graph.subgraph(SubgraphKey((OUTPUT,))))
    assert scaled in operations(graph.subgraph(SubgraphKey(("stem", OUTPUT))))
    folded, plain = ask(graph, image(2), want=OUT).out, ask(graph, image(2), at=("stem", OUTPUT), want=OUT).out[1]
    assert torch.allclose(folded, plain, rtol=0, atol=1e-12)


def test_gradients_at_a_layer_are_those_of_the_eager_model(graph, net):
    x = image(2)
    ours = ask(graph, x, first, wrt="norm", want=ACT | GRAD)
    act = net.norm(net.stem(x)).detach().requires_grad_()
    features = act.relu()
    out = net.head((net.conv(features) + features).relu().mean((2, 3)))
    assert torch.allclose(ours.grad, torch.autograd.grad(out[:, 0].sum(), act)[0], atol=1e-13)


def test_a_layer_that_does_not_influence_the_score_is_an_error(graph):
    with pytest.raises(InvalidArgument, match="does not influence"):
        ask(graph, image(), first, at="stem", wrt="head", want=GRAD)
    with pytest.raises(InvalidArgument, match="does not influence"):
        ask(graph, image(), first, at="stem", edit=Edit("conv", lambda acts, index: acts))


def test_unknown_layers_are_an_error_with_the_nearest_names(graph):
    with pytest.raises(InvalidArgument, match="the nearest are"):
        ask(graph, image(), first, at="stm", want=OUT)


class ReLUOnly(nn.Module):
    def forward(self, x):
        return x.relu().flatten(1)


INPUT_ = torch.tensor([[1.0, -1, 5], [2, -5, -7], [-3, 2, 4]])
INCOMING = torch.tensor([[-2.0, 3, -1], [6, -3, 1], [2, -1, 3]])
BACKWARD = {
    "plain": [[-2, 0, -1], [6, 0, 0], [0, -1, 3]],
    "deconvnet": [[0, 3, 0], [6, 0, 1], [2, 0, 3]],
    "guided": [[0, 0, 0], [6, 0, 0], [0, 0, 3]],
}


@pytest.mark.parametrize("rule", BACKWARD)
def test_relus_backward_follows_the_rule(tmp_path, rule):
    graph = lifted(ReLUOnly(), tmp_path, side=3)
    weights = INCOMING.flatten().repeat(3)
    got = ask(graph, INPUT_.expand(1, 3, 3, 3), lambda v, i: v @ weights, want=GRAD, rule=rule).grad
    assert torch.equal(got, torch.tensor(BACKWARD[rule]).float().expand(1, 3, 3, 3))


def test_rules_change_nothing_forwards(graph):
    for rule in BACKWARD:
        assert torch.allclose(ask(graph, image(2), want=OUT, rule=rule).out, ask(graph, image(2), want=OUT).out)


class Folded(nn.Module):
    """Rows and positions share a dimension on the way, so that values cannot be expanded by rows there."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.mix = nn.Linear(4, 4)

    def forward(self, x):
        x = self.conv(x)
        n, c, h, w = x.shape
        flat = x.permute(0, 2, 3, 1).reshape(n * h * w, c)
        return (self.mix(flat) + flat).reshape(n, h * w, c).mean(1)


@pytest.mark.parametrize(("make", "layer", "shares"), [(Residual, "conv", True), (Folded, "mix", False)])
def test_one_row_with_many_edits_is_many_rows(tmp_path, make, layer, shares):
    graph = lifted(seeded(make), tmp_path).to("cpu", torch.float64)
    x = image()
    scale = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)

    def edit(acts, index):
        rows = acts.unflatten(0, (len(index), -1))
        return (rows * scale[index].view(-1, *[1] * (rows.dim() - 1))).flatten(0, 1)

    assert graph.subgraph(SubgraphKey((OUTPUT,), edit=layer)).expands is shares
    many = ask(graph, x, first, edit=Edit(layer, edit, count=3), want=SCORE).score
    each = torch.cat([ask(graph, x, first, edit=Edit(layer, lambda a, i, s=s: a * s)).score for s in scale])
    assert torch.allclose(many, each, atol=1e-12)


def test_answers_keep_no_batch_alive_and_lie_plainly_in_memory(graph):
    questions = [Ask(image(), first, want=GRAD | OUT) for _ in range(8)]
    answers = answer(graph, [Part(question, 0, 1) for question in questions])
    for one in answers:
        assert one.grad.is_contiguous() and one.grad.untyped_storage().nbytes() == one.grad.nbytes
        assert one.out.untyped_storage().nbytes() == one.out.nbytes


def test_gradients_before_an_expanding_edit_are_each_edits_own(graph):
    x = image()
    edit = Edit("conv", lambda acts, index: acts * index.view(-1, 1, 1, 1), count=3)
    many = ask(graph, x, first, edit=edit, want=SCORE | GRAD | ACT)
    for i in range(3):
        one = ask(graph, x, first, edit=Edit("conv", lambda acts, index, i=i: acts * i), want=GRAD)
        assert torch.allclose(many.grad[i : i + 1], one.grad, atol=1e-12)
    assert many.act.shape == (3, 3, 16, 16)


@pytest.mark.parametrize(
    ("words", "kind"),
    [("can't allocate memory: you tried 9 bytes", OutOfMemory), ("kernel too large", InvalidArgument)],
)
def test_want_of_memory_is_told_apart_from_a_size_that_does_not_fit(graph, words, kind):
    def failing(acts, index):
        raise RuntimeError(words)

    other_size = torch.rand(1, 3, 24, 24, dtype=torch.float64)
    with pytest.raises(kind):
        ask(graph, other_size, first, edit=Edit("conv", failing))


class Normed(nn.Module):
    """A batch norm that no convolution can be folded with, read as tokens, channels last."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 4)

    def forward(self, x):
        return self.head(self.norm(x).flatten(2).transpose(1, 2)).square().sum(1)


def test_the_gradient_of_one_row_through_a_batch_norm_is_that_of_two(tmp_path):
    """The norm's own operation is wrong here on some processors: one row, and a gradient in another layout."""
    graph = lifted(seeded(Normed), tmp_path).to("cpu", torch.float64)
    x = image(2)[:1]
    one = ask(graph, x, first, want=GRAD).grad
    assert torch.allclose(one, ask(graph, x.expand(2, -1, -1, -1), first, want=GRAD).grad[:1], atol=1e-12)
    step = torch.zeros_like(x)
    step[0, 1, 3, 4] = 1e-5
    slope = (ask(graph, x + step, first).score - ask(graph, x - step, first).score) / 2e-5
    assert float(slope) == pytest.approx(float(one[0, 1, 3, 4]), rel=1e-6)
