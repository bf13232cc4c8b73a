"""I1, I2: images with changed bytes, and decompression bombs, decoded by a process that is watched."""

import io
import json
import os
import random
import re
import selectors
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.documented import ROOT
from tests.faults.experiment import Experiment, Trial, sample
from tests.hostile_folder import bombs
from tests.images.test_phone_formats import HEIC
from tests.malformed import PNG_SIGNATURE, encode, malformed_images, picture, png, png_chunk, rows_of_passes

_HANGS = 60.0  # seconds after which a process is ended that has not answered
_MOST_SECONDS = 2.0  # of the processor, for an image
_MOST_MEGABYTES = 600  # of memory, for any image: the largest has 52 megapixels
_PEAK = Path("/proc/self/clear_refs")
_BOMB_SECONDS, _BOMB_MEGABYTES = 0.2, 64


class Watched:
    """A process that decodes images, started again where it has crashed or hung."""

    def __init__(self, decoder: str) -> None:
        self.decoder = decoder
        self.process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        line = [sys.executable, "-m", "tests.faults.image_worker", self.decoder]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        pipe = subprocess.PIPE
        return subprocess.Popen(line, env=environment, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)

    def outcome(self, data: bytes) -> dict[str, Any]:
        """Return what the process says of an image, or how it ended."""
        process = self.process
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(len(data).to_bytes(8, "big") + data)
            process.stdin.flush()
        except BrokenPipeError:
            return self._ended(f"the process ended with {process.wait()}")
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if not selector.select(_HANGS):
                return self._ended(f"no answer in {_HANGS:.0f} s")
        line = process.stdout.readline()
        found: dict[str, Any] = json.loads(line) if line else self._ended(f"the process ended with {process.wait()}")
        return found

    def _ended(self, problem: str) -> dict[str, Any]:
        self.close()
        self.process = self._start()
        return {"reason": "", "problem": problem, "seconds": 0.0, "grown": 0.0, "most": 0.0}

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def good_images() -> dict[str, bytes]:
    """Return small images of each format and of the ways in which it is written, by name."""
    pixels, grey = picture(3, 48), picture(4, 40)[:, :, 0]
    photo = Image.fromarray(pixels)
    written = {
        "png": encode(pixels, "PNG"),
        "png grey": encode(grey, "PNG"),
        "png 16 bits": encode(grey.astype(np.uint16) * 257, "PNG"),
        "png palette": _saved(photo.quantize(16), "PNG", transparency=3),
        "png alpha": _saved(photo.convert("RGBA"), "PNG"),
        "png interlaced": png(32, 32, zlib.compress(b"".join(rows_of_passes(picture()))), interlaced=True),
        "png metadata": _saved(photo, "PNG", exif=_turned(6), icc_profile=bytes(600)),
        "jpeg": encode(pixels, "JPEG", exif=_turned(8)),
        "jpeg progressive": encode(pixels, "JPEG", progressive=True),
        "jpeg restarts": encode(pixels, "JPEG", restart_marker_blocks=2),
        "jpeg cmyk": _saved(photo.convert("CMYK"), "JPEG"),
        "mpo": _saved(photo, "MPO", save_all=True, append_images=[photo.rotate(90)]),
        "webp": encode(pixels, "WEBP"),
        "webp lossless": encode(pixels, "WEBP", lossless=True, exif=_turned(3)),
        "avif": encode(pixels, "AVIF"),
        "heic": HEIC,
        "bmp": encode(pixels, "BMP"),
        "gif": _saved(photo.quantize(32), "GIF", save_all=True, append_images=[photo.quantize(8)]),
        "ppm": encode(pixels, "PPM"),
        "pfm": _saved(Image.fromarray(grey.astype(np.float32)), "PPM"),
    }
    for compression in ("raw", "tiff_lzw", "tiff_deflate", "packbits", "jpeg"):
        written[f"tiff {compression}"] = _saved(photo, "TIFF", compression=compression)
    written["tiff group4"] = _saved(photo.convert("1"), "TIFF", compression="group4")
    return written


def _saved(image: Image.Image, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def _turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[274] = orientation
    return exif


def _flip_bits(data: bytearray, other: bytes, chance: random.Random) -> None:
    for _ in range(chance.choice([1, 1, 2, 8, 64])):
        data[_position(data, chance)] ^= 1 << chance.randrange(8)


def _set_bytes(data: bytearray, other: bytes, chance: random.Random) -> None:
    value = chance.choice([b"\0", b"\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x80\0\0\0"])
    at = _position(data, chance)
    data[at : at + len(value)] = value


def _cut(data: bytearray, other: bytes, chance: random.Random) -> None:
    del data[_position(data, chance) :]


def _leave_out(data: bytearray, other: bytes, chance: random.Random) -> None:
    at = _position(data, chance)
    del data[at : at + chance.choice([1, 2, 4, 40])]


def _splice(data: bytearray, other: bytes, chance: random.Random) -> None:
    data[_position(data, chance) :] = other[chance.randrange(len(other)) :]


def _double_a_piece(data: bytearray, other: bytes, chance: random.Random) -> None:
    edges = [0, *(found.start() for found in _PIECES.finditer(data)), len(data)]
    piece = chance.randrange(len(edges) - 1)
    content = data[edges[piece] : edges[piece + 1]] * chance.choice([1, 1, 2, 40])
    at = chance.choice([edges[piece], *edges])
    data[at:at] = content


def _position(data: bytearray, chance: random.Random) -> int:
    """Return a position in the header half of the time."""
    return chance.randrange(max(1, min(len(data), 80) if chance.random() < 0.5 else len(data)))


_PIECES = re.compile(rb"\xff[\xc0-\xfe]|.{4}(?=[A-Za-z]{4})|[,!]", re.DOTALL)  # of JPEG; PNG, RIFF, ISO; GIF
MUTATIONS: dict[str, Callable[[bytearray, bytes, random.Random], None]] = {
    "bits": _flip_bits,
    "bytes": _set_bytes,
    "cut": _cut,
    "left out": _leave_out,
    "spliced": _splice,
    "doubled": _double_a_piece,
}


def mutated_image(seed: int, images: dict[str, bytes]) -> tuple[str, bytes]:
    """Return the name of what was done, and one of the `images` with one to three mutations."""
    chance = random.Random(seed)
    name, other = list(images)[seed % len(images)], chance.choice(list(images.values()))
    data = bytearray(images[name])
    done = chance.choices(list(MUTATIONS), k=chance.choice([1, 1, 2, 3]))
    for mutation in done:
        if data:
            MUTATIONS[mutation](data, other, chance)
    content = bytes(data)
    if content.startswith(PNG_SIGNATURE) and chance.random() < 0.7:  # else all end at the same check
        content, done = with_right_checksums(content), [*done, "checksums mended"]
    return f"{seed}: {name}: {', '.join(done)}", content


def with_right_checksums(data: bytes) -> bytes:
    """Return a PNG in which each whole chunk has its right checksum."""
    pieces, at = [data[:8]], 8
    while at + 12 <= len(data):
        end = at + 8 + struct.unpack(">I", data[at : at + 4])[0]
        if end + 4 > len(data):
            break
        pieces += [data[at:end], struct.pack(">I", zlib.crc32(data[at + 4 : end]))]
        at = end + 4
    return b"".join([*pieces, data[at:]])


def decode_mutated(number: int, folder: Path, decoder: str = "cifar10") -> Iterator[Trial]:
    images = good_images()
    with closing(Watched(decoder)) as watched:
        for seed in range(number):
            fault, data = mutated_image(seed, images)
            found = watched.outcome(data)
            problem = found["problem"]
            if found["seconds"] > _MOST_SECONDS:
                problem = problem or f"{found['seconds']:.1f} s of the processor"
            if found["most"] > _MOST_MEGABYTES:
                problem = problem or f"{found['most']:.0f} MB of memory"
            yield Trial(fault, problem)


def decode_mutated_with_pillow_alone(number: int, folder: Path) -> Iterator[Trial]:
    yield from decode_mutated(number, folder, "pillow")


def _obstacle() -> str:
    return "" if os.access(_PEAK, os.W_OK) else f"memory is measured by {_PEAK}, which is not there"


MUTATED_IMAGES = Experiment(
    row="I1",
    name="mutated_images",
    claim="pixels, or a reason in one line, within 2 s of processor time; the process goes on",
    run=decode_mutated,
    short=300,
    full=20_000,
    control=decode_mutated_with_pillow_alone,
    is_quick=True,
    obstacle=_obstacle,
)


_HARMLESS = ("png_text.png", "png_profile.png")
"""Names of bombs that may be decoded, since what they pack is not needed."""


def all_bombs() -> dict[str, bytes]:
    """Return small files, by name, that would take very much memory or time."""
    malformed = {kind.name: kind.data for kind in malformed_images() if kind.reason.startswith("^too large")}
    at = HEIC.index(b"ispe") + 8
    heic = HEIC[:at] + struct.pack(">II", 30_000, 30_000) + HEIC[at + 8 :]
    return {**bombs(), **malformed, "heic.heic": heic, **_with_huge_metadata()}


def _with_huge_metadata() -> dict[str, bytes]:
    """Return PNGs whose text and colour profile would take 300 MB."""
    good, packed = encode(picture(), "PNG"), zlib.compress(bytes(300_000_000), 9)
    chunks = {"text": png_chunk(b"zTXt", b"a\0\0" + packed), "profile": png_chunk(b"iCCP", b"a\0\0" + packed)}
    return {f"png_{name}.png": good[:33] + chunk + good[33:] for name, chunk in chunks.items()}


def decode_bombs(number: int, folder: Path) -> Iterator[Trial]:
    yield from _each_in_a_process(sample(all_bombs(), number), "cifar10")


def decode_bombs_with_pillow_alone(number: int, folder: Path) -> Iterator[Trial]:
    """Decode bombs of 50 to 150 megapixels; the others take gigabytes."""
    names = ["png_just_above.png", "tiff.tif", "png_small_bomb.png"]
    yield from _each_in_a_process(names[:number], "pillow")


def _each_in_a_process(names: Sequence[str], decoder: str) -> Iterator[Trial]:
    """Decode each bomb in a process of its own, which has decoded small images before."""
    small, found_bombs = good_images(), all_bombs()
    for name in names:
        with closing(Watched(decoder)) as watched:
            for image in small.values():
                watched.outcome(image)
            found = watched.outcome(found_bombs[name])
        problem = found["problem"] or ("" if found["reason"] or name in _HARMLESS else "it is decoded")
        if found["seconds"] > _BOMB_SECONDS or found["grown"] > _BOMB_MEGABYTES:
            problem = f"{found['seconds']:.2f} s of the processor, {found['grown']:.0f} MB"
        yield Trial(f"{name}, {len(found_bombs[name]):,} bytes, {1000 * found['seconds']:.0f} ms", problem)


DECOMPRESSION_BOMBS = Experiment(
    row="I2",
    name="decompression_bombs",
    claim="refused within 0.2 s of processor time and 64 MB, in a process that decodes other images before",
    run=decode_bombs,
    short=9,
    full=len(all_bombs()),
    control=decode_bombs_with_pillow_alone,
    obstacle=_obstacle,
)
