"""Writes in place and through views: whoever shares the memory sees them, and nobody else."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightwell_server.contract import ACT, GRAD, OUT, Ask, Part
from lightwell_server.errors import InvalidArgument
from lightwell_server.models.answer import answer
from tests.nets import lifted, seeded


class ThroughAView(nn.Module):
    def forward(self, x):
        y = x * 2
        view = y[:, 0]
        view.mul_(3)
        return y.mean((2, 3)) + view.sum((1, 2))[:, None]


class ThroughAViewOfAView(nn.Module):
    def forward(self, x):
        y = x.clone()
        y.permute(0, 2, 3, 1)[:, 1::2, :, 2].mul_(y[:, 2, 1::2].mean() * 0 + 2)
        left, right = y[:, :, :8], y[:, :, 8:]
        right.add_(left)
        return y.flatten(2).sum(2) + left.mean((2, 3))


class ByDiagonal(nn.Module):
    def forward(self, x):
        y = x * 2
        y.diagonal(0, 2, 3).zero_()
        return y.mean((2, 3))


class OnTheInput(nn.Module):
    def forward(self, x):
        x.sub_(0.4).div_(0.2)
        x[:, 1, 2:5] = 0.5
        return x.mean((2, 3))


class WithinOneMemory(nn.Module):
    def forward(self, x):
        y = x * 2
        y[:, 0] = y[:, 1]
        return y.mean((2, 3))


class FilledFromItself(nn.Module):
    def forward(self, x):
        y = x * 1
        w = y[:, 1]
        y.fill_(0.5)
        y[:, 2] = x[:, 0]
        return w.mean(2) + y.mean((2, 3)).sum(1, keepdim=True)


class KeepsItsLayout(nn.Module):
    """What is copied into a tensor does not move it: a later view is still a view."""

    def forward(self, x):
        y = x * 2
        y.copy_(x.transpose(2, 3))
        flat = y.view(y.size(0), -1)
        flat.mul_(3)
        return y.flatten(1)


class CopiesByLayout(nn.Module):
    """Where a reshape has to copy, a write to it reaches nobody."""

    def forward(self, x):
        y = (x * 2).permute(0, 2, 3, 1).clone()
        y.copy_(x.permute(0, 2, 3, 1).contiguous())
        flat = y.reshape(y.size(0), -1)
        flat.mul_(3)
        return y.mean(3).flatten(1)


class IntoACopy(nn.Module):
    """A copy of a constant is the call's own, not the file's."""

    def forward(self, x):
        gains = torch.zeros(5, 3).t().contiguous()
        gains[:, 1] = 2.0
        gains.add_(0.5)
        return x.mean((2, 3)) @ gains


class ThroughACast(nn.Module):
    def forward(self, x):
        y = x * 2
        y.transpose(2, 3).to(x.dtype)[:, 0].mul_(2)
        return y.mean((2, 3))


class Powers(nn.Module):
    def forward(self, x):
        y = x * 2
        y.pow_(2)
        return y.mean((2, 3))


class TurnedInPlace(nn.Module):
    def forward(self, x):
        y = x * 2
        y.transpose_(2, 3)
        return y.mean(3).flatten(1)


class OneTensorTwoNames(nn.Module):
    def forward(self, x):
        y = x * 2
        v = F.dropout(y, 0.5, False)
        v.unsqueeze_(1)
        return y.flatten(2).mean(2)


class GatheredInLoops(nn.Module):
    def forward(self, x):
        means: list[torch.Tensor] = []
        named: dict[str, torch.Tensor] = {}
        for i in range(3):
            x.mul_(1.5)
            means.append(x[:, i].mean((1, 2)))
            named[str(i)] = means[-1] * 2
        for value in named.values():
            means.append(value)
        means.extend([named["1"]])
        means.reverse()
        scores = torch.zeros(x.size(0), 7)
        for i, mean in enumerate(means):
            scores[:, i] = mean * (x.size(2) // 2) / (x.shape[3] - x.size(2) // 2)
        return scores


class SlicedBySizes(nn.Module):
    def forward(self, x):
        half = x.size(2) // 2
        return x.narrow(2, x.size(2) - half, half).mean((2, 3)) + x[:, torch.arange(5) % x.size(1), :2].mean()


MODULES = [ThroughAView, ThroughAViewOfAView, ByDiagonal, OnTheInput, WithinOneMemory, FilledFromItself, KeepsItsLayout]
MODULES += [CopiesByLayout, IntoACopy, ThroughACast, Powers, TurnedInPlace, OneTensorTwoNames, GatheredInLoops]


@pytest.mark.parametrize("form", ["traced", "scripted"])
@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_the_graph_is_the_module(tmp_path, module, form):
    graph = lifted(module(), tmp_path, form)
    x = torch.rand(3, 3, 16, 16)
    leaf = x.clone().requires_grad_()
    truth = module()(leaf * 1)  # a leaf must not be written to
    weights = torch.rand_like(truth)
    got = answer(graph, [Part(Ask(x, lambda v, i: (v * weights[i]).sum(1), want=OUT | GRAD), 0, 3)])[0]
    assert torch.allclose(got.out, truth, atol=1e-5)
    assert torch.allclose(got.grad, torch.autograd.grad((truth * weights).sum(), leaf)[0], atol=1e-5)


class BranchOnRows(nn.Module):
    def forward(self, x):
        y = x
        if x.shape[0] != 1:
            y = x * 2
        return y.mean((2, 3))


class Squeezing(nn.Module):
    """One row alone loses its dimension: the file only works for several."""

    def forward(self, x):
        return torch.stack([x.mean((2, 3), keepdim=True).squeeze(), x.amax((2, 3), keepdim=True).squeeze()]).sum(0)


class MixedByTheFirst(nn.Module):
    def forward(self, x):
        return (x + x[:1]).mean((2, 3))


class OtherMemoryForOne(nn.Module):
    """A copy of several rows, and of one a view: the write reaches the input then."""

    def forward(self, x):
        x = x * 1
        y = x.chunk(2, 1)[1].contiguous()
        y.mul_(2)
        return x.mean((2, 3)) + y.mean((2, 3)).sum(1, keepdim=True)


@pytest.mark.parametrize(
    ("module", "form", "rows"),
    [
        (BranchOnRows, "scripted", 1),
        (OtherMemoryForOne, "scripted", 1),
        (Squeezing, "traced", 2),
        (Squeezing, "pt2", 2),
    ],
)
def test_a_model_that_is_another_for_one_row_is_given_one_row_at_a_time(tmp_path, module, form, rows):
    graph = lifted(module(), tmp_path, form)
    assert graph.fixed == rows and any(f"takes {rows} row" in note for note in graph.notes)
    x = torch.rand(3, 3, 16, 16)
    truth = torch.cat([module()(x[i : i + 1].expand(rows, -1, -1, -1))[:1] for i in range(3)])
    got = answer(graph, [Part(Ask(x, want=OUT), 0, 3)])[0].out
    assert torch.allclose(got, truth, atol=1e-5)


@pytest.mark.parametrize("form", ["traced", "scripted", "pt2"])
def test_rows_that_see_the_first_are_noticed(tmp_path, form):
    graph = lifted(MixedByTheFirst(), tmp_path, form)
    assert graph.mixes_rows
    x = torch.rand(3, 3, 16, 16)
    assert torch.allclose(answer(graph, [Part(Ask(x, want=OUT), 0, 3)])[0].out, (x * 2).mean((2, 3)), atol=1e-5)


def test_sizes_go_into_operations_on_tensors(tmp_path):
    x = torch.rand(3, 3, 16, 16)
    got = answer(lifted(SlicedBySizes(), tmp_path, "traced"), [Part(Ask(x[:1], want=OUT), 0, 1)])[0].out
    assert torch.allclose(got, SlicedBySizes()(x[:1]), atol=1e-5)


class SizeAmong(nn.Module):
    def forward(self, x):
        if x.size(2) in [16, 48]:
            return x.mean((2, 3))
        return x.amax((2, 3))


class SizeAsKey(nn.Module):
    def forward(self, x):
        factors: dict[int, float] = {16: 2.0, 48: 3.0}
        return x.mean((2, 3)) * factors.get(x.size(2), 1.0)


class BesideTheWay(nn.Module):
    """The branch looks at a value that the output is not computed from."""

    def forward(self, x):
        if F.max_pool2d(x, 2).size(2) > 20:
            return x.amax((2, 3))
        return x.mean((2, 3))


@pytest.mark.parametrize("module", [SizeAmong, SizeAsKey, BesideTheWay])
def test_what_depends_on_a_size_is_checked_for_every_image(tmp_path, module):
    graph = lifted(module(), tmp_path)
    x = torch.rand(2, 3, 16, 16)
    assert torch.allclose(answer(graph, [Part(Ask(x, want=OUT), 0, 2)])[0].out, module()(x), atol=1e-6)
    assert not graph.any_size
    with pytest.raises(InvalidArgument, match="another branch"):
        answer(graph, [Part(Ask(torch.rand(2, 3, 48, 64), want=OUT), 0, 2)])


class WrittenUpTo(nn.Module):
    """All of the sample, and only a part of larger images."""

    def forward(self, x):
        y = x * 1
        y[:, :, :20] *= 2
        y.narrow(3, 0, 16).mul_(3)
        return y.mean((2, 3))


def test_a_slice_that_covers_the_sample_does_not_cover_everything(tmp_path):
    graph = lifted(WrittenUpTo(), tmp_path)
    x = torch.rand(2, 3, 48, 48)
    assert graph.any_size
    assert torch.allclose(answer(graph, [Part(Ask(x, want=OUT), 0, 2)])[0].out, WrittenUpTo()(x), atol=1e-5)


class Extremes(nn.Module):
    def forward(self, x):
        return (x / x.max()).mean((2, 3))


def test_rows_that_share_an_extreme_are_noticed(tmp_path):
    assert lifted(Extremes(), tmp_path, side=64).mixes_rows


class Windows(nn.Module):
    """A layer of windows, four of each image, and one of tokens in front of the rows."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Conv2d(3, 6, 3, padding=1)
        self.tokens = nn.Linear(6, 4)

    def forward(self, x):
        parts = x.reshape(x.size(0), 3, 2, 8, 2, 8).permute(0, 2, 4, 1, 3, 5).reshape(-1, 3, 8, 8)
        parts = self.inner(parts).tanh().mean((2, 3)).reshape(x.size(0), 4, 6)
        return self.tokens(parts.transpose(0, 1)).sum(0)


@pytest.mark.parametrize("form", ["traced", "scripted", "pt2"])
def test_layers_whose_first_dimension_is_not_the_batch_are_each_callers_own(tmp_path, form):
    net = seeded(Windows)
    graph = lifted(net, tmp_path, form)
    shapes = {layer.name: layer.shape for layer in graph.layers}
    assert shapes["inner"] == (4, 6, 8, 8) and shapes["tokens"] == (4, 1, 4)
    x = torch.rand(3, 3, 16, 16)
    ask = Ask(x, lambda v, i: v[:, :, 2].mean((1, 2, 3)), at="inner", want=OUT | GRAD)
    together = answer(graph, [Part(ask, 0, 3)])[0]
    assert together.out.shape == (3, 4, 6, 8, 8)
    for i in range(3):
        alone = answer(graph, [Part(Ask(x[i : i + 1], ask.score, at="inner", want=OUT | GRAD), 0, 1)])[0]
        assert torch.allclose(together.out[i], alone.out[0]) and torch.allclose(together.grad[i], alone.grad[0])
    at_layer = answer(graph, [Part(Ask(x, lambda v, i: v[:, 1], wrt="inner", want=ACT | GRAD), 0, 3)])[0]
    assert at_layer.act.shape == at_layer.grad.shape == (3, 4, 6, 8, 8)
