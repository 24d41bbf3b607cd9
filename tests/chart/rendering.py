"""Renders the chart, each choice of values once, and the table of choices."""

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from allpairspy import AllPairs

CHART = Path(__file__).parents[2] / "helm" / "lightwell"
TOOLS = Path(sys.executable).parent
HELMS = ("helm3", "helm4")
KUBERNETES = ("1.27", "1.31", "1.34", "1.37")
IMAGE_VOLUMES = "1.31"
"""The first Kubernetes that has them."""

Values = dict[str, Any]
Object = dict[str, Any]

PEER = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "web"}}}
SIDECAR = {
    "name": "beside",
    "image": "registry.example.com/beside:1.0",
    "resources": {"limits": {"memory": "64Mi"}},
    "securityContext": {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    },
}
SCRAPED = {
    "enabled": True,
    "labels": {"release": "prometheus"},
    "relabelings": [{"targetLabel": "cluster", "replacement": "one"}],
    "metricRelabelings": [{"sourceLabels": ["le"], "regex": "0.001", "action": "drop"}],
}

SWITCHES: dict[str, dict[str, Values]] = {
    "repository": {
        "bundled": {"repository": {"bundled": True}},
        "claim": {"repository": {"persistentVolumeClaim": {"claimName": "models", "subPath": "vision"}}},
        "image": {"repository": {"image": {"reference": "registry.example.com/models:7"}}},
        "copy": {
            "repository": {
                "copy": {"image": "registry.example.com/models:7", "sha256": {"net/1/model.pt": 64 * "a"}},
            }
        },
        "fetched": {
            "repository": {
                "copy": {
                    "image": "registry.example.com/fetch:2",
                    "command": ["fetch", "--into", "/target"],
                    "env": [{"name": "BUCKET", "value": "models"}],
                    "sha256": {"net/1/model.pt": 64 * "b", "net/1/card.toml": 64 * "c"},
                    "sizeLimit": "500Mi",
                }
            }
        },
        "path": {"repository": {"hostPath": {"path": "/srv/models"}}},
    },
    "tls": {
        "plain": {},
        "tls": {"tls": {"enabled": True, "secretName": "server-tls"}},
        "mutual": {
            "tls": {
                "enabled": True,
                "secretName": "server-tls",
                "certificateKey": "chain.pem",
                "privateKeyKey": "key.pem",
                "clientCertificates": {"enabled": True, "secretName": "callers", "key": "roots.pem"},
            },
            "tests": {"ca": {"secretName": "authority"}, "clientCertificate": {"secretName": "caller"}},
        },
    },
    "tokens": {
        "off": {},
        "on": {
            "tokens": {"enabled": True, "secretName": "tokens", "key": "file"},
            "tests": {"token": {"secretName": "token"}},
        },
    },
    "scaling": {
        "fixed": {"replicas": 3},
        "hpa": {"autoscaling": {"hpa": {"enabled": True}}},
        "keda": {
            "autoscaling": {
                "minReplicas": 1,
                "targetQueueSeconds": 8,
                "behavior": {"scaleDown": {"stabilizationWindowSeconds": 600}},
                "keda": {
                    "enabled": True,
                    "prometheusAddress": "http://prometheus.monitoring.svc:9090",
                    "authenticationName": "prometheus",
                },
            }
        },
    },
    "gpu": {
        "none": {},
        "two": {"gpu": {"count": 2}, "image": {"tag": "0.1.0-cuda"}, "runtimeClassName": "nvidia"},
        "other": {"gpu": {"count": 1, "resource": "example.com/xpu", "device": "xpu"}, "resources": {}},
    },
    "monitor": {
        "none": {},
        "service": {"metrics": {"serviceMonitor": SCRAPED}},
        "pod": {"metrics": {"podMonitor": SCRAPED, "port": 9000}},
    },
    "alerts": {
        "none": {},
        "all": {
            "metrics": {
                "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
                "dashboard": {"enabled": True, "annotations": {"grafana_folder": "Models"}},
            }
        },
    },
    "network": {
        "open": {},
        "namespace": {"networkPolicy": {"enabled": True}},
        "closed": {
            "networkPolicy": {
                "enabled": True,
                "from": [PEER],
                "metricsFrom": [PEER],
                "egress": [{"to": [PEER], "ports": [{"port": 4317}]}],
            },
            "settings": {"otlp_endpoint": "http://collector.web.svc:4317"},
        },
    },
    "disruption": {
        "one": {},
        "share": {"podDisruptionBudget": {"maxUnavailable": "25%"}},
        "off": {"podDisruptionBudget": {"enabled": False}},
    },
    "account": {
        "created": {},
        "existing": {"serviceAccount": {"create": False, "name": "shared"}},
        "default": {"serviceAccount": {"create": False}},
        "named": {"serviceAccount": {"name": "explainer", "annotations": {"example.com/role": "reader"}}},
    },
    "aliases": {"none": {}, "some": {"aliases": {"net": {"stable": "1", "next": "2"}, 'odd "name"': {"old": "0.9"}}}},
    "ids": {"fixed": {}, "cluster": {"securityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None}}},
    "place": {
        "anywhere": {},
        "chosen": {
            "nodeSelector": {"disk": "fast"},
            "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "Exists"}]}]
                    }
                }
            },
            "priorityClassName": "serving",
            "topologySpreadConstraints": [
                {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule"},
                {
                    "maxSkew": 2,
                    "topologyKey": "kubernetes.io/hostname",
                    "whenUnsatisfiable": "ScheduleAnyway",
                    "labelSelector": {"matchLabels": {"app.kubernetes.io/name": "lightwell"}},
                },
            ],
        },
    },
    "further": {
        "nothing": {},
        "everything": {
            "labels": {"team": "vision"},
            "annotations": {"example.com/owner": "vision"},
            "podLabels": {"zone": "blue"},
            "podAnnotations": {"example.com/log": "json"},
            "imagePullSecrets": [{"name": "registry"}],
            "extraEnv": [{"name": "OMP_WAIT_POLICY", "value": "passive"}],
            "extraVolumes": [{"name": "scratch", "emptyDir": {}}],
            "extraVolumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
            "extraContainers": [SIDECAR],
            "extraInitContainers": [{**SIDECAR, "name": "before"}],
            "settings": {"settle_seconds": 2.5, "grace_seconds": 120, "max_jobs": 67108864, "reflection": False},
        },
    },
    "test": {"on": {}, "off": {"tests": {"enabled": False}}},
}


def merged(*parts: Values) -> Values:
    """Values over values, as Helm merges them."""
    whole: Values = {}
    for part in parts:
        for name, value in part.items():
            if isinstance(value, dict) and isinstance(whole.get(name), dict):
                whole[name] = merged(whole[name], value)
            else:
                whole[name] = value
    return whole


def chosen(**options: str) -> Values:
    """The values of some switches."""
    return merged(*(SWITCHES[switch][option] for switch, option in options.items()))


def _rows() -> Iterator[tuple[str, Values]]:
    for number, row in enumerate(AllPairs([list(options) for options in SWITCHES.values()])):
        names = dict(zip(SWITCHES, row, strict=True))
        yield f"{number}-" + "-".join(row), chosen(**names)


ROWS = dict(_rows())
"""Choices of values by name. Each two options of two switches are together in one of them."""
DEFAULTS = SWITCHES["repository"]["bundled"]


def kubernetes_of(values: Values) -> tuple[str, ...]:
    """The versions of Kubernetes that take these values."""
    if values["repository"].get("image"):
        return tuple(version for version in KUBERNETES if version >= IMAGE_VOLUMES)
    return KUBERNETES


def run(helm: str, *words: str, values: Values | None = None) -> subprocess.CompletedProcess[str]:
    """Runs Helm, with values as a file on standard input."""
    command = [str(TOOLS / helm), *words, *(["--values", "-"] if values is not None else [])]
    return subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=False, timeout=60)


def template(values: Values, helm: str = "helm4", kubernetes: str = "1.37") -> subprocess.CompletedProcess[str]:
    """What Helm says to these values."""
    return run(
        helm, "template", "eyes", str(CHART), "--namespace", "vision", "--kube-version", kubernetes, values=values
    )


@cache
def _objects(values: str, helm: str, kubernetes: str) -> str:
    done = template(json.loads(values), helm, kubernetes)
    assert done.returncode == 0, done.stderr
    return done.stdout


@cache
def _parsed(text: str) -> list[Object]:
    return [found for found in yaml.load_all(text, yaml.CSafeLoader) if found]


def objects(values: Values, helm: str = "helm4", kubernetes: str = "1.37") -> list[Object]:
    """The objects that Helm renders; not to be changed."""
    return _parsed(_objects(json.dumps(values, sort_keys=True), helm, kubernetes))


def of_kind(found: list[Object], kind: str) -> list[Object]:
    """Those of a kind."""
    return [each for each in found if each["kind"] == kind]


def only(found: list[Object], kind: str, ending: str = "") -> Object:
    """The one of a kind whose name ends so."""
    (one,) = [each for each in of_kind(found, kind) if each["metadata"]["name"].endswith(ending)]
    return one


def pods(found: list[Object]) -> Iterator[Object]:
    """The specifications of all pods."""
    for each in found:
        if each["kind"] == "Pod":
            yield each["spec"]
        elif "template" in each.get("spec", {}):
            yield each["spec"]["template"]["spec"]


def containers(pod: Object) -> list[Object]:
    """All containers of a pod, those of its start included."""
    return [*pod.get("initContainers", []), *pod["containers"]]
