"""Names of the chart, and the version in it."""

import tomllib

import pytest
import yaml
from rendering import CHART, DEFAULTS, chosen, merged, objects, of_kind, run

MONITORED = chosen(repository="bundled", monitor="service", alerts="all", aliases="some", scaling="keda")


@pytest.mark.parametrize("values", [{}, {"fullnameOverride": 70 * "n"}, {"nameOverride": 70 * "n"}], ids=str)
def test_names_are_short_enough(values):
    found = run(
        "helm4", "template", 53 * "r", str(CHART), "--kube-version", "1.37", values=merged(MONITORED, values)
    ).stdout
    names = [each["metadata"]["name"] for each in yaml.safe_load_all(found) if each]
    assert len(names) >= 8 and max(map(len, names)) <= 63
    labels = [value for each in yaml.safe_load_all(found) if each for value in each["metadata"]["labels"].values()]
    assert max(map(len, labels)) <= 63


@pytest.mark.parametrize("kind", ["ServiceMonitor", "PodMonitor"])
def test_alerts_know_the_job_whatever_the_release_is_called(kind):
    monitor = chosen(repository="bundled", monitor=kind.removesuffix("Monitor").lower())
    (found,) = of_kind(objects(merged(monitor, {"fullnameOverride": "explainer"})), kind)
    (endpoint,) = found["spec"].get("endpoints") or found["spec"]["podMetricsEndpoints"]
    assert endpoint["relabelings"][0] == {"targetLabel": "job", "replacement": "lightwell/explainer"}


def test_a_release_called_so_has_no_double_name():
    done = run("helm4", "template", "lightwell", str(CHART), "--show-only", "templates/service.yaml", values=DEFAULTS)
    assert yaml.safe_load(done.stdout)["metadata"]["name"] == "lightwell"


def test_the_chart_is_of_the_projects_version():
    project = tomllib.loads((CHART.parents[1] / "pyproject.toml").read_text())["project"]
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == project["version"]
