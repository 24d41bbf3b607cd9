"""checkov, over what is rendered, finds nothing but what is meant so."""

import json
import subprocess

import yaml
from rendering import DEFAULTS, TOOLS, chosen, objects

MEANT = {
    "CKV_K8S_8": "the test's pod runs once and has no probes; test_together looks at the server's",
    "CKV_K8S_9": "likewise",
    "CKV_K8S_11": "no limit of processors: it would halt a step halfway, while others' processors are idle",
    "CKV_K8S_15": "a tag is a version: a pod may start where its node has the image and the registry is away",
    "CKV_K8S_43": "image.digest is there for who wants it; a chart cannot know the digest in another's registry",
    "CKV2_K8S_6": "networkPolicy.enabled chooses, and the test's pod needs none: nobody calls it",
}
"""What is found, with the reason for leaving it so."""


def test_the_policies_hold(tmp_path):
    everything = chosen(
        repository="fetched",
        tls="mutual",
        tokens="on",
        scaling="keda",
        gpu="two",
        monitor="pod",
        alerts="all",
        network="closed",
        aliases="some",
        place="chosen",
        further="everything",
    )
    for name, values in {"defaults": DEFAULTS, "everything": everything}.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump_all(objects(values)))
    checkov = [TOOLS.parent / "checkov" / "bin" / "checkov", "--framework", "kubernetes", "--skip-download"]
    done = subprocess.run([*checkov, "-d", tmp_path, "-o", "json"], capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)
    assert found["summary"]["passed"] > 300 and found["summary"]["parsing_errors"] == 0
    told = {check["check_id"]: check["check_name"] for check in found["results"]["failed_checks"]}
    assert told.keys() == MEANT.keys(), told
