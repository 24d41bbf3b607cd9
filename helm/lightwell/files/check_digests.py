"""Compares the files under a directory with their digests: a JSON object of SHA-256 by path. Ends with a sentence about
each file that is wrong, missing or not listed."""

import hashlib
import json
import sys
from pathlib import Path

root, wanted = Path(sys.argv[1]), json.loads(sys.argv[2])
wrong = []
found = {}
for path in sorted(root.rglob("*")):
    name = str(path.relative_to(root))
    if path.is_symlink() or not (path.is_dir() or path.is_file()):
        wrong.append(f"{name} is no regular file: put the file itself in its place")
    elif path.is_file():
        with path.open("rb") as file:
            found[name] = hashlib.file_digest(file, "sha256").hexdigest()
for name, digest in found.items():
    if name not in wanted:
        wrong.append(f"{name} is not listed in repository.copy.sha256: its digest is {digest}")
    elif wanted[name] != digest:
        wrong.append(f"{name} has the digest {digest}, and repository.copy.sha256 has {wanted[name]}")
wrong += [f"{name} is listed in repository.copy.sha256 and was not copied" for name in wanted if name not in found]
if wrong:
    sys.exit("\n".join(wrong))
print(f"{len(found)} files have their digests")
