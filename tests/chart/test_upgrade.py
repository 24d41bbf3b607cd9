"""An upgrade from the defaults to any other choice changes nothing that Kubernetes does not let change."""

import pytest
from rendering import DEFAULTS, ROWS, objects, of_kind

FIXED = {
    "Deployment": [("spec", "selector")],
    "Service": [("spec", "clusterIP"), ("spec", "type")],
    "ConfigMap": [("immutable",)],
}
"""Fields that cannot be changed once an object is there; a Service's type can, its headlessness with it cannot."""


def field(found, path):
    for name in path:
        found = found.get(name, {})
    return found


@pytest.mark.parametrize("row", ROWS)
def test_what_cannot_change_stays(row):
    old, new = objects(DEFAULTS), objects(ROWS[row])
    compared = 0
    for kind, paths in FIXED.items():
        after = {each["metadata"]["name"]: each for each in of_kind(new, kind)}
        for before in of_kind(old, kind):
            for path in paths:
                assert field(before, path) == field(after[before["metadata"]["name"]], path), (kind, path)
                compared += 1
    assert compared == 6  # a Deployment, two Services, a ConfigMap


@pytest.mark.parametrize("row", ROWS)
def test_pods_are_still_found_by_the_selector_from_before(row):
    (before,), (after,) = of_kind(objects(DEFAULTS), "Deployment"), of_kind(objects(ROWS[row]), "Deployment")
    labels = after["spec"]["template"]["metadata"]["labels"]
    assert before["spec"]["selector"]["matchLabels"].items() <= labels.items()
