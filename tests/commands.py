"""Runs the command line against a real server."""

import json

from typer.testing import CliRunner

from lightwell.cli.app import app


def run(address, *words, columns=200):
    """Exit code, standard output and standard error of a command that asks the server at that address."""
    environment = {"LIGHTWELL_SERVER": address, "COLUMNS": str(columns)}
    result = CliRunner().invoke(app, [str(word) for word in words], env=environment)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def told(outcome):
    """The JSON objects that a command printed."""
    code, out, error = outcome
    assert code == 0, error
    return [json.loads(line) for line in out.splitlines()]


def sentence(outcome, code):
    """The one sentence on standard error of a command that failed with that code."""
    assert (outcome[0], outcome[1]) == (code, "")
    assert outcome[2].startswith("lightwell: ") and outcome[2].count("\n") == 1
    return outcome[2]
