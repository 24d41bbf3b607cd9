"""Public docstrings of the methods, and of the contract that they use, say what CONTRIBUTING.md asks for: shapes and
dtypes of tensors, ranges of numbers, what is raised, and the source. The files are read and not imported."""

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

SERVER = Path(__file__).parents[1] / "server" / "lightwell_server"
CLIENT = Path(__file__).parents[1] / "client" / "lightwell"


def everything(name: str) -> bool:
    """Whether a dotted name within a file is looked at: here each one is."""
    return True


# Files or folders, and which of their public names are looked at.
ROOTS: list[tuple[Path, Callable[[str], bool]]] = [
    (SERVER / "contract", everything),
    (SERVER / "methods", everything),
    (SERVER / "local.py", everything),
    (CLIENT / "client.py", everything),
    (CLIENT / "aio.py", everything),
]

TENSORS = {"Tensor", "ModelInput", "FullImage", "Values", "NDArray", "ndarray", "Bytes", "Floats"}
"""Names in an annotation that stand for tensors or arrays."""
DTYPES = ("float32", "float64", "int32", "int64", "uint8", "floating")
"""The words for dtypes. `floating` is any floating dtype; what "float32 or float64" means is said in the docstring of
`lightwell_server.contract`."""
BOUNDS: dict[str, set[float]] = {"Share": {0, 1}, "Color": {0, 1}, "Weight": {0}}
"""The bounds of types that have a name."""
CONSTRAINTS = {"Ge", "Gt", "Interval", "Le", "Len", "Lt"}
WIDER = {"InvalidArgument": "InvalidArgument|LightwellError"}
"""Exceptions that a class above them tells of, too: `Local` raises the SDK's, which have one base."""
HOOKS = {"applies", "defaults", "needs", "reason"}
"""Attributes of a method's file which the docstring of `lightwell_server.methods` explains once for all."""
UNPUBLISHED = {"activations", "embedding", "predictions"}
"""Methods that no paper describes."""

# A shape: dimensions in square brackets, such as [n, 3, H, W] or [...]. What starts with 0 is a range.
SHAPE = re.compile(r"(?<![\w`])\[(?!0\b)(?:\w+|\.\.\.)(?:, (?:\w+|\.\.\.))*\]")
DTYPE = re.compile(rf"\b(?:{'|'.join(DTYPES)})\b")
NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?")
SOURCE = re.compile(
    r"arXiv:\d{4}\.\d{4,5}|doi:10\.\d{4,}/\S|https?://\S|"
    r"\b(?!(?:From|In|Since|Until) )[A-Z]\w+(?: et al\.| and [A-Z]\w+)? (?:19|20)\d\d\b"
)


@dataclass
class Item:
    """What has, or should have, a docstring: a module, a class, a function, a method, a property, or an attribute."""

    name: str
    doc: str | None
    fields: set[str] = field(default_factory=set)
    """Fields of a class; its docstring names each."""
    tensors: set[str] = field(default_factory=set)
    """Parameters and fields that are tensors, and `return`."""
    numbers: dict[str, set[float]] = field(default_factory=dict)
    """Parameters and fields that are numbers, with the bounds of their annotations."""
    raised: set[str] = field(default_factory=set)

    @property
    def sentences(self) -> list[str]:
        return re.split(r"(?<=\.)\s", self.doc or "")

    def says(self, name: str, condition: Callable[[str], object]) -> bool:
        """Whether a sentence that names a parameter or field meets a condition."""
        return any(condition(sentence) for sentence in self.sentences if f"`{name}`" in sentence)


Function = ast.FunctionDef | ast.AsyncFunctionDef


class Source:
    """The definitions of a file, and those that it imports from private files beside it."""

    def __init__(self, path: Path) -> None:
        self.path, self.tree = path, ast.parse(path.read_text())
        self.defined = {n.name: (self, n) for n in self.tree.body if isinstance(n, Function | ast.ClassDef)}
        for node in self.tree.body:
            if isinstance(node, ast.ImportFrom) and node.module:
                file = path.parent / f"{node.module.rpartition('.')[2]}.py"
                if file.stem.startswith("_") and file.stem != "__init__" and file.exists():
                    beside = Source(file).defined
                    self.defined |= {a.asname or a.name: beside[a.name] for a in node.names if a.name in beside}


def names(node: ast.AST | None) -> set[str]:
    """All names in an expression, dotted ones by their parts."""
    found = set() if node is None else set(ast.walk(node))
    return {n.id for n in found if isinstance(n, ast.Name)} | {n.attr for n in found if isinstance(n, ast.Attribute)}


def bounds(annotation: ast.AST) -> set[float]:
    """The numbers that limit a value, by its annotation."""
    found = set().union(*(BOUNDS[name] for name in names(annotation) & set(BOUNDS)))
    for call in ast.walk(annotation):
        if isinstance(call, ast.Call) and names(call.func) & CONSTRAINTS:
            found |= {ast.literal_eval(value) for value in (*call.args, *(word.value for word in call.keywords))}
    return found


def annotated(item: Item, annotations: dict[str, ast.AST]) -> None:
    """Notes which of the annotated parameters or fields are tensors, and which are numbers."""
    for name, annotation in annotations.items():
        if names(annotation) & TENSORS:
            item.tensors.add(name)
        if name != "return" and (names(annotation) & {"int", "float", *BOUNDS} or bounds(annotation)):
            item.numbers[name] = bounds(annotation)


def parameters(node: Function) -> dict[str, ast.AST]:
    """The annotations of a function's parameters."""
    given = node.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, (given.vararg, given.kwarg))]
    return {one.arg: one.annotation for one in every if one.annotation is not None}


def text(doc: str | None) -> str | None:
    return None if doc is None else " ".join(doc.split())


def strings(body: list[ast.stmt]) -> Iterator[tuple[ast.stmt, str | None]]:
    """The statements of a body, each with the string that follows it."""
    for node, after in zip(body, [*body[1:], None], strict=True):
        following = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and after.value.value
        yield node, text(following) if isinstance(following, str) else None


def assigned(node: ast.stmt) -> list[str]:
    """The public names that a statement assigns, but for variables of types."""
    if isinstance(node, ast.Assign) and "TypeVar" not in names(node.value):
        targets = [t for target in node.targets for t in (target.elts if isinstance(target, ast.Tuple) else [target])]
    else:
        targets = [node.target] if isinstance(node, ast.AnnAssign) else []
    return [t.id for t in targets if isinstance(t, ast.Name) and public(t.id)]


def public(name: str) -> bool:
    return not name.startswith("_") or name == "__call__"


def raised(source: Source, node: ast.AST, owner: ast.ClassDef | None, seen: set[int]) -> set[str]:
    """The exceptions that some code raises by name: itself, in functions that it names, of its file or of a private
    file beside it, in classes of those files that it calls, and in private methods of its own class. An exception that
    a function makes, as in `raise made(x)`, is not known."""
    if id(node) in seen:
        return set()
    seen.add(id(node))
    found: set[str] = set()
    body = node.body if isinstance(node, Function) else [node]
    for part in (part for statement in body for part in ast.walk(statement)):
        if isinstance(part, ast.Raise) and part.exc is not None:
            kind: ast.AST = part.exc
            while isinstance(kind, ast.Call | ast.Attribute):
                kind = kind.func if isinstance(kind, ast.Call) else kind.value
            found |= {kind.id} if isinstance(kind, ast.Name) and kind.id[0].isupper() else set()
        elif isinstance(part, ast.Name) and part.id in source.defined:
            file, definition = source.defined[part.id]
            if isinstance(definition, Function):
                found |= raised(file, definition, None, seen)
        elif isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id in source.defined:
            file, definition = source.defined[part.func.id]
            if isinstance(definition, ast.ClassDef):
                found |= made(file, definition, seen)
        elif isinstance(part, ast.Attribute) and part.attr.startswith("_") and owner is not None:
            own = [n for n in methods(owner) if n.name == part.attr and names(part.value) & {"self", "cls"}]
            found |= set().union(*(raised(source, n, owner, seen) for n in own))
    return found


def methods(node: ast.ClassDef) -> list[Function]:
    return [n for n in node.body if isinstance(n, Function)]


def made(source: Source, node: ast.ClassDef, seen: set[int]) -> set[str]:
    """The exceptions that making an object of a class raises."""
    begun = [n for n in methods(node) if n.name in ("__init__", "__post_init__")]
    return set().union(*(raised(source, n, node, seen) for n in begun))


def of_function(source: Source, node: Function, owner: ast.ClassDef | None = None) -> Item:
    item = Item(f"{owner.name}.{node.name}" if owner else node.name, text(ast.get_docstring(node)))
    annotated(item, parameters(node) | ({} if node.returns is None else {"return": node.returns}))
    item.raised = raised(source, node, owner, set())
    return item


def of_class(source: Source, node: ast.ClassDef) -> Item:
    """A class, with its fields and what it takes to make one. A field may have a docstring of its own."""
    item = Item(node.name, text(ast.get_docstring(node)))
    for statement, doc in strings(node.body):
        for name in assigned(statement):
            item.fields.add(name)
            if isinstance(statement, ast.AnnAssign):
                annotated(item, {name: statement.annotation})
            if doc is not None:
                item.doc = f"{item.doc or ''} `{name}`: {doc}"
    for function in methods(node):
        if function.name == "__init__":
            item.doc = None if item.doc is None else f"{item.doc} {text(ast.get_docstring(function)) or ''}"
            annotated(item, parameters(function))
    item.raised = made(source, node, set())
    return item


def decorated(node: Function, name: str) -> bool:
    return any(name in names(decorator) for decorator in node.decorator_list)


def items(path: Path) -> Iterator[Item]:
    """The public items of a file; the module's own name is empty."""
    source = Source(path)
    yield Item("", text(ast.get_docstring(source.tree)))
    for node, doc in strings(source.tree.body):
        if isinstance(node, Function) and public(node.name) and not decorated(node, "overload"):
            yield of_function(source, node)
        elif isinstance(node, ast.ClassDef) and public(node.name):
            yield of_class(source, node)
            for function in methods(node):
                if public(function.name) and not decorated(function, "overload") and not decorated(function, "setter"):
                    yield of_function(source, function, node)
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            for name in set(assigned(node)) - HOOKS - {"__all__"}:
                item = Item(name, doc, raised=raised(source, node.value, None, set()))
                if names(node.value) & TENSORS:
                    item.tensors.add("return")
                yield item


def documented(path: Path, wanted: Callable[[str], bool] = everything) -> dict[str, Item]:
    """The public items of a file whose names are wanted."""
    return {item.name: item for item in items(path) if wanted(item.name)}


def files(root: Path) -> list[Path]:
    return sorted(root.glob("*.py")) if root.is_dir() else [root]


def cases(roots: list[tuple[Path, Callable[[str], bool]]]) -> list[tuple[Path, str]]:
    """Each file with each name that is looked at."""
    return [(path, name) for root, wanted in roots for path in files(root) for name in sorted(documented(path, wanted))]


found = cache(documented)


def fields_named(item: Item) -> Iterator[str]:
    for name in sorted(item.fields):
        if not item.says(name, lambda sentence: True):
            yield f"does not say what `{name}` is"


def shapes_and_dtypes(item: Item) -> Iterator[str]:
    assert item.doc is not None
    if item.tensors and not SHAPE.search(item.doc):
        yield "has no shape in square brackets"
    if item.tensors and not DTYPE.search(item.doc):
        yield f"has no dtype: none of {', '.join(DTYPES)}"
    for name in sorted(item.tensors - {"return"}):
        if not item.says(name, SHAPE.search):
            yield f"does not give the shape of `{name}`"


def ranges(item: Item) -> Iterator[str]:
    def told(sentence: str) -> set[float]:
        return {float(number.replace(",", "")) for number in NUMBER.findall(SHAPE.sub("", sentence))}

    for name, limits in item.numbers.items():
        if not item.says(name, lambda sentence, limits=limits: limits <= told(sentence)):
            yield f"does not give the range of `{name}`" if limits else f"does not say what `{name}` is"


def exceptions(item: Item) -> Iterator[str]:
    for name in sorted(item.raised):
        told = WIDER.get(name, name)
        if not any(re.search(rf"\bRaises\b.*\b({told})\b", sentence) for sentence in item.sentences):
            yield f"does not say: Raises {name}"


def complaints(item: Item) -> list[str]:
    """What an item's docstring lacks."""
    if not item.doc:
        return ["has no docstring"]
    return [lack for check in (fields_named, shapes_and_dtypes, ranges, exceptions) for lack in check(item)]


def sourced(doc: str | None) -> bool:
    """Whether a module's docstring names where its method comes from."""
    return doc is not None and SOURCE.search(doc) is not None


def label(value: object) -> str:
    return value.stem if isinstance(value, Path) else str(value) or "module"


@pytest.mark.parametrize(("path", "name"), cases(ROOTS), ids=label)
def test_a_docstring_says_what_it_should(path, name):
    assert complaints(found(path)[name]) == []


METHODS = [path for path in files(SERVER / "methods") if public(path.stem)]


@pytest.mark.parametrize("path", METHODS, ids=label)
def test_a_method_names_its_source(path):
    assert sourced(found(path)[""].doc) != (path.stem in UNPUBLISHED)


def test_unpublished_methods_exist():
    assert {path.stem for path in METHODS} >= UNPUBLISHED


def test_what_all_method_files_may_have_is_explained_once():
    doc = found(SERVER / "methods" / "__init__.py")[""].doc
    assert all(f"`{name}" in doc for name in HOOKS)


def test_the_words_for_dtypes_are_explained():
    doc = found(SERVER / "contract" / "__init__.py")[""].doc
    assert '"floating" is' in doc and '"float32 or float64" is' in doc


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("contract/ask.py", "Answer.join"),  # a class method
        ("contract/ask.py", "Ask.key"),  # a cached property
        ("contract/ask.py", "ACT"),  # one of several names of a statement
        ("contract/parameters.py", "ModelInput"),  # a type
        ("contract/target.py", "ClassTarget.score"),  # what overrides another method has its own shapes
        ("methods/_math.py", "sized"),  # a private file's function
        ("methods/style_transfer.py", "Loss.__call__"),
    ],
)
def test_what_is_looked_at(path, name):
    assert name in found(SERVER / path)


@pytest.mark.parametrize(
    ("path", "name", "kind"),
    [
        ("contract/parameters.py", "GridLayer", "ValueError"),  # in a validator
        ("contract/target.py", "ClassTarget.score", "InvalidArgument"),  # in a public function of the file
        ("contract/target.py", "Target.score", "TypeError"),  # for lack of an implementation
        ("methods/style_transfer.py", "style_transfer", "InvalidArgument"),  # in a private function, and in _math.py
    ],
)
def test_what_is_known_to_be_raised(path, name, kind):
    assert found(SERVER / path)[name].raised == {kind}


def test_names_that_are_not_wanted_are_left_out():
    path = SERVER / "contract" / "results.py"
    assert set(documented(path, lambda name: name.startswith("View"))) == {"View"}
    assert [name for _, name in cases([(path, lambda name: name == "Result")])] == ["Result"]


# Sources with one fault each, the name that has it, and what is said of it.
FAULTS = {
    "module without": ("x: int = 1\n'''One.'''", "", "has no docstring"),
    "function without": ("def f(): ...", "f", "has no docstring"),
    "class without": ("class C: ...", "C", "has no docstring"),
    "method without": ("class C:\n '''C.'''\n def f(self): ...", "C.f", "has no docstring"),
    "call without": ("class C:\n '''C.'''\n def __call__(self): ...", "C.__call__", "has no docstring"),
    "property without": ("class C:\n '''C.'''\n @property\n def f(self): ...", "C.f", "has no docstring"),
    "coroutine without": ("async def f(): ...", "f", "has no docstring"),
    "attribute without": ("SIZE = 3", "SIZE", "has no docstring"),
    "one of two attributes without": ("A, B = 1, 2", "B", "has no docstring"),
    "empty": ("def f():\n ''''''", "f", "has no docstring"),
    "field that is not named": ("class C:\n '''C.'''\n a: str", "C", "does not say what `a` is"),
    "member that is not named": ("class C(Enum):\n '''`A`.'''\n A = 1\n B = 2", "C", "does not say what `B` is"),
    "parameter without shape": ("def f(x: Tensor):\n '''`x`, floating.'''", "f", "has no shape in square brackets"),
    "a range is no shape": ("def f(x: Tensor):\n '''`x` [0, 1], floating.'''", "f", "has no shape in square brackets"),
    "an index is no shape": ("def f() -> Tensor:\n '''y[n], floating.'''", "f", "has no shape in square brackets"),
    "parameter without dtype": ("def f(x: Tensor):\n '''`x` [n].'''", "f", "has no dtype"),
    "result without shape": ("def f() -> list[Tensor]:\n '''Floating, floating.'''", "f", "has no shape"),
    "result without dtype": ("def f() -> NDArray[Any]:\n '''[H, W].'''", "f", "has no dtype"),
    "optional image": ("def f(*, x: FullImage | None = None):\n '''`x`, int64.'''", "f", "has no shape"),
    "property without dtype": (
        "class C:\n '''C.'''\n @property\n def f(self) -> Tensor:\n  '''[n].'''",
        "C.f",
        "dtype",
    ),
    "one of two parameters": (
        "def f(x: Tensor, y: Tensor):\n '''`x` [n], floating. `y` is one, too.'''",
        "f",
        "does not give the shape of `y`",
    ),
    "field without shape": ("class C:\n '''`x`, floating.'''\n x: Tensor", "C", "has no shape in square brackets"),
    "field's own docstring": ("class C:\n '''C.'''\n x: Tensor\n '''uint8.'''", "C", "has no shape"),
    "parameter of init": ("class C:\n '''C.'''\n def __init__(self, x: Tensor): ...", "C", "has no shape"),
    "type without shape": ("Pair = tuple[Tensor, Tensor]\n'''Two of float32.'''", "Pair", "has no shape"),
    "number that is not named": ("def f(n: int):\n '''F.'''", "f", "does not say what `n` is"),
    "number without range": ("def f(n: Annotated[int, Ge(3)]):\n '''`n`.'''", "f", "does not give the range of `n`"),
    "half a range": ("def f(n: Annotated[int, Interval(ge=1, le=9)]):\n '''`n`, above 1.'''", "f", "range of `n`"),
    "range elsewhere": ("def f(n: Share):\n '''`n`. From 0 to 1.'''", "f", "does not give the range of `n`"),
    "numbers of a shape": ("def f(n: Annotated[int, Ge(3)]):\n '''`n` of [n, 3].'''", "f", "range of `n`"),
    "length without range": ("def f(n: Annotated[tuple[str], Len(1, 4)]):\n '''`n`.'''", "f", "range of `n`"),
    "raised": ("def f():\n '''F.'''\n raise ValueError('no')", "f", "does not say: Raises ValueError"),
    "raised without a call": ("def f():\n '''F.'''\n raise KeyError", "f", "does not say: Raises KeyError"),
    "raised by a class method": ("def f():\n '''F.'''\n raise Bad.at('x')", "f", "does not say: Raises Bad"),
    "raised for lack": (
        "class C:\n '''C.'''\n def f(self):\n  '''F. Raises.'''\n  raise TypeError",
        "C.f",
        "Raises TypeError",
    ),
    "another one is told": ("def f():\n '''Raises KeyError.'''\n raise ValueError", "f", "Raises ValueError"),
    "told elsewhere": ("def f():\n '''Raises it. ValueError.'''\n raise ValueError", "f", "Raises ValueError"),
    "raised by a generator": ("def f():\n '''F.'''\n yield 1\n raise ValueError", "f", "Raises ValueError"),
    "raised by a coroutine": ("async def f():\n '''F.'''\n raise ValueError", "f", "Raises ValueError"),
    "raised within": ("def f():\n '''F.'''\n def g(): raise ValueError\n return g", "f", "Raises ValueError"),
    "raised by a helper": ("def f():\n '''F.'''\n _g()\ndef _g():\n raise ValueError", "f", "Raises ValueError"),
    "raised by a helper's": ("def f():\n '''F.'''\n _g()\ndef _g(): _h()\ndef _h(): raise Bad", "f", "Raises Bad"),
    "handed to another": ("def f():\n '''F.'''\n run(_g)\ndef _g():\n raise ValueError", "f", "Raises ValueError"),
    "raised by an own method": (
        "class C:\n '''C.'''\n def f(self):\n  '''F.'''\n  self._g()\n def _g(self): raise ValueError",
        "C.f",
        "Raises ValueError",
    ),
    "raised by init": ("class C:\n '''C.'''\n def __init__(self): raise ValueError", "C", "Raises ValueError"),
    "raised by making one": (
        "def f():\n '''F.'''\n _C()\nclass _C:\n def __init__(self): raise ValueError",
        "f",
        "Raises ValueError",
    ),
    "raised by a validator": ("Name = Annotated[str, After(_g)]\n'''N.'''\ndef _g(): raise Bad", "Name", "Raises Bad"),
    "raised beside": ("from a._beside import odd\ndef f():\n '''F.'''\n odd()", "f", "Raises LookupError"),
}


@pytest.mark.parametrize(("source", "name", "complaint"), FAULTS.values(), ids=list(FAULTS))
def test_each_fault_is_found(tmp_path, source, name, complaint):
    (tmp_path / "_beside.py").write_text("def odd(): _odd()\ndef _odd(): raise LookupError")
    path = tmp_path / "file.py"
    path.write_text(source)
    said = complaints(documented(path)[name])
    assert any(complaint in one for one in said), said


GOOD = '''
"""A module."""
from a._beside import odd

T = TypeVar("T")
applies, needs = odd, None
SIZE = 3
"""A size."""
Pair = tuple[Tensor, Tensor]
"""Two of [n, ...], int32."""


class C:
    """`x` [n, 3, H, W], float32; `k` is at least 1. `own`: a text. Raises ValueError if there is none."""

    x: Tensor
    k: Annotated[int, Ge(1)]
    own: str
    _hidden: Tensor
    kept: Tensor
    """[n], uint8."""

    def __init__(self, y: Tensor) -> None:
        """`y` [h, w], floating."""
        raise ValueError

    @overload
    def f(self, i: int) -> Tensor: ...

    def f(self, i: Annotated[int, Interval(ge=1, le=10_000)]) -> Tensor:
        """[1, 3,
        H, W], float64. `i` is 1 to 10,000. Raises LookupError."""
        return odd()

    def _g(self) -> Tensor: ...


def _private(x: Tensor): ...
'''


def test_what_is_good_is_left_alone(tmp_path):
    (tmp_path / "_beside.py").write_text("def odd(): raise LookupError")
    path = tmp_path / "file.py"
    path.write_text(GOOD)
    said = {name: complaints(item) for name, item in documented(path).items()}
    assert said == {name: [] for name in ("", "SIZE", "Pair", "C", "C.f")}


@pytest.mark.parametrize(
    "doc",
    [
        "Simonyan et al. 2013.",
        "Zeiler and Fergus 2013.",
        "Friedman 2001.",
        "See arXiv:1312.6034.",
        "See doi:10.1109/TIP.2021.3089943.",
        "See https://example.org/page.",
    ],
)
def test_what_is_a_source(doc):
    assert sourced(doc)


@pytest.mark.parametrize(
    "doc", [None, "The sign of the gradient.", "From 2013.", "Images of 2000 x 2000.", "arXiv, doi"]
)
def test_what_is_no_source(doc):
    assert not sourced(doc)
