"""What Helm prints after an install, and what the chart's programs do."""

import hashlib
import json
import subprocess
import sys

import pytest
from rendering import CHART, chosen, run


def notes(values):
    """Helm 4 renders them without a cluster, Helm 3 does not."""
    done = run("helm4", "install", "eyes", str(CHART), "--namespace", "vision", "--dry-run=client", values=values)
    assert done.returncode == 0, done.stderr
    return done.stdout.partition("NOTES:\n")[2]


def test_notes_tell_how_to_ask():
    told = notes(chosen(repository="bundled", tls="mutual", tokens="on"))
    assert "kubectl --namespace vision port-forward deployment/eyes-lightwell 50051\n" in told
    assert (
        "lightwell explain cat.jpg --server eyes-lightwell.vision.svc:50051"
        " --ca ca.crt --cert tls.crt --key tls.key --token-file token\n"
    ) in told
    assert "helm test eyes --namespace vision\n" in told and "Without tokens" not in told


def test_notes_warn_of_what_is_open():
    assert "Without tokens.enabled whoever reaches the port may do everything" in notes(chosen(repository="path"))
    assert "repository.hostPath is for tries" in notes(chosen(repository="path"))
    assert "Tokens without tls.enabled travel in the clear" in notes(chosen(repository="claim", tokens="on"))
    assert "helm test" not in notes(chosen(repository="claim", test="off"))


def check(root, wanted):
    program = (CHART / "files" / "check_digests.py").read_text()
    command = [sys.executable, "-c", program, str(root), json.dumps(wanted)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def models(tmp_path):
    (tmp_path / "net" / "1").mkdir(parents=True)
    (tmp_path / "net" / "1" / "model.pt").write_bytes(b"weights")
    return tmp_path


RIGHT = {"net/1/model.pt": hashlib.sha256(b"weights").hexdigest()}


def test_files_with_their_digests_pass(models):
    done = check(models, RIGHT)
    assert (done.returncode, done.stdout) == (0, "1 files have their digests\n")


def test_each_file_that_is_wrong_is_told(models):
    (models / "net" / "1" / "card.toml").write_text("")
    (models / "more").symlink_to("/etc")
    done = check(models, {"net/1/model.pt": 64 * "0", "net/2/model.pt": 64 * "1"})
    assert done.returncode == 1
    assert [line.split()[0] for line in done.stderr.splitlines()] == [
        "more",
        "net/1/card.toml",
        "net/1/model.pt",
        "net/2/model.pt",
    ]
    assert f"has the digest {RIGHT['net/1/model.pt']}, and repository.copy.sha256 has {64 * '0'}" in done.stderr
