"""Starts the very pod that Helm renders, with podman, and has it explain a picture: `make chart-run`. Twice: with
models of the node's disk and in the clear, then with copied models, TLS, certificates of callers, tokens and aliases.

podman has no Services and no probes that speak gRPC: the name of the Service is written into the hosts of the pod of
`helm test`, and callers on this machine use its ports."""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import yaml
from rendering import CHART, TOOLS, Object, Values, merged, only

ROOT = Path(__file__).parents[2]
BUNDLED = ROOT / "server" / "lightwell_server" / "bundled"
STAR = ROOT / "client" / "lightwell" / "samples" / "star.png"
SERVICE = "eyes-lightwell.vision.svc"
SERVER, TEST = "eyes-lightwell-pod", "eyes-lightwell-test"
"""What the names of podman's pods begin with."""
PORT = 51051
TOKEN = "known-to-this-run-alone"
TOKENS = f'[tester]\ntoken = "{TOKEN}"\nrights = ["explain"]\n'
CONTAINERS = """
[containers]
default_ulimits = []
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
"""
"""podman's configuration: it works inside a container, too, which has no systemd and may not raise its limits."""


def main() -> None:
    """Both runs. Raises where something is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", required=True, help="The server's image, as podman knows it: NAME:TAG.")
    parser.add_argument("--lightwell", required=True, help="The command line that asks the server.")
    words = parser.parse_args()
    if missing := [program for program in ("podman", "runc", "catatonit", "openssl") if not shutil.which(program)]:
        sys.exit(f"install what is missing: apt-get install {' '.join(missing)}")
    if os.geteuid():
        sys.exit("run it as root: podman sets up the pods' network and users")
    if subprocess.run(["podman", "image", "exists", words.image], check=False).returncode:
        sys.exit(f"podman has no image {words.image}: build it with `make image`, or name another one with IMAGE")
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder)
        (files / "containers.conf").write_text(CONTAINERS)
        os.environ["CONTAINERS_CONF"] = str(files / "containers.conf")
        print("-- models of the node, in the clear", flush=True)
        try_out(common(words.image, {"hostPath": {"path": str(BUNDLED)}}), [], [], words.lightwell, [])
        print("-- copied models, TLS, certificates of callers, tokens, aliases", flush=True)
        certificates(files)
        (files / "token").write_text(TOKEN)
        flags = ["--ca", "ca.crt", "--cert", "caller.crt", "--key", "caller.key", "--token-file", "token"]
        flags = [word if word.startswith("--") else str(files / word) for word in flags]
        try_out(closed(words.image), *secrets(files), words.lightwell, flags)


def common(image: str, repository: Values) -> Values:
    """Values of both runs."""
    name, _, tag = image.rpartition(":")
    return {
        "replicas": 1,
        "port": PORT,
        "healthPort": PORT + 1,
        "metrics": {"port": PORT + 2},
        "image": {"repository": name, "tag": tag, "pullPolicy": "Never"},
        "repository": repository,
        "settings": {"require_models": "shapes"},
        "tests": {"model": "shapes"},
    }


def closed(image: str) -> Values:
    """Everything that a server may ask of callers, and models from an image."""
    files = [file for file in BUNDLED.rglob("*") if file.is_file()]
    digests = {str(file.relative_to(BUNDLED)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    copied = {"image": image, "pullPolicy": "Never", "path": "/opt/lightwell/bundled", "sha256": digests}
    more = {
        "tls": {
            "enabled": True,
            "secretName": "server",
            "clientCertificates": {"enabled": True, "secretName": "server"},
        },
        "tokens": {"enabled": True, "secretName": "tokens"},
        "aliases": {"shapes": {"stable": "1"}},
        "tests": {
            "model": "shapes@stable",
            "ca": {"secretName": "caller"},
            "clientCertificate": {"secretName": "caller"},
            "token": {"secretName": "caller"},
        },
    }
    return merged(common(image, {"copy": copied}), more)


def try_out(values: Values, servers: list[Object], callers: list[Object], lightwell: str, flags: list[str]) -> None:
    """Starts the server's pod with its Secrets, asks it, looks at it, tests it from a second pod with the Secrets of a
    caller, and stops it."""
    begun = time.monotonic()
    found = rendered(values, "--no-hooks")
    # podman starts init containers again that have ended, if the pod's policy is to start containers again.
    only(found, "Deployment")["spec"]["template"]["spec"]["restartPolicy"] = "Never"
    with played([*servers, *found], SERVER):
        server = container(SERVER, "lightwell")
        asked = ["--server", f"localhost:{PORT}", *flags]
        ready([lightwell, "status", "--health", *asked])
        probed = PORT + 1 if values.get("tls") else PORT
        said([lightwell, "status", "--health", "--server", f"localhost:{probed}"])  # in the clear, as probes ask
        print(f"ready {time.monotonic() - begun:.1f} s after the start", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            print(said([lightwell, "explain", str(STAR), *asked, "--out", folder]).strip())
        restricted(server)
        testing = rendered(values, "--show-only", "templates/tests/explain.yaml")
        testing[0]["spec"]["hostAliases"] = [{"ip": address(server), "hostnames": [SERVICE]}]
        with played([*callers, *testing], TEST):
            test = container(TEST, "explain")
            code = podman("wait", test).strip()
            print(f"helm test: {podman('logs', test).strip()}", flush=True)
            assert code == "0", f"the test's pod ended with {code}"
        podman("stop", "--time", "40", server)
        code = podman("inspect", "--format", "{{.State.ExitCode}}", server).strip()
        assert code == "0", f"the server ended with {code}"
        print("stopped with exit code 0", flush=True)


def ready(health: list[str]) -> None:
    """Waits until a server says that it is healthy. Raises if it is not within three minutes."""
    until = time.monotonic() + 180
    while subprocess.run(health, capture_output=True, check=False).returncode:
        if time.monotonic() > until:
            raise RuntimeError("the server is not ready after three minutes")
        time.sleep(1)


def rendered(values: Values, *words: str) -> list[Object]:
    """What Helm renders of the chart."""
    helm = [TOOLS / "helm4", "template", "eyes", CHART, "--namespace", "vision", *words, "--values", "-"]
    return [each for each in yaml.safe_load_all(said(helm, json.dumps(values))) if each]


@contextmanager
def played(found: list[Object], pod: str) -> Iterator[None]:
    """What podman makes of these objects, until the end of the block."""
    text = yaml.safe_dump_all(found)
    with ExitStack() as after:
        for each in found:
            if each["kind"] == "Secret":
                after.callback(podman, "secret", "rm", each["metadata"]["name"])
        podman("play", "kube", "--start=false", "-", given=text)
        after.callback(forget, volumes(pod))
        after.callback(podman, "play", "kube", "--down", "-", given=text)
        written(found)
        podman("pod", "start", *podman("pod", "ps", "--filter", f"name=^{pod}", "--format", "{{.Name}}").split())
        try:
            yield
        except Exception:
            for name in containers(pod):
                print(f"the log of {name}:", flush=True)
                subprocess.run(["podman", "logs", name], check=False, stderr=subprocess.STDOUT)
            raise


def written(found: list[Object]) -> None:
    """Writes Secrets into the volumes that podman makes of them: before its version 4.4 it leaves them in base64."""
    for each in found:
        if each["kind"] == "Secret":
            folder = Path(podman("volume", "inspect", "--format", "{{.Mountpoint}}", each["metadata"]["name"]).strip())
            for key, coded in each["data"].items():
                (folder / key).write_bytes(b64decode(coded))


def containers(pod: str) -> list[str]:
    """The names of the containers of the pod whose name begins so; podman adds its own ending, which depends on its
    version."""
    return podman("ps", "--all", "--filter", f"name=^{pod}", "--format", "{{.Names}}").split()


def volumes(pod: str) -> list[str]:
    """podman's volumes of a pod: its volumes, and those that the image declares."""
    every = '{{range .Mounts}}{{if eq .Type "volume"}}{{.Name}} {{end}}{{end}}'
    return podman("inspect", "--format", every, *containers(pod)).split()


def forget(names: list[str]) -> None:
    """Removes those of some volumes that podman has left behind and no other pod uses."""
    left = set(names) & set(podman("volume", "ls", "--quiet", "--filter", "dangling=true").split())
    if left:
        podman("volume", "rm", *left)


def container(pod: str, name: str) -> str:
    """podman's name for a container of a pod."""
    (found,) = [each for each in containers(pod) if each.endswith(f"-{name}")]
    return found


def address(name: str) -> str:
    """The address of a container's pod."""
    pod = podman("inspect", "--format", "{{.Pod}}", name).strip()
    first = podman("pod", "inspect", "--format", "{{.InfraContainerID}}", pod).strip()
    return podman("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", first).strip()


def restricted(server: str) -> None:
    """Raises if the server could do more than a restricted pod may."""
    pid = podman("inspect", "--format", "{{.State.Pid}}", server).strip()
    lines = Path("/proc", pid, "status").read_text().splitlines()
    status = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    shown = {name: status[name][0] for name in ("Uid", "Gid", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp")}
    none = "0000000000000000"
    wanted = {"Uid": "10001", "Gid": "10001", "CapEff": none, "CapBnd": none, "NoNewPrivs": "1", "Seccomp": "2"}
    assert shown == wanted, shown
    inside = ["podman", "exec", server, "sh", "-c"]
    for path in ("/written", "/models/written", "/etc/lightwell/settings/written"):
        tried = subprocess.run([*inside, f"echo > {path}"], capture_output=True, text=True, check=False)
        assert tried.returncode and "Read-only file system" in tried.stderr, (path, tried)
    said([*inside, "echo > /tmp/written"])
    print(f"restricted: {shown}; only /tmp can be written", flush=True)


def certificates(files: Path) -> None:
    """An authority, and certificates of the server and of a caller."""
    openssl = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "1",
    ]
    said([*openssl, "-keyout", files / "ca.key", "-out", files / "ca.crt", "-subj", "/CN=authority"])
    signed = ["-CA", files / "ca.crt", "-CAkey", files / "ca.key", "-addext", "basicConstraints=critical,CA:false"]
    for name in ("server", "caller"):
        names = f"subjectAltName=DNS:{SERVICE},DNS:localhost"
        made = ["-keyout", files / f"{name}.key", "-out", files / f"{name}.crt", "-subj", f"/CN={name}"]
        said([*openssl, *signed, *made, "-addext", names])


def secrets(files: Path) -> tuple[list[Object], list[Object]]:
    """The Secrets that the values of the second run name: the server's, and the caller's."""

    def secret(name: str, **entries: str) -> Object:
        coded = {key: b64encode(text.encode()).decode() for key, text in entries.items()}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": coded}

    def pair(name: str) -> dict[str, str]:
        files_of = {"tls.crt": f"{name}.crt", "tls.key": f"{name}.key", "ca.crt": "ca.crt"}
        return {key: (files / file).read_text() for key, file in files_of.items()}

    servers = [secret("server", **pair("server")), secret("tokens", **{"tokens.toml": TOKENS})]
    return servers, [secret("caller", **pair("caller"), token=TOKEN)]


def podman(*words: str, given: str | None = None) -> str:
    """What podman prints."""
    return said(["podman", *words], given)


def said(command: list[str | Path], given: str | None = None) -> str:
    """What a program prints. Raises with what it complains about if it fails."""
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
