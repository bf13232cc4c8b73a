"""Ways to spoil a file: damage, exchange, and what is to run code or to never end."""

import io
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.malformed import encode, picture
from tests.runs.test_checkpoints import Payload

Poison = Callable[[Path, Path, random.Random], object]
"""Spoils the file at a path; the canary is the folder that code in it would make."""


def _with(content: Callable[[bytes, random.Random], bytes]) -> Poison:
    return lambda path, canary, chance: path.write_bytes(content(path.read_bytes(), chance))


def _flipped(count: int, data: bytes, chance: random.Random) -> bytes:
    flipped = bytearray(data)
    for _ in range(count if data else 0):
        flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
    return bytes(flipped)


def _lines_exchanged(data: bytes, chance: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    chance.shuffle(lines)
    return b"".join(lines)


def _link(target: str) -> Poison:
    def make(path: Path, canary: Path, chance: random.Random) -> None:
        path.unlink()
        path.symlink_to(target.format(name=path.name))

    return make


def _folder(path: Path, canary: Path, chance: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path, canary: Path, chance: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def _pickled(path: Path, canary: Path, chance: random.Random) -> None:
    path.write_bytes(pickle.dumps({"data": Payload(canary), "labels": [0], "state_dict": {}}, protocol=2))


def _pickled_array(path: Path, canary: Path, chance: random.Random) -> None:
    with path.open("wb") as file:
        np.save(file, np.array([Payload(canary)], dtype=object), allow_pickle=True)


def _pickled_arrays(path: Path, canary: Path, chance: random.Random) -> None:
    array = io.BytesIO()
    np.save(array, np.array([Payload(canary)], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("digests.npy", "embeddings.npy", "archive/data.pkl"):
            archive.writestr(name, array.getvalue() if name.endswith("npy") else pickle.dumps(Payload(canary)))


def _tags(path: Path, canary: Path, chance: random.Random) -> None:
    call = f"!!python/object/apply:os.mkdir ['{canary}']\n"
    path.write_text(f"groups: {call}data_loading: {call}outs: {call}calibration: {call}", encoding="utf-8")


def _references(data: bytes, chance: random.Random) -> bytes:
    lines = ["a0: &a0 [x, x]"] + [f"a{level}: &a{level} [*a{level - 1}, *a{level - 1}]" for level in range(1, 40)]
    return "\n".join(lines).encode()


POISONS: dict[str, Poison] = {
    "emptied": _with(lambda data, chance: b""),
    "cut": _with(lambda data, chance: data[: chance.randrange(1, max(len(data), 2))]),
    "its last byte missing": _with(lambda data, chance: data[:-1]),
    "a bit flipped": _with(lambda data, chance: _flipped(1, data, chance)),
    "10 bits flipped": _with(lambda data, chance: _flipped(10, data, chance)),
    "1000 bits flipped": _with(lambda data, chance: _flipped(1000, data, chance)),
    "lines exchanged": _with(_lines_exchanged),
    "twice": _with(lambda data, chance: data + data),
    "random bytes": _with(lambda data, chance: chance.randbytes(5000)),
    "zeros": _with(lambda data, chance: bytes(5000)),
    "a picture": _with(lambda data, chance: encode(picture(), "PNG")),
    "a list": _with(lambda data, chance: b"[]"),
    "a mapping": _with(lambda data, chance: b"{}"),
    "null": _with(lambda data, chance: b"null"),
    "a number": _with(lambda data, chance: b"1" * 5000),
    "numbers beyond all": _with(lambda data, chance: b'{"a": 1e999, "b": NaN, "weights_digest": -Infinity}'),
    "brackets without end": _with(lambda data, chance: b"[" * 200_000),
    "bytes that are no text": _with(lambda data, chance: b"\xff\xfe\x00a\x00" * 100),
    "a cell of a megabyte": _with(lambda data, chance: b'"' + b"a" * 2**20 + b'",\n' + data),
    "references that unfold": _with(_references),
    "code for a loader of YAML": _tags,
    "code in a pickle": _pickled,
    "code in an array": _pickled_array,
    "code in an archive": _pickled_arrays,
    "a folder": _folder,
    "a pipe": _pipe,
    "a link to itself": _link("{name}"),
    "a link to nothing": _link("nowhere"),
    "a link to /dev/zero": _link("/dev/zero"),
    "a link to a file of the system": _link("/etc/passwd"),
}
"""By what is done to the file."""
CODE = tuple(kind for kind in POISONS if kind.startswith("code"))
