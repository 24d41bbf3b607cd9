"""What the documentation names exists: metrics, flags, reasons, links."""

import ast
import re
from pathlib import Path

import pytest
from prometheus_client.metrics import MetricWrapperBase
from typer.main import get_command

from lightwell.cli import app
from lightwell_server import errors
from lightwell_server.catalog import catalog
from lightwell_server.config import Settings
from lightwell_server.observability.metrics import DeviceMetrics, GatewayMetrics

ROOT = Path(__file__).parents[1]
SERVER = ROOT / "server" / "lightwell_server"
SERVICE = ROOT / "docs" / "service.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
INSIDE = {"BAD_CARD", "CHECK_FAILED"}
"""Reasons for which a file is refused: callers are told MODEL_REFUSED and the sentence."""

OTHERS = r"(?m)^(?:docker|helm|make|podman) (?:.*\\\n)*.*$"
"""Commands of other programs, which have flags of their own."""

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def described() -> list[MetricWrapperBase]:
    values = (value for made in (GatewayMetrics(), DeviceMetrics()) for value in vars(made).values())
    return [value for value in values if isinstance(value, MetricWrapperBase)]


def exposed(metric: MetricWrapperBase) -> set[str]:
    """The names under which Prometheus knows a metric."""
    (family,) = metric.describe()
    return {shown(metric)} | {family.name + suffix for suffix in SUFFIXES[family.type]}


def shown(metric: MetricWrapperBase) -> str:
    """The name under which the page of reference has it."""
    (family,) = metric.describe()
    return family.name + ("_total" if family.type == "counter" else "")


@each_page
def test_metrics_that_are_named_exist(page):
    named = set(re.findall(r"lightwell_[a-z_]+[a-z]", page.read_text()))
    known = {name for metric in described() for name in exposed(metric)} | {"lightwell_server"}
    assert named <= known


def test_every_metric_has_its_line_and_its_labels():
    rows = re.findall(r"^\| (`lightwell_.*?) \| (\w+) \|(.*?)\|$", SERVICE.read_text(), re.MULTILINE)
    found = {name: (kind, labels) for names, kind, labels in rows for name in re.findall(r"`(\w+)`", names)}
    assert set(found) == {shown(metric) for metric in described()}
    for metric in described():
        kind, labels = found[shown(metric)]
        assert kind == metric._type
        for label in metric._labelnames:
            assert re.search(rf"\b{label}\b", labels), f"{shown(metric)} has the label {label}"


def flags() -> set[str]:
    """All that a command of ours takes."""
    found = {f"--{name.replace('_', '-')}" for name in Settings.model_fields} | {"--help"}
    commands = [get_command(app)]
    for command in commands:
        commands += getattr(command, "commands", {}).values()
        found |= {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return found


@each_page
def test_flags_that_are_named_exist(page):
    ours = re.sub(OTHERS, "", page.read_text())
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", ours)) <= flags()


def reasons() -> set[str]:
    """All reasons that the server's source gives to its errors: by name, or by the default of what is raised."""
    kinds = {kind.__name__: kind for kind in vars(errors).values() if isinstance(kind, type)}
    found = set()
    for path in SERVER.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            given = [word.value for word in node.keywords if word.arg == "reason"]
            named = node.func.value if isinstance(node.func, ast.Attribute) else node.func
            kind = kinds.get(named.id) if isinstance(named, ast.Name) else None
            if kind is not None and issubclass(kind, errors.LightwellError) and len(node.args) < 2:
                found |= {ast.literal_eval(given[0])} if given else {kind("").reason}
    return found


def test_reasons_are_those_of_the_source():
    rows = re.findall(r"^\| [A-Z_]+ \| ([A-Z_, ]+) \|", SERVICE.read_text(), re.MULTILINE)
    assert {reason for row in rows for reason in row.split(", ")} == reasons() - INSIDE


def anchors(page: Path) -> set[str]:
    """The headings of a page as links name them."""
    heads = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads}


def told_methods() -> dict[str, str]:
    """The lines of the tables of methods, by their names."""
    _, _, tables = (ROOT / "docs" / "methods.md").read_text().partition("## Pixels")
    return dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", tables, re.MULTILINE))


@pytest.mark.parametrize("name", sorted(catalog()))
def test_every_method_has_its_line_with_every_parameter(name):
    line = told_methods()[name]
    named = set(re.findall(r"`(\w+)`", line))
    fields = catalog()[name].checked.model_fields
    assert set(fields) <= named | {"color"}
    for parameter, field in fields.items():
        shown = re.search(rf"`{parameter}`[^`]*?\(([^()]*)\)", line)
        if shown and isinstance(field.default, bool | int | float | str) and parameter not in ("epsilon", "step"):
            assert str(field.default).lower() in shown.group(1).lower().split(", ")[0], parameter


def test_no_method_is_told_of_that_does_not_exist():
    assert set(told_methods()) == set(catalog())


@each_page
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if not target.startswith("http"):
            name, _, anchor = target.partition("#")
            other = (page.parent / name).resolve() if name else page
            assert other.exists(), target
            assert not anchor or anchor in anchors(other), target


def test_every_benchmark_is_in_their_readme():
    told = set(re.findall(r"^\| `python -m bench\.(\w+)", (ROOT / "bench" / "README.md").read_text("utf-8"), re.M))
    assert told == {path.stem for path in (ROOT / "bench").glob("*.py")} - {"__init__"}


@pytest.mark.parametrize(
    "page",
    sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("findings/*.md"), *ROOT.glob("bench/*.md")}),
    ids=lambda page: page.stem,
)
def test_prose_wraps_at_120(page):
    prose = re.sub(r"(?ms)^ *```.*?^ *```$", "", page.read_text("utf-8"))
    assert not [line for line in prose.splitlines() if len(line) > 120 and not line.startswith("|")]
