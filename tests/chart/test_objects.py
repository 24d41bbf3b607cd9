"""Every object that the chart renders is one that Kubernetes, or the operator that it is for, takes."""

import json
from functools import cache
from itertools import combinations, product

import kubernetes_validate
import pytest
from cloudcoil.models.keda import v1alpha1 as keda
from cloudcoil.models.prometheus_operator import v1 as prometheus
from rendering import CHART, HELMS, KUBERNETES, ROWS, SWITCHES, chosen, kubernetes_of, objects, run, template

CUSTOM = {
    "monitoring.coreos.com/v1": prometheus,
    "keda.sh/v1alpha1": keda,
}


@cache
def validate(text, kubernetes):
    """Raises for an object that this Kubernetes does not take."""
    found = json.loads(text)
    if models := CUSTOM.get(found["apiVersion"]):
        getattr(models, found["kind"]).model_validate(found, extra="forbid")
    else:
        kubernetes_validate.validate(found, kubernetes, strict=True)


def test_each_two_options_are_together_in_a_row():
    rows = [set(zip(SWITCHES, name.split("-")[1:], strict=True)) for name in ROWS]
    for one, other in combinations(SWITCHES, 2):
        for pair in product(SWITCHES[one], SWITCHES[other]):
            assert any({(one, pair[0]), (other, pair[1])} <= row for row in rows), (one, other, pair)


@pytest.mark.parametrize("row", ROWS)
def test_every_object_is_valid(row):
    found = objects(ROWS[row])
    assert len(found) >= 5
    for kubernetes in kubernetes_of(ROWS[row]):
        for each in found:
            validate(json.dumps(each, sort_keys=True), kubernetes)


def test_what_is_rendered_does_not_depend_on_kubernetes():
    """So that what one version takes may be what was rendered for another."""
    values = chosen(repository="copy", tls="mutual", scaling="hpa", monitor="pod", alerts="all", network="namespace")
    for kubernetes in KUBERNETES:
        assert objects(values, kubernetes=kubernetes) == objects(values)


@pytest.mark.parametrize("row", ROWS)
def test_both_helms_render_the_same(row):
    assert objects(ROWS[row], "helm3") == objects(ROWS[row], "helm4")


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize("row", list(ROWS)[:4])
def test_lint_has_nothing_to_say(row, helm):
    done = run(helm, "lint", "--strict", str(CHART), "--kube-version", "1.37", values=ROWS[row])
    assert done.returncode == 0 and "[WARNING]" not in done.stdout, done.stdout + done.stderr


def test_the_validators_see_a_field_that_is_not_there():
    """They are strict."""
    values = chosen(repository="bundled", scaling="keda", monitor="service", alerts="all")
    for each in objects(values):
        wrong = {**each, "spec": {**each["spec"], "wrong": 1}} if "spec" in each else {**each, "wrong": 1}
        with pytest.raises((kubernetes_validate.ValidationError, ValueError), match="wrong"):
            validate(json.dumps(wrong), "1.37")


def test_older_kubernetes_is_refused():
    done = template(chosen(repository="bundled"), kubernetes="1.26")
    assert "chart requires kubeVersion: >=1.27.0-0" in done.stderr
