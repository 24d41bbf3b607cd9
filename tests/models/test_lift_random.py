"""Lifting random programs: whatever a forward does with views, writes, sizes and containers, graph and file agree.

A program is drawn statement by statement and runs while it is drawn, so that shapes are known and values stay tame.
`LIGHTWELL_EXAMPLES` and `LIGHTWELL_SEED` ask for more programs and for others.
"""

import os
import re
import tempfile
import warnings
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, note, reject, seed, settings
from torch.autograd import forward_ad

from lightwell_server.contract import OUTPUT
from lightwell_server.models.lifting.lift import Sample, lift
from lightwell_server.models.subgraph import SubgraphKey
from tests.nets import PLAIN, export, seeded

EXAMPLES = {"scripted": 50, "traced": 30, "pt2": 3}
SAMPLE = Sample((16, 16), **PLAIN)
ROWS = 23  # while a program is drawn: a number that no other dimension has
FAILURES = (RuntimeError, IndexError, ValueError, TypeError, SyntaxError, UnboundLocalError)
LARGEST = 3000  # elements of a value, for one row

HEAD = """
from typing import Dict, List, Optional, Tuple
import torch
import torch.nn.functional as F
from torch import Tensor, nn

def halves(v: Tensor, dim: int) -> Tuple[Tensor, Tensor]:
    k = v.size(dim) // 2
    return v.narrow(dim, 0, k), v.narrow(dim, v.size(dim) - k, k)

def damped(v: Tensor, by: float = 0.5) -> Tensor:
    first, last = halves(v, v.dim() - 1)
    first.mul_(by)
    return last

def several(v: Tensor, more: bool) -> Tuple[Tensor, Dict[str, Tensor], List[Tensor]]:
    if more:
        v.add_(0.1)
    return v, {"v": v, "t": v.tanh()}, [v[..., :1], v.sigmoid()]

def total(parts: List[Tensor]) -> Tensor:
    result = torch.zeros_like(parts[0])
    for part in parts:
        result += part
    return result

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.down = nn.Conv2d(4, 3, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.wide = nn.Linear(16, 8)
        self.deep = nn.Linear(8, 16, bias=False)
        self.blocks = nn.ModuleList([nn.Conv2d(3, 3, 1), nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(True))])

    def mixed(self, v: Tensor, k: int) -> Tensor:
        w = self.conv(v)
        if k > 1:
            return self.norm(w)
        return self.relu(w)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        reaches = x.sum((2, 3))
"""


def listed(text):
    return text.strip().replace(" |\n", " | ").split(" | ")


# In braces stand values that are drawn: `v` a view of any value so far, `a` a value by its name, and so on (`Draws`).
VIEWS = listed("""
{v}.select({d}, {i}) | {v}[:, {i}] | {v}[:, -1] | {v}[:, {i}:{k}] | {v}[:, ::2] | {v}[..., ::2] | {v}[..., 1::3] |
{v}[..., {i}:-1] | {v}[:, None] | {v}[..., h // 2:] | {v}.narrow({d}, {i}, 2) | {v}.diagonal(0, {d}, {e}) |
{v}.transpose({d}, {e}) | {v}.transpose(0, {d})[{i}] | {v}.transpose(-1, -2) | {v}.permute(0, 3, 1, 2) |
{v}.permute(0, 2, 1) | {v}.permute([0, 2, 3, 1]) | {v}.movedim(1, -1) | {v}.reshape(n, -1) |
{v}.reshape(n, -1, {v}.size(-1)) | {v}.reshape([n, -1, 4]) | {v}.view(n, -1) |
{v}.view({v}.size(0), {v}.size(1) // 2, 2, -1) | {v}.view({v}.shape) | {v}.flatten({d}) |
{v}.unflatten({d}, [2, -1]) | {v}.unsqueeze({d}) | {v}.unsqueeze(-1) | {v}.squeeze({d}) | {v}.chunk(2, {d})[{i}] |
{v}.split(3, {d})[{i}] | {v}.split([1, 2], {d})[{i}] | {v}.tensor_split(2, {d})[{i}] | {v}.unbind({d})[{i}] |
{v}.unfold({d}, 2, 2) | {v}.contiguous() | {v}.to(x.dtype) | {v}.expand({v}.shape) | {v}.view_as({v}) |
halves({v}, {d})[1]
""")

# ` ; ` ends a line, `>` indents one; `new` is a value that later statements may use.
STATEMENTS = listed("""
new = {a}.relu() | new = F.leaky_relu({v}, 0.1) | new = {v}.sigmoid() | new = torch.tanh({v}) |
new = {v}.clamp(-0.5, 0.8) | new = {v} * {number} + 0.1 | new = {v} + {like} | new = {v} * {like} | new = {v} |
new = {v} | new = {v} | new = {v}.clone() | new = {v}.contiguous() | new = F.relu({v}, inplace=True) |
new = {v}.tanh_() | new = self.conv({image}) | new = self.norm(self.conv({image})) |
new = self.relu(self.norm(self.conv({image}))) | new = self.mixed({image}, {i}) |
new = self.down(self.conv({image})) | new = self.wide({rows}) | new = self.deep(self.wide({rows})) |
new = F.avg_pool2d({image}, 2) | new = F.pad({v}, [1, 1]) | new = F.dropout({a}, 0.5, False) | new = {v}.flip(-1) |
new = {v}.softmax(-1) | new = torch.cat([{v}, {same}], {d}) | new = torch.stack([{v}, {same}, {v}], {d}) |
new = torch.where({v} > 0.2, {same}, {v} * 0.5) | new = {v}.new_zeros({v}.shape) |
new = {v}.new_zeros([n, 3, h // 4]) + reaches.unsqueeze(2) | new = torch.zeros_like({v}) |
new = torch.ones([n, h // 2], dtype=x.dtype) | new = reaches.view(n, c, 1, 1).expand(-1, -1, h, w // 2) * 0.01 |
new = torch.arange(h * 2, dtype=x.dtype).view(1, -1).expand(n, -1) * 0.01 |
new = {v}.index_select({d}, torch.arange({v}.size({d}) - 1, -1, -1)) |
new = {v}[:, torch.arange({v}.size(1) // 2 + 1) % {v}.size(1)] | new = damped({a}) | new = damped({v}, by={number}) |
{v}.relu_() | F.hardtanh_({v}) | {v}.clamp_(-0.7, 0.7) | {v}.sigmoid_() | {v}.add_({number}) | {v}.mul_({number}) |
{v}.add_({like}, alpha=0.5) | {v}.sub_({like}) | {v}.mul_({like}) | {v}.div_({like}.sigmoid() + 0.5) |
{v}.copy_({like}) | {v}.fill_({number}) | {v}.zero_() | {a}.mul_({a}.clone()) |
{v}.masked_fill_({v} > 0.3, {number}) | {v}.masked_fill_({same} > 0.3, {number}) | {v}.neg_() | {v}.pow_(2) |
{v}.lerp_({same}, 0.3) | {v}.addcmul_({same}, {same}, value=0.5) |
{v}.index_fill_({d}, torch.arange({v}.size({d}) // 2), {number}) |
{v}.index_add_({d}, torch.arange({v}.size({d})), {same}) | {v}.clamp_(min=0.1).mul_(1.5) | {v} += {like} |
{v} *= {number} | {a} *= {number} | {a}[:, {i}] = {number} | {a}[:, {i}] = {a}[:, {j}] | {a}[..., {i}:] = {number} |
{a}[..., ::2] = {a}[..., ::2] * {number} | {a}[..., ::2] *= {number} | {a}[:, {i}] += {number} |
{a}[:, torch.arange({a}.size(1) // 2)] = {number} | {a}[{a} > 0.4] = {number} | if {a}.dim() < 5: {a}.unsqueeze_(1) |
{a}.squeeze_(1) | {a}.transpose_(1, -1) | one, two = halves({v}, {d}) ; one.copy_(two) ; new = two |
one, two = halves({v}, {d}) ; two.mul_(0.5).add_(one) |
one, table, found = several({v}, {v}.size(-1) > {k}) ; table["v"].mul_(0.9) ; new = one + found[0] + table["t"] |
pieces = {v}.chunk(2, {d}) ; pieces[0].mul_(1.5) ; new = pieces[-1].neg() |
for part in {v}.unbind({s}): part.mul_(0.9) | for i, part in enumerate({v}.split(2, {s})): part.add_(0.1 * i) |
for i in range({v}.size({s})): {v}.select({s}, i).mul_(1.0 - 0.05 * i) |
for i in range(0, {v}.size({s}), 2): {v}.narrow({s}, i, 1).fill_(0.1 * i) |
for block in self.blocks: {image}.add_(block({image})) | new = {v} ; for i in range({i}): new = new.tanh() + {v} |
pieces: List[Tensor] = [] ; for i in range({k}): pieces.append({v} * (0.1 * i)) ; new = torch.stack(pieces, 1).mean(1) |
pieces = [{v}] ; for i in range(2): pieces.append(pieces[-1].tanh()) ; pieces[{j}].mul_(0.5) ; new = pieces[0] |
pieces = [{v}, {same}] ; pieces.extend([pieces[0]]) ; pieces.reverse() ; pieces[0].add_(0.3) ; new = total(pieces) |
pieces = [p for p in {v}.unbind({s})] ; last = pieces.pop().mul_(0.3) ; new = torch.stack(pieces[::-1] + [last], 1) |
pieces = [{v}, {same}] ; pieces[0], pieces[1] = pieces[1], pieces[0] ; pieces[0].mul_(0.5) ; new = pieces[0] |
pieces = [{v}] * 2 ; pieces[0].mul_(0.5) ; pieces.insert(1, {v}.tanh()) ; new = torch.cat(pieces, {d}) |
table: Dict[str, Tensor] = {{}} ; for i in range({k}): table[str(i)] = {v} * i ; new = table["0"].add_(1.0) |
table: Dict[int, Tensor] = {{}} ; for i in range(3): table[i] = {v} ; new = table[1].mul_(0.5) + table.pop(0) |
table = {{"a": {v}, "b": {same}}} ; for key, value in table.items(): value.mul_(0.8) ; new = table["a"] |
if {v}.size({d}) > {k}: {v}.mul_(0.5) ; else: {v}.add_(0.2) |
if x.size(2) > {k} and {v}.shape[{d}] % 2 == 0: new = {v}.tanh() ; else: new = {v} |
if {v}.shape[-1] == {v}.shape[1]: new = {v} * 2 ; elif h // 2 >= {k}: new = {v} ; else: new = {v}.neg() |
k = {v}.size({d}) ; while k > 1: ; > {v}.narrow({d}, 0, k).mul_(0.9) ; > k = k // 2 |
k = 0 ; while k < {v}.numel() // n and k < 3: ; > {v}.add_(0.1 * k) ; > k += 1 |
for i in range(4): ; > if i == {j}: continue ; > if i > {i}: break ; > {v}.mul_(0.9) |
new = {v}.reshape(n, -1)[:, :h * 2].view(n, -1, 2) | new = {v}.expand_as({v}) + 0.5 |
maybe: Optional[Tensor] = None ; if h > {k}: maybe = {v} ; if maybe is not None: maybe.mul_(0.7)
""")

MIXING = ["{a}.sub_({a}.mean(0, keepdim=True))", "new = {v}.flip(0)", "new = {v} + {v}[:1]"]


CHOICES = {"number": (0.3, -0.6, 1.5), "k": (1, 2, 3, 5, 8), "i": (0, 1, 2), "j": (0, 1, 2)}


class Draws(dict):
    """What stands for the names in braces; each is drawn when it is first asked for."""

    def __init__(self, program, **known):
        super().__init__(known)
        self.program = program

    def __missing__(self, name):
        self[name] = self.program.pick(CHOICES[name]) if name in CHOICES else getattr(self, f"_{name}")()
        return self[name]

    def _a(self):
        return self.program.pick(self.program.names)

    def _v(self):
        return self.program.view(self._a())

    def _d(self):
        shape = self.program.shape(self["v"])
        return self.program.pick(range(1, max(2, len(shape))))

    _e = _d

    def _s(self):
        """A dimension that is short enough for a loop."""
        shape = self.program.shape(self["v"])
        return self.program.pick([i for i in range(1, len(shape)) if shape[i] <= 16] or [len(shape)])

    def _image(self):
        return self._named(lambda shape: shape[1:2] == (3,))

    def _rows(self):
        return self._named(lambda shape: shape[-1] == 16)

    def _named(self, fits):
        return self.program.pick([name for name in self.program.names if fits(self.program.shape(name))] or ["x"])

    def _same(self):
        """Another value of the shape of `v`."""
        return self._fitting(lambda shape: shape == self.program.shape(self["v"]))

    def _like(self):
        """Another value that broadcasts to the shape of `v`."""
        wanted = self.program.shape(self["v"])

        def fits(shape):
            return len(shape) == len(wanted) and all(a in (b, 1) for a, b in zip(shape, wanted, strict=True))

        return self._fitting(fits)

    def _fitting(self, fits):
        v, program = self["v"], self.program
        found = [other for other in (program.view(self._a()) for _ in range(3)) if fits(program.shape(other))]
        found += [name for name in program.names if fits(program.shape(name))]
        chosen = self.program.pick([*found, f"{v}.flip(-1)", f"{v}.tanh()"])
        # What a write reads from the very elements that it changes is not defined.
        return f"{chosen}.clone()" if program.overlap(v, chosen) else chosen


class Program:
    """The lines so far, and the values that they give."""

    def __init__(self, pick):
        self.pick = pick
        self.lines = []
        self.names = ["x", "y"]
        self.values = {}
        exec(compile(HEAD + "        return reaches", "<head>", "exec"), self.values)
        torch.manual_seed(0)
        self.values.update(self=self.values["Net"]().eval().requires_grad_(False), x=torch.rand(ROWS, 3, 16, 16))
        self.values.update(n=ROWS, c=3, h=16, w=16, reaches=self.values["x"].sum((2, 3)))
        self.add(self.pick(("y = x * 2", "y = self.conv(x)")))

    def evaluate(self, expression):
        """Its value; None if it has none, or none for each row."""
        try:
            value = eval(expression, self.values)
        except FAILURES:
            return None
        fine = isinstance(value, torch.Tensor) and value.shape[:1] == (ROWS,) and 0 < value.numel() <= ROWS * LARGEST
        return value if fine and 1 < value.dim() < 6 else None

    def shape(self, expression):
        return tuple(self.evaluate(expression).shape)

    def overlap(self, a, b):
        """Whether two values share elements."""
        a, b = self.evaluate(a), self.evaluate(b)
        if a.untyped_storage().data_ptr() != b.untyped_storage().data_ptr():
            return False
        numbers = torch.arange(a.untyped_storage().nbytes() // a.element_size())
        places = [numbers.as_strided(value.shape, value.stride(), value.storage_offset()) for value in (a, b)]
        return bool(torch.isin(*places).any())

    def view(self, expression):
        """A view of it, of a view of it, ..."""
        for _ in range(self.pick(range(4))):
            further = self.pick(VIEWS).format_map(Draws(self, v=expression))
            expression = expression if self.evaluate(further) is None else further
        return expression

    def add(self, statement):
        """Adds a statement if it works, and what keeps its values small."""
        number = len(self.lines)
        text = re.sub(r"\b(pieces|table|found|maybe)\b", rf"\1_{number}", re.sub(r"\bnew\b", f"v{number}", statement))
        text = text.replace(" ; > ", "\n    ").replace(" ; ", "\n")
        before, self.values = self.values, dict(self.values)
        try:
            exec(text, self.values)
        except FAILURES:
            self.values = before
            return
        names = [*self.names, f"v{number}"] if f"v{number}" in self.values else self.names
        if any(self.evaluate(name) is None for name in names):
            self.values = before
            return
        self.lines.append(text)
        self.names = names
        for name in names:
            if float(self.values[name].abs().max()) > 30:
                self.lines.append(f"{name} = {name} * 0.05")
                exec(self.lines[-1], self.values)

    def source(self):
        ends = ("", "", "", "", ".mean(1, keepdim=True)", ".sum([1], True)", ".amax(1).view(n, 1)")
        read = [f"{name}.reshape([n, -1]){self.pick(ends)}" for name in self.names]
        lines = [line for text in self.lines for line in text.splitlines()]
        return HEAD + "".join(f"        {s}\n" for s in [*lines, f"return torch.cat([reaches, {', '.join(read)}], 1)"])


def program(pick):
    """The source of a module `Net`; `pick` chooses one of several."""
    made = Program(pick)
    statements = STATEMENTS + MIXING * (40 if pick(range(20)) == 7 else 0)
    with torch.no_grad():
        for _ in range(pick(range(2, 11))):
            made.add(pick(statements).format_map(Draws(made)))
        return made.source()


@st.composite
def programs(draw):
    return program(lambda options: draw(st.sampled_from(options)))


def network(source, directory):
    """The module of a source, which stands in a file so that torch finds it."""
    path = directory / "net.py"
    path.write_text(source)
    names = {"__name__": "net"}
    exec(compile(source, path, "exec"), names)
    return seeded(names["Net"]).requires_grad_(False)


def near(ours, theirs):
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max()) <= 1e-9 * float(theirs.abs().max())


def compare(graph, model, count):
    """Graph and model on some rows: outputs, and the gradient of a weighted sum of them."""
    rng = torch.Generator().manual_seed(count)
    x = torch.rand(count, 3, 16, 16, generator=rng, dtype=torch.float64)
    (ours,), leaf = graph.subgraph(SubgraphKey((OUTPUT,))).run(x, {}, torch.arange(count), grad=True)
    with torch.no_grad():
        theirs = model(x.clone())
    near(ours.detach(), theirs)
    weights = torch.randn(theirs.shape, generator=rng, dtype=torch.float64)
    gradient = torch.autograd.grad((ours * weights).sum(), leaf)[0]
    their_leaf = x.clone().requires_grad_()
    try:
        near(gradient, torch.autograd.grad((model(their_leaf * 1) * weights).sum(), their_leaf)[0])
    except RuntimeError as error:
        if "inplace" not in str(error):
            raise
        # Autograd forbids to go backwards through some of the model's writes: it is asked forwards.
        way = torch.randn(x.shape, generator=rng, dtype=torch.float64)
        with torch.no_grad(), forward_ad.dual_level():
            slope = forward_ad.unpack_dual(model(forward_ad.make_dual(x, way) * 1)).tangent
        near((gradient * way).sum() / gradient.norm(), (slope * weights).sum() / gradient.norm())
    return theirs


def check(source, form):
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings(), torch.jit.optimized_execution(False):
        warnings.simplefilter("ignore")
        net = network(source, Path(name))
        if form != "scripted":  # a trace holds the types that it was made with
            net.double()
        try:
            path = export(net, form, Path(name), *(rows.to(net.conv.weight) for rows in SAMPLE.rows(2)))
        except Exception:
            if form != "pt2":
                raise
            reject()  # there are forwards that torch.export does not take
        graph = lift(path, SAMPLE).to("cpu", torch.float64)
        model = net.double() if form == "pt2" else torch.jit.load(path).double()
        assert graph.fixed is None
        compare(graph, model, 2)
        theirs = compare(graph, model, 3)
        x = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        with torch.no_grad():
            alone = model(x[1:].clone())
        difference = float((alone - theirs[1:]).abs().max() / theirs.abs().max())
        assert difference < 1e-8 or graph.mixes_rows or difference < 1e-3, "what one row sees of others is noticed"
        assert difference > 1e-8 or not graph.mixes_rows


@pytest.mark.parametrize("form", EXAMPLES)
def test_graph_and_file_agree(form):
    @seed(int(os.environ.get("LIGHTWELL_SEED", "0")))
    @settings(
        max_examples=int(os.environ.get("LIGHTWELL_EXAMPLES", EXAMPLES[form])),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(programs())
    def agree(source):
        note(source)
        check(source, form)

    agree()
