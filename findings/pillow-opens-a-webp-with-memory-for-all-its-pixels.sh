#!/usr/bin/env bash
# Pillow 12.0.0: opening a WebP takes eight bytes for each of its pixels, before anything of it is decoded.
#
# Guess: `Image.open` reads a header. Its documentation calls it lazy, and a server that opens a picture to look at its
# size, and refuses it or puts it in line, has not paid for its pixels yet.
# Happens: for a WebP the animation decoder of libwebp is made at once, also where there is one picture, and has two
# canvases of four channels. They are kept for as long as the image object lives, beside its pixels once it is decoded. A
# hundred pictures of twelve megapixels that wait in line are ten gigabytes; those of other formats are nothing.
#
#   Pillow 12.0.0, pictures of 4000 x 4000
#   JPEG  opened: 0 bytes a pixel
#   PNG   opened: 0 bytes a pixel
#   WEBP  opened: 8 bytes a pixel
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pillow==12.0.0

cat >"$folder/opened.py" <<'END'
"""What a process of its own, in which no memory is free yet, takes for opening a picture: bytes for each pixel."""
import re
import sys

from PIL import Image


def bytes_of_process():
    with open("/proc/self/status") as status:
        return 1024 * int(re.search(r"VmSize:\s+(\d+)", status.read())[1])


small, large = sys.argv[1:]
Image.open(small).close()  # what is loaded once is loaded
before = bytes_of_process()
picture = Image.open(large)
print(round((bytes_of_process() - before) / (picture.width * picture.height)))
END
cat >"$folder/see.py" <<'END'
import subprocess
import sys

import PIL
from PIL import Image

SIDE = 4000
EXPECTED = {"JPEG": 0, "PNG": 0, "WEBP": 8}

print(f"Pillow {PIL.__version__}, pictures of {SIDE} x {SIDE}")
for form, expected in EXPECTED.items():
    files = []
    for side in (8, SIDE):
        files.append(f"{sys.argv[1]}/{side}.{form}")
        Image.new("RGB", (side, side), "teal").save(files[-1], form)
    command = [sys.executable, f"{sys.argv[1]}/opened.py", *files]
    each = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    print(f"{form:<4}  opened: {each} bytes a pixel")
    if each != expected:
        sys.exit("changed")
END
"$folder/venv/bin/python" "$folder/see.py" "$folder"
