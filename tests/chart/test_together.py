"""What no schema sees: that the objects fit together."""

import re
import tomllib

import pytest
from rendering import ROWS, containers, objects, of_kind, only, pods

SERVICE = "lightwell.v1.ExplainerService"
RESTRICTED_VOLUMES = {"configMap", "emptyDir", "image", "persistentVolumeClaim", "secret"}
"""Kinds of volumes of the chart that restricted pod security takes."""


@pytest.fixture(params=ROWS)
def values(request):
    return ROWS[request.param]


@pytest.fixture
def found(values):
    return objects(values)


@pytest.fixture
def deployment(found):
    return only(found, "Deployment")


@pytest.fixture
def pod(deployment):
    return deployment["spec"]["template"]["spec"]


@pytest.fixture
def server(pod):
    (server,) = [each for each in pod["containers"] if each["name"] == "lightwell"]
    return server


@pytest.fixture
def settings(found):
    """The server's settings, those of its arguments included."""
    (config,) = [each for each in of_kind(found, "ConfigMap") if "lightwell.toml" in each["data"]]
    return tomllib.loads(config["data"]["lightwell.toml"])


def labelled(found):
    """Labels by what has them: the Deployment's pods, the test's pod, Services."""
    for each in found:
        if each["kind"] == "Deployment":
            yield "server", each["spec"]["template"]["metadata"]["labels"]
        elif each["kind"] == "Pod":
            yield "test", each["metadata"]["labels"]
        elif each["kind"] == "Service":
            yield each["metadata"]["name"], each["metadata"]["labels"]


def matched(selector, found):
    """What a selector finds."""
    labels = selector.get("matchLabels", selector)
    assert labels, "it would match everything"
    return {name for name, has in labelled(found) if labels.items() <= has.items()}


def ports(container):
    return {port["name"]: port["containerPort"] for port in container["ports"]}


def test_selectors_match_the_server_alone(found, deployment, pod):
    selectors = [deployment["spec"]["selector"]]
    selectors += [each["spec"]["selector"] for each in of_kind(found, "Service")]
    selectors += [each["spec"]["selector"] for each in of_kind(found, "PodDisruptionBudget")]
    selectors += [each["spec"]["podSelector"] for each in of_kind(found, "NetworkPolicy")]
    assert len(selectors) >= 3
    for selector in selectors:
        assert matched(selector, found) & {"server", "test"} == {"server"}
    for constraint in pod["topologySpreadConstraints"]:
        assert "server" in matched(constraint["labelSelector"], found)


def test_monitors_find_their_ports(found, server):
    for monitor in of_kind(found, "ServiceMonitor"):
        service = only(found, "Service", "-metrics")
        names = {each["metadata"]["name"] for each in of_kind(found, "Service")}
        assert matched(monitor["spec"]["selector"], found) & names == {service["metadata"]["name"]}
        (endpoint,) = monitor["spec"]["endpoints"]
        assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    for monitor in of_kind(found, "PodMonitor"):
        assert matched(monitor["spec"]["selector"], found) & {"server", "test"} == {"server"}
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        assert endpoint["port"] in ports(server)


def test_ports_are_those_that_the_server_listens_on(found, server, settings):
    listening = {"grpc": int(settings["address"].rpartition(":")[2]), "metrics": settings["metrics_port"]}
    if "health_address" in settings:
        listening["health"] = int(settings["health_address"].rpartition(":")[2])
    assert ports(server) == listening and len(set(listening.values())) == len(listening)
    for service in of_kind(found, "Service"):
        (port,) = service["spec"]["ports"]
        assert service["spec"]["clusterIP"] == "None"
        assert port["port"] == ports(server)[port["targetPort"]], "callers of a headless Service use the pods' port"
    for policy in of_kind(found, "NetworkPolicy"):
        for rule in policy["spec"]["ingress"]:
            assert rule["from"] and all(port["port"] in ports(server) for port in rule["ports"])


def test_the_test_may_call(values, found):
    for policy in of_kind(found, "NetworkPolicy"):
        calling = policy["spec"]["ingress"][0]["from"]
        selectors = [peer["podSelector"] for peer in calling if peer.get("podSelector")]
        assert [matched(each, found) for each in selectors] == [{"test"}] * len(of_kind(found, "Pod"))


def test_references_resolve(values, found):
    ours = {(each["kind"], each["metadata"]["name"]) for each in found}
    theirs = {("Secret", name) for name in named(values, "secretName")}
    theirs |= {("PersistentVolumeClaim", name) for name in named(values, "claimName")}
    account = values.get("serviceAccount", {})
    if account.get("create") is False:
        theirs.add(("ServiceAccount", account.get("name", "default")))
    for pod in pods(found):
        assert set(references(pod)) <= ours | theirs
    for each in of_kind(found, "HorizontalPodAutoscaler"):
        target = each["spec"]["scaleTargetRef"]
        assert (target["kind"], target["name"]) in ours
    for each in of_kind(found, "ScaledObject"):
        assert ("Deployment", each["spec"]["scaleTargetRef"]["name"]) in ours


def named(values, key):
    """All values of a key, at any depth."""
    for name, value in values.items():
        if name == key and value:
            yield value
        elif isinstance(value, dict):
            yield from named(value, key)


def references(pod):
    yield "ServiceAccount", pod["serviceAccountName"]
    for volume in pod.get("volumes", []):
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"]
        if "secret" in volume:
            yield "Secret", volume["secret"]["secretName"]
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]


def test_every_volume_is_mounted_and_every_mount_has_one(found):
    for pod in pods(found):
        volumes = [volume["name"] for volume in pod["volumes"]]
        mounts = [[mount["name"] for mount in each.get("volumeMounts", [])] for each in containers(pod)]
        assert len(set(volumes)) == len(volumes) and set(volumes) == {name for names in mounts for name in names}
        for each in containers(pod):
            paths = [mount["mountPath"] for mount in each.get("volumeMounts", [])]
            assert len(set(paths)) == len(paths)


def test_files_of_settings_are_mounted(found, pod, server, settings):
    mounts = {mount["mountPath"]: mount["name"] for mount in server["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    flags = dict(word.removeprefix("--").split("=") for word in server["args"])
    files = {flags.pop("config"), *(value for value in settings.values() if str(value).startswith("/"))}
    for file in files:
        folder, _, name = file.rpartition("/")
        volume = volumes[mounts[folder]]
        if "secret" in volume:
            assert name in {item["path"] for item in volume["secret"]["items"]}
        else:
            config = only(found, "ConfigMap", volume["configMap"]["name"])
            assert name in config["data"]
    assert "/models" in mounts or flags["repository"] == "/opt/lightwell/bundled"


def test_probes_have_one_handler_and_ask_a_port_without_tls(server, settings):
    asked = settings.get("health_address", settings["address"])
    names = {"startupProbe": "", "readinessProbe": SERVICE, "livenessProbe": ""}
    for probe, name in names.items():
        handlers = server[probe].keys() & {"grpc", "exec", "httpGet", "tcpSocket"}
        assert handlers == {"grpc"}
        assert server[probe]["grpc"] == {"port": int(asked.rpartition(":")[2]), "service": name}
    assert ("health_address" in settings) == ("tls_certificate" in settings)


def test_the_grace_time_is_settling_and_grace_and_five(pod, server, settings):
    exact = settings["settle_seconds"] + settings["grace_seconds"] + 5
    assert 0 <= pod["terminationGracePeriodSeconds"] - exact < 1
    assert settings["settle_seconds"] > 0 and "lifecycle" not in server


def test_pods_are_restricted(values, found):
    assert len(list(pods(found))) >= 1
    for pod in pods(found):
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True and context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"} & pod.keys()
        assert pod["automountServiceAccountToken"] is False and pod["enableServiceLinks"] is False
        kinds = {kind for volume in pod["volumes"] for kind in volume.keys() - {"name"}}
        asked = {"hostPath"} if "hostPath" in values["repository"] else set()
        assert kinds <= RESTRICTED_VOLUMES | asked
        for each in containers(pod):
            assert each["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert not any("hostPort" in port for port in each.get("ports", []))


def test_ids_are_numbers_of_no_system_user(values, found):
    """Unless they are left to the cluster."""
    for pod in pods(found):
        ids = {name: pod["securityContext"].get(name) for name in ("runAsUser", "runAsGroup", "fsGroup")}
        if "securityContext" in values:
            assert ids == dict.fromkeys(ids)
        else:
            assert all(type(number) is int and number >= 10000 for number in ids.values())


def test_what_is_written_is_in_memory_or_was_asked_for(values, found):
    for pod in pods(found):
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes["tmp"]["emptyDir"].keys() == {"medium", "sizeLimit"}
        assert volumes["tmp"]["emptyDir"]["medium"] == "Memory"
        for each in containers(pod):
            writable = {mount["name"] for mount in each.get("volumeMounts", []) if not mount.get("readOnly")}
            assert writable <= {
                "tmp",
                "scratch",
                *(["models"] if each["name"] in ("copy-models", "check-digests") else []),
            }


def test_accelerators_are_limits_and_pods_make_room_for_them(values, deployment, server, settings):
    strategy = deployment["spec"]["strategy"]["rollingUpdate"]
    gpu = {"count": 0, "resource": "nvidia.com/gpu", "device": "cuda", **values.get("gpu", {})}
    if not gpu["count"]:
        assert strategy == {"maxSurge": 1, "maxUnavailable": 0} and "devices" not in settings
        return
    assert strategy == {"maxSurge": 0, "maxUnavailable": 1}
    assert server["resources"]["limits"][gpu["resource"]] == gpu["count"]
    assert settings["devices"] == ",".join(f"{gpu['device']}:{number}" for number in range(gpu["count"]))


def test_one_thing_at_most_decides_how_many_pods_there_are(found, deployment):
    scalers = of_kind(found, "HorizontalPodAutoscaler") + of_kind(found, "ScaledObject")
    assert len(scalers) + ("replicas" in deployment["spec"]) == 1


def test_keda_asks_for_the_pods_of_this_release(found, deployment):
    for scaler in of_kind(found, "ScaledObject"):
        (trigger,) = scaler["spec"]["triggers"]
        (pattern,) = re.findall(r'pod=~"(.*?)"', trigger["metadata"]["query"])
        name = deployment["metadata"]["name"]
        assert re.fullmatch(pattern, f"{name}-6d4cf56db6-x7k2p")
        assert not re.fullmatch(pattern, f"{name}-canary-6d4cf56db6-x7k2p")
        assert 'namespace="vision"' in trigger["metadata"]["query"]


def test_images_are_pinned(found):
    for pod in pods(found):
        for each in containers(pod):
            assert re.search(r"@sha256:|:[^/:]+$", each["image"]) and not each["image"].endswith(":latest")


def test_what_is_passed_on_is_passed_on_as_it_is(values, found, pod, server):
    for name in (
        "affinity",
        "tolerations",
        "nodeSelector",
        "priorityClassName",
        "runtimeClassName",
        "imagePullSecrets",
    ):
        assert pod.get(name) == values.get(name)
    assert server.get("env") == values.get("extraEnv")
    for name, into in (("extraVolumes", pod["volumes"]), ("extraVolumeMounts", server["volumeMounts"])):
        assert all(each in into for each in values.get(name, []))
    assert pod["containers"][1:] == values.get("extraContainers", [])
    first = values.get("extraInitContainers", [])
    assert pod.get("initContainers", [])[: len(first)] == first
    if given := values.get("topologySpreadConstraints"):
        for constraint, shown in zip(given, pod["topologySpreadConstraints"], strict=True):
            assert {**shown, **constraint} == shown
    for policy in of_kind(found, "NetworkPolicy"):
        assert policy["spec"]["egress"] == values["networkPolicy"].get("egress", [])
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]


def test_every_object_has_its_labels_and_namespace(values, found):
    for each in found:
        metadata = each["metadata"]
        assert metadata["namespace"] == "vision"
        assert metadata["labels"]["app.kubernetes.io/instance"] == "eyes"
        assert values.get("labels", {}).items() <= metadata["labels"].items()
        assert values.get("annotations", {}).items() <= metadata.get("annotations", {}).items()


def test_names_are_unique(found):
    names = [(each["kind"], each["metadata"]["name"]) for each in found]
    assert len(set(names)) == len(names)
