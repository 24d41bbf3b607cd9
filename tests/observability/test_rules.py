"""The chart's alerts and dashboard: the alerts are those of the documentation, and both ask for what the server has."""

import json
import re
from itertools import combinations
from pathlib import Path

import pytest
import yaml

from lightwell_server.observability.metrics import DeviceMetrics, GatewayMetrics
from tests.test_docs import described, exposed

ROOT = Path(__file__).parents[2]
FILES = ROOT / "helm" / "lightwell" / "files"
RULES = yaml.safe_load((FILES / "rules.yaml").read_text())["groups"][0]["rules"]
DASHBOARD = json.loads((FILES / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
CASES = yaml.safe_load((ROOT / "bench" / "monitoring" / "rules_test.yaml").read_text())["tests"]
ASKED = [rule["expr"] for rule in RULES] + [target["expr"] for panel in PANELS for target in panel["targets"]]
SELECTOR = re.compile(r"\b(up|(?:lightwell|process)_\w+)(?:\{([^}]*)\})?")
OUTSIDE = {"job", "instance", "namespace", "worker"}
"""Labels that a metric gets on its way: of the target, and of the process that it was read from."""

each_panel = pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])


def first_large(text):
    return text[0].upper() + text[1:]


def on_one_line(expression):
    return re.sub(r"\( | (?=\))", lambda found: found[0].strip(), " ".join(expression.split()))


def test_alerts_are_the_rows_of_the_table_of_what_to_watch():
    _, _, section = (ROOT / "docs" / "operating.md").read_text().partition("## What to watch")
    rows = [row for row in section.splitlines() if row.startswith("|")][2:]
    told = []
    for row in rows:
        name, expression, lasting, unit, means, do = re.fullmatch(
            r"\| `(\w+)` \| `([^`]+)`(?: for (\d+) ([mh]))? \| (.*) \| (.*) \|", row
        ).groups()
        told.append((f"Lightwell{name}", expression, f"{lasting}{unit}" if lasting else None, means, do))
    assert told
    assert [
        (name, expression, lasting, first_large(means), first_large(do))
        for name, expression, lasting, means, do in told
    ] == [
        (
            rule["alert"],
            on_one_line(rule["expr"]),
            rule.get("for"),
            rule["annotations"]["summary"],
            rule["annotations"]["description"],
        )
        for rule in RULES
    ]


def test_alerts_have_a_severity_that_can_be_routed_by():
    assert {rule["labels"]["severity"] for rule in RULES} == {"critical", "warning"}


@pytest.mark.parametrize("expression", ASKED)
def test_metrics_and_labels_are_those_of_the_server(expression):
    labels = {name: {*metric._labelnames, *OUTSIDE} for metric in described() for name in exposed(metric)}
    labels |= {name: {*known, "le"} for name, known in labels.items() if name.endswith("_bucket")}
    labels |= {"up": OUTSIDE}
    labels |= {
        s.name: OUTSIDE for f in GatewayMetrics().registry.collect() for s in f.samples if s.name[:8] == "process_"
    }
    found = SELECTOR.findall(expression)
    assert found
    for name, given in found:
        assert set(re.findall(r"(\w+)(?==|!=)", given)) <= labels[name]
    for grouped in re.findall(r"by \(([^)]*)\)", expression):
        assert set(grouped.split(", ")) <= set.union(*(labels[name] for name, _ in found))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_counters_whose_first_event_is_an_alert_stand_at_zero_from_the_start(rule):
    made = GatewayMetrics(("saliency",), 1, ("Explain",)), DeviceMetrics(("saliency",))
    samples = [sample for metrics in made for family in metrics.registry.collect() for sample in family.samples]
    for name, given in re.findall(r"(?:increase|rate)\((\w+_total)\{?([^}\[]*)", rule["expr"]):
        wanted = dict(re.findall(r'(\w+)="(\w+)"', given)).items()
        assert 0 in [each.value for each in samples if each.name == name and wanted <= each.labels.items()]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_cases_for_promtool_have_each_alert_fire_and_not_fire(rule):
    asked = [
        bool(each.get("exp_samples"))
        for case in CASES
        for each in case["promql_expr_test"]
        if f'alertname="{rule["alert"]}", alertstate="firing"' in each["expr"]
    ]
    assert set(asked) == {True, False}


@each_panel
def test_a_panel_says_what_it_shows(panel):
    assert panel["title"] and panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert all(target["legendFormat"] for target in panel["targets"])


@each_panel
def test_a_panel_asks_for_the_chosen_servers_at_the_chosen_source(panel):
    assert panel["datasource"]["uid"] == "${datasource}"
    for target in panel["targets"]:
        assert target["datasource"] == panel["datasource"]
        assert set(re.findall(r"\$\w+", target["expr"])) <= {"$job", "$instance", "$__rate_interval"}
        for _, given in SELECTOR.findall(target["expr"]):
            assert 'job=~"$job", instance=~"$instance"' in given


def test_the_dashboard_has_its_variables_and_no_panel_over_another():
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == ["datasource", "job", "instance"]
    for key in ("id", "title"):
        assert len({panel[key] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for one, other in combinations([panel["gridPos"] for panel in DASHBOARD["panels"]], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
