"""The values: each is explained and in the schema, and one that is wrong is told in a sentence."""

import json
import re
from functools import reduce

import jsonschema
import pytest
import yaml
from rendering import CHART, DEFAULTS, HELMS, chosen, merged, template

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
TEXT = (CHART / "values.yaml").read_text()
ADDED = {("global",)}
"""What Helm itself adds to the values of every chart."""


def rule(found):
    """A rule of the schema, looked up where it is a reference."""
    return SCHEMA["definitions"][found["$ref"].rpartition("/")[2]] if "$ref" in found else found


def described(found=SCHEMA, path=()):
    """Every value of the schema with its rule: those that are groups of values, and the others."""
    for name, child in found["properties"].items():
        yield (*path, name), child
        if "properties" in rule(child):
            yield from described(rule(child), (*path, name))


DESCRIBED = dict(described())
GROUPS = [(), *(path for path, found in DESCRIBED.items() if "properties" in rule(found))]
LEAVES = [path for path, found in DESCRIBED.items() if "properties" not in rule(found)]
OPTIONAL = [path for path in LEAVES if path[0] == "settings" and path[1] not in ("settle_seconds", "grace_seconds")]
"""Settings of the server that the chart leaves to it."""


def lines(node=None, path=()):
    """The line of each value in values.yaml, counted from 0; what is within a value that is no group is left out."""
    for key, child in (node or yaml.compose(TEXT)).value:
        here = (*path, key.value)
        yield here, key.start_mark.line
        if here in GROUPS:
            yield from lines(child, here)


LINES = dict(lines())


def nested(path, value):
    return reduce(lambda inner, name: {name: inner}, reversed(path), value)


def test_every_value_is_in_the_schema_and_the_other_way_round():
    assert set(LINES) == set(DESCRIBED) - ADDED - set(OPTIONAL)


def test_every_value_has_a_comment_above_it():
    text = TEXT.splitlines()
    missing = []
    for path in set(LEAVES) - ADDED - set(OPTIONAL):
        above = text[LINES[path] - 1].strip()
        if not re.match(r"# \w", above):
            missing.append(".".join(path))
    assert not missing


def test_what_is_passed_on_verbatim_says_so_and_nothing_else_is_open():
    comments = {}
    text = TEXT.splitlines()
    for path in set(LEAVES) - ADDED - set(OPTIONAL):
        first = LINES[path]
        while text[first - 1].strip().startswith("#"):
            first -= 1
        comments[path] = " ".join(line.strip("# ") for line in text[first : LINES[path]])
    verbatim = {
        path for path in comments if DESCRIBED[path].get("$ref", "").rpartition("/")[2] in ("object", "objects")
    }
    assert {path for path, comment in comments.items() if "verbatim" in comment} == verbatim | {("nodeSelector",)}
    for path, found in DESCRIBED.items():
        if path not in verbatim | ADDED and rule(found).get("type") == "object":
            assert "additionalProperties" in rule(found), path


def test_the_defaults_fit_the_schema():
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.Draft7Validator(SCHEMA).validate(yaml.safe_load(TEXT))


@pytest.mark.parametrize("path", GROUPS, ids=".".join)
def test_a_misspelt_value_is_refused_at_every_level(path):
    for helm in HELMS:
        done = template(merged(DEFAULTS, nested((*path, "misspelt"), 1)), helm)
        assert done.returncode and re.search("(?i)additional propert.*misspelt", done.stderr)


@pytest.mark.parametrize("path", sorted(set(LEAVES) - ADDED), ids=".".join)
def test_a_value_of_another_type_is_refused(path):
    wrong = nested(path, [[]])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(merged(yaml.safe_load(TEXT), wrong), SCHEMA)


BAD = {
    "nothing": ({}, "the repository is empty: set where the models come from"),
    "two repositories": (
        merged(DEFAULTS, {"repository": {"hostPath": {"path": "/srv"}}}),
        "the repository has several sources: set only one of",
    ),
    "no digests": ({"repository": {"copy": {"image": "models:1"}}}, "repository.copy.sha256 is empty: list each file"),
    "a digest that is none": (
        {"repository": {"copy": {"image": "models:1", "sha256": {"net/1/model.pt": "abc"}}}},
        "(?i)sha256.*does not match pattern",
    ),
    "no Secret of TLS": (merged(DEFAULTS, {"tls": {"enabled": True}}), "tls.secretName is empty: name a Secret"),
    "mTLS without TLS": (
        merged(DEFAULTS, {"tls": {"clientCertificates": {"enabled": True, "secretName": "ca"}}}),
        "tls.enabled is not: set tls.enabled=true",
    ),
    "no Secret of authorities": (
        merged(DEFAULTS, {"tls": {"enabled": True, "secretName": "tls", "clientCertificates": {"enabled": True}}}),
        "tls.clientCertificates.secretName is empty: name a Secret",
    ),
    "no certificate for the test": (
        merged(chosen(repository="bundled", tls="mutual"), {"tests": {"clientCertificate": {"secretName": ""}}}),
        "tests.clientCertificate.secretName is empty: name a Secret .* or set tests.enabled=false",
    ),
    "no Secret of tokens": (
        merged(DEFAULTS, {"tokens": {"enabled": True}}),
        "tokens.secretName is empty: name a Secret",
    ),
    "no token for the test": (
        merged(DEFAULTS, {"tokens": {"enabled": True, "secretName": "tokens"}}),
        "tests.token.secretName is empty: name a Secret .* or set tests.enabled=false",
    ),
    "two scalers": (
        merged(DEFAULTS, {"autoscaling": {"hpa": {"enabled": True}, "keda": {"enabled": True}}}),
        "autoscaling.hpa and autoscaling.keda are both enabled.*: enable only one",
    ),
    "no Prometheus": (
        merged(DEFAULTS, {"autoscaling": {"keda": {"enabled": True}}}),
        "autoscaling.keda.prometheusAddress is empty: set where Prometheus answers",
    ),
    "more at least than at most": (
        merged(DEFAULTS, {"autoscaling": {"minReplicas": 5, "maxReplicas": 3}}),
        "minReplicas is 5 and autoscaling.maxReplicas is 3",
    ),
    "two monitors": (
        merged(DEFAULTS, {"metrics": {"serviceMonitor": {"enabled": True}, "podMonitor": {"enabled": True}}}),
        "both enabled, and everything would be counted twice: enable only one",
    ),
    "one port twice": (merged(DEFAULTS, {"port": 9464}), "are 9464, 50052 and 9464: each has to be another one"),
    "traces that are kept in": (
        merged(DEFAULTS, {"networkPolicy": {"enabled": True}, "settings": {"otlp_endpoint": "http://collector:4317"}}),
        "networkPolicy lets nothing out: list the collector",
    ),
    "a setting in the environment": (
        merged(DEFAULTS, {"extraEnv": [{"name": "LIGHTWELL_GRACE_SECONDS", "value": "600"}]}),
        "put grace_seconds under settings",
    ),
    "a setting that is none": (
        merged(DEFAULTS, {"settings": {"max_jbs": 3}}),
        "(?i)settings.*additional propert.*max_jbs",
    ),
    "a setting that the chart makes": (
        merged(DEFAULTS, {"settings": {"address": "0.0.0.0:1"}}),
        "(?i)settings.*additional propert.*address",
    ),
    "a setting out of bounds": (
        merged(DEFAULTS, {"settings": {"max_jobs": 0}}),
        "(?i)max_jobs.*greater than|max_jobs.*exclusiveMinimum",
    ),
    "a word for a number": (merged(DEFAULTS, {"replicas": "two"}), "(?i)replicas.*integer"),
    "root": (
        merged(DEFAULTS, {"securityContext": {"runAsUser": 0}}),
        "(?i)runAsUser.*(minimum|greater than or equal to)",
    ),
}


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_told(name, helm):
    values, sentence = BAD[name]
    done = template(values, helm)
    assert done.returncode and re.search(sentence, done.stderr), done.stderr


@pytest.mark.parametrize("helm", HELMS)
def test_image_volumes_of_an_older_kubernetes_are_told(helm):
    done = template(chosen(repository="image"), helm, "1.30")
    assert re.search(r"needs Kubernetes 1.31 or later, and this is v1.30(.0)?: use repository.copy", done.stderr)
