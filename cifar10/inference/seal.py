"""The SHA-256 of an ONNX file within the file itself: what changed after the export is noticed, down to one bit.

A serialised message of Protocol Buffers may be followed by more of its fields. So the seal is the last bytes of the
file: one more entry of the model's metadata, with the digest of all bytes before it.
"""

import hashlib
from pathlib import Path

from cifar10.errors import CheckpointError
from cifar10.files import read_file

_KEY = b"content_sha256"
_NUM_DIGITS = 64
_ENTRY = b"\x0a" + bytes([len(_KEY)]) + _KEY + b"\x12" + bytes([_NUM_DIGITS])  # key = 1, value = 2
_HEAD = b"\x72" + bytes([len(_ENTRY) + _NUM_DIGITS]) + _ENTRY  # metadata_props = 14
_MOST_BYTES = 2**31  # of a message of Protocol Buffers


def sealed(content: bytes) -> bytes:
    """Return a serialised `onnx.ModelProto` with its seal. Other programs read it as one more entry of the metadata."""
    return content + _HEAD + hashlib.sha256(content).hexdigest().encode()


def read_sealed(file: Path) -> tuple[bytes, bool]:
    """Return the content of an ONNX file, and whether it has a seal.

    Raises:
        CheckpointError: It cannot be read, or has changed since it was sealed.
    """
    try:
        content = read_file(file, _MOST_BYTES)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror or error}") from error
    length = max(len(content) - len(_HEAD) - _NUM_DIGITS, 0)
    seal = content[length:]
    if not seal.startswith(_HEAD):
        return content, False
    if hashlib.sha256(memoryview(content)[:length]).hexdigest().encode() != seal[len(_HEAD) :]:
        raise CheckpointError(f"{file} is damaged: its SHA-256 is not the one of its export; copy it again")
    return content, True
