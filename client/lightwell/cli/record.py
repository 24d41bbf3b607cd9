"""What a written file says of itself: the request that it answers. `--resume` compares it with the request to come."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np
from google.protobuf.json_format import MessageToDict
from PIL import Image as Pil

from lightwell.results import RECORD, Explanation
from lightwell.v1.explain_pb2 import ExplainRequest


def record(seen: Explanation, request: ExplainRequest, top: int | None) -> str:
    """JSON that names the model, the request with all defaults, and a fingerprint of the request as it was asked."""
    resolved, provenance = ExplainRequest(), seen.provenance
    resolved.CopyFrom(seen.message.resolved)
    resolved.ClearField("image")
    return json.dumps(
        {
            "model": f"{provenance.model}@{provenance.version}",
            "digest": provenance.digest,
            "request": MessageToDict(resolved, preserving_proto_field_name=True),
            "asked": fingerprint(request, provenance.digest, top),
        },
        ensure_ascii=False,
    )


def fingerprint(request: ExplainRequest, digest: str, top: int | None) -> str:
    """SHA-256, hexadecimal, of all that an answer depends on: the request with its image, the model file's digest, and
    the number of classes on top that are asked for."""
    asked = ExplainRequest()
    asked.CopyFrom(request)
    asked.model = asked.version = ""  # the digest says more
    return hashlib.sha256(asked.SerializeToString(deterministic=True) + f"{digest} {top}".encode()).hexdigest()


def fingerprint_of(path: Path) -> str | None:
    """The fingerprint in a file; None if it has none, such as one that another program wrote."""
    try:
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                text = str(arrays[RECORD])
        else:
            with Pil.open(path) as picture:
                text = str(picture.info[RECORD])
        return str(json.loads(text)["asked"])
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile):
        return None
