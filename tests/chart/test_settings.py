"""The server accepts the settings that the chart writes for it: LIGHTWELL names the program."""

import json
import os
import subprocess
import tomllib

import pytest
from rendering import CHART, DEFAULTS, ROWS, chosen, merged, objects, of_kind, only

SERVED = ["repository", "config", "print_config"]
"""What the pod gives by arguments."""
DERIVED = {
    "address",
    "aliases",
    "devices",
    "health_address",
    "metrics_port",
    "tls_certificate",
    "tls_client_ca",
    "tls_key",
    "tokens",
}
"""What follows from other values."""
SCHEMA = json.loads((CHART / "values.schema.json").read_text())["properties"]["settings"]["properties"]


def written(values):
    """The file of settings."""
    (config,) = [each for each in of_kind(objects(values), "ConfigMap") if "lightwell.toml" in each["data"]]
    return config["data"]["lightwell.toml"]


def printed(file, server):
    """What the server makes of a file, called as in the pod."""
    args = [word for word in server["args"] if not word.startswith("--config=")]
    command = [os.environ["LIGHTWELL"], *server["command"][1:], f"--config={file}", *args, "--print-config"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return tomllib.loads(done.stdout)


def example(rule):
    """A value that the schema takes."""
    if "enum" in rule:
        return rule["enum"][-1]
    return {"boolean": False, "integer": 7, "number": 2.25, "string": 'a "name"'}[rule["type"]]


EXAMPLES = {
    "every setting": merged(DEFAULTS, {"settings": {name: example(rule) for name, rule in SCHEMA.items()}}),
    "every switch": chosen(
        repository="claim", tls="mutual", tokens="on", gpu="two", monitor="pod", aliases="some", further="everything"
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_server_takes_what_the_chart_writes(name, tmp_path):
    values = EXAMPLES[name]
    pod = only(objects(values), "Deployment")["spec"]["template"]["spec"]
    (server,) = [each for each in pod["containers"] if each["name"] == "lightwell"]
    file = tmp_path / "lightwell.toml"
    file.write_text(written(values))
    wanted = tomllib.loads(written(values))
    found = printed(file, server)
    assert wanted.items() <= found.items() and len(wanted) >= 4


def test_the_schema_has_the_settings_of_the_server_with_their_bounds(tmp_path):
    """Of the server's own schema what a value may be, without words and defaults."""
    code = "import json; from lightwell_server.config import Settings; print(json.dumps(Settings.model_json_schema()))"
    python = [os.environ["LIGHTWELL_PYTHON"], "-c", code]
    server = json.loads(subprocess.run(python, capture_output=True, text=True, check=True).stdout)["properties"]
    kept = {"type", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
    wanted = {}
    for name in server.keys() - DERIVED - set(SERVED):
        rule = next((part for part in server[name].get("anyOf", []) if part["type"] != "null"), server[name])
        wanted[name] = {key: value for key, value in rule.items() if key in kept}
    assert wanted == SCHEMA


def test_what_is_derived_is_no_setting_of_ones_own():
    for row in ROWS.values():
        keys = tomllib.loads(written(row)).keys() - row.get("settings", {}).keys()
        assert keys <= DERIVED | {"settle_seconds", "grace_seconds"}
