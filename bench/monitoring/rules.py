"""The chart's rules: checked and tried by promtool, and looked at where they are evaluated."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

from bench.monitoring.stack import Prometheus

ROOT = Path(__file__).parents[2]
RULES = ROOT / "helm" / "lightwell" / "files" / "rules.yaml"
CASES = Path(__file__).with_name("rules_test.yaml")
FASTER = 15
SHORT = "Short"
"""What is added to the names of the rules that are FASTER."""
UNITS = {"s": 1, "m": 60, "h": 3600}
DURATION = re.compile(r"\b(\d+)([smh])\b")
SELECTOR = re.compile(r"\b((?:up|lightwell_\w+|process_\w+)(?:\{[^}]*\})?)")


def promtool(what: str, path: Path) -> None:
    """Has promtool `check` or `test` a file of rules. Raises ValueError with what it finds wrong."""
    done = subprocess.run(["promtool", what, "rules", str(path)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"promtool {what} rules {path}: {done.stdout}{done.stderr}")


def cases() -> int:
    """How many times promtool is asked whether an alert fires."""
    return sum(len(case["promql_expr_test"]) for case in yaml.safe_load(CASES.read_text())["tests"])


def shortened(text: str) -> str:
    """Rules whose windows and durations are FASTER times shorter, under names of their own: an alert that looks at the
    last quarter of an hour can then be waited for until it is over."""
    rules: dict[str, Any] = yaml.safe_load(text)
    for group in rules["groups"]:
        group["name"] += "-short"
        for rule in group["rules"]:
            rule["alert"] += SHORT
            for key in {"expr", "for"} & rule.keys():
                rule[key] = DURATION.sub(
                    lambda found: f"{int(found[1]) * UNITS[found[2]] * 1000 // FASTER}ms", rule[key]
                )
    return yaml.safe_dump(rules)


def evaluated(prometheus: Prometheus) -> list[tuple[str, str, float, int, str]]:
    """Of each rule its name, how its last evaluation went, the milliseconds that took, the series that it looks at
    (the fewest of its selectors), and its state."""
    found = []
    for rule in prometheus.rules():
        seen = min(int(prometheus.number(f"count({selector})")) for selector in SELECTOR.findall(rule["query"]))
        health = rule.get("lastError") or rule["health"]
        found.append((rule["name"], health, 1000 * rule["evaluationTime"], seen, rule["state"]))
    return found
