"""A folder of good, malformed and strange files, drawn from a seed.

Run it to write one: python -m tests.hostile_folder FOLDER [SEED]
"""

import contextlib
import io
import os
import random
import socket
import struct
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from PIL import Image

from tests.malformed import encode, malformed_images, picture, png_bomb, tiff

NUM_FILES, NUM_MALFORMED = 1000, 200
STRANGE_NAMES = [
    "new\nline.png",
    "carriage\rreturn.png",
    'quote".png',
    "quote'.png",
    "comma, and space.png",
    "\N{CAT}.png",
    "\u043a\u043e\u0442.png",
    "e\u0301.png",
    os.fsdecode(b"latin-\xe9.png"),
    os.fsdecode(b"\xff\xfe.png"),
    "=cmd|' /C calc'!A0.png",
    "+1.png",
    "-n.png",
    "@sum.png",
    "esc\x1b[31m.png",
    "tab\t.png",
    "\u202egnp.exe.png",
    "back\\slash.png",
    "%s%n.png",
    "$(id).png",
    "x" * 250 + ".png",
]
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP", ".bmp": "BMP", ".gif": "GIF", ".tif": "TIFF", ".ppm": "PPM"}


def write_hostile_folder(
    folder: Path, seed: int, num_files: int = NUM_FILES, num_malformed: int = NUM_MALFORMED
) -> dict[str, str]:
    """Write files in sub-folders, `num_malformed` of them malformed; return name -> expected reason, "" for good ones.

    Kinds of malformed files follow each other in an order of the seed, and all occur before one occurs again.
    """
    chance, kinds = random.Random(seed), malformed_images()
    chance.shuffle(kinds)
    expected: dict[str, str] = {}
    for number in range(num_files):
        place = chance.choice(["", "cat/", "dog/deep/", "=x/"])
        if number < num_malformed:
            kind = kinds[number % len(kinds)]
            name, data, reason = f"{place}{number:04}_{kind.name}", kind.data, kind.reason
        elif number - num_malformed < len(STRANGE_NAMES):
            name, data, reason = (
                f"{place}{STRANGE_NAMES[number - num_malformed]}",
                encode(picture(number, 8), "PNG"),
                "",
            )
        else:
            suffix = chance.choice(list(_FORMATS))
            size = chance.choice([1, 8, 31, 64])
            name, reason = f"{place}{number:04}{suffix}", ""
            data = encode(picture(number, size), _FORMATS[suffix])
        expected[name] = reason
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return expected


SKIPPED = {
    "pipe.png": "1 not a regular file",
    "socket.png": "1 not a regular file",
    "device.png": "1 link out of the folder",
    "loop.png": "1 link that loops",
    "link_to_nothing.png": "1 link out of the folder",
    "up": "1 link to a folder",
    "out.png": "1 link out of the folder",
    "out": "1 link to a folder",
}
"""What a search skips, and how it counts it."""


def add_skipped(name: str, folder: Path, outside: Path, stack: ExitStack) -> None:
    """Add one of `SKIPPED` to `folder`; links out of it lead to the image `outside`, or to its folder."""
    if name == "pipe.png":
        os.mkfifo(folder / name)
    elif name == "socket.png":
        server = stack.enter_context(socket.socket(socket.AF_UNIX))
        with contextlib.chdir(folder):  # the name of a socket must be short
            server.bind(name)
    else:
        nothing = outside.parent / "nothing.png"
        targets = {"device.png": "/dev/zero", "loop.png": "loop.png", "up": ".."}
        targets |= {"link_to_nothing.png": str(nothing), "out.png": str(outside), "out": str(outside.parent)}
        (folder / name).symlink_to(targets[name])


def bombs() -> dict[str, bytes]:
    """Return small files, by name, that would take gigabytes if they were decoded."""
    buffer = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(buffer, "TIFF", compression="group4")
    side = struct.pack("<H", 65_535)
    gif = encode(picture(size=8), "GIF")
    frame = gif.index(b",\0\0\0\0") + 5
    gif = gif[:6] + side * 2 + gif[10:frame] + side * 2 + gif[frame + 4 :]
    webp = encode(np.zeros((8, 8, 3), np.uint8), "WEBP", lossless=True)
    webp = webp[:21] + struct.pack("<I", 16_383 | 16_383 << 14) + webp[25:]
    jpeg = encode(picture(size=8), "JPEG")
    frame = jpeg.index(b"\xff\xc0") + 5
    bmp = encode(picture(), "BMP")
    few = tiff(picture(size=64), kept=4)
    width = few.index(struct.pack("<HHI", 256, 4, 1)) + 8
    return {
        "png.png": png_bomb(20_000, 20_000),
        "png_just_above.png": png_bomb(7_300, 7_300),
        "tiff.tif": buffer.getvalue(),
        "tiff_header.tif": few[:width] + struct.pack("<I", 2**30) + few[width + 4 :],
        "gif.gif": gif,
        "webp.webp": webp,
        "jpeg.jpg": jpeg[:frame] + struct.pack(">HH", 65_000, 65_000) + jpeg[frame + 4 :],
        "bmp.bmp": bmp[:18] + struct.pack("<ii", 2**30, 2**30) + bmp[26:],
        "ppm.ppm": b"P6 99999 99999 255\n" + bytes(99),
    }


if __name__ == "__main__":
    write_hostile_folder(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
