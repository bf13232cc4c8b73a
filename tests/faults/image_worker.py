"""Decodes images that come over stdin, each behind its length in eight bytes, and writes a line of JSON for each.

    python -m tests.faults.image_worker cifar10|pillow

`pillow` decodes as a plain program does, with Pillow alone and without its limit.
"""

import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cifar10.images.decode import EncodedImage, ImageError, decode_image, resize_image, silence_pillow

_SIZE = 32
_LONGEST_REASON = 160  # characters


def with_cifar10(data: bytes) -> tuple[str, str]:
    """Decode as inference and as training do; return the reason of a refusal and what is wrong with the result."""
    try:
        square = EncodedImage(data).decode_square(_SIZE)
    except ImageError as error:
        reason = str(error)
        is_plain = reason.isprintable() and 0 < len(reason) <= _LONGEST_REASON and "Traceback" not in reason
        return reason, "" if is_plain else f"the reason is {reason!r}"
    pixels = decode_image(data)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        return "", f"pixels {pixels.dtype} {pixels.shape}"
    are_same = np.array_equal(square, resize_image(pixels, _SIZE))
    return "", "" if are_same else "two ways of decoding give other pixels"


def with_pillow(data: bytes) -> tuple[str, str]:
    Image.MAX_IMAGE_PIXELS = None
    pixels: NDArray[np.uint8] = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    return "", "" if pixels.ndim == 3 else f"pixels {pixels.shape}"


def outcome(decode: Callable[[bytes], tuple[str, str]], data: bytes) -> dict[str, str | float]:
    """Return the reason and the problem of an image, seconds of the processor, and megabytes: grown, and at most."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the most memory until now
    before, started = _most_megabytes(), time.process_time()
    try:
        reason, problem = decode(data)
    except Exception as error:  # whatever is raised instead of a reason
        reason, problem = "", f"raises {type(error).__name__}: {error}"
    seconds, most = time.process_time() - started, _most_megabytes()
    return {"reason": reason, "problem": problem, "seconds": seconds, "grown": most - before, "most": most}


def _most_megabytes() -> float:
    """Return the most memory of this process; `ru_maxrss` would include that of the process which has started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def main() -> None:
    silence_pillow()
    decode = {"cifar10": with_cifar10, "pillow": with_pillow}[sys.argv[1]]
    while header := sys.stdin.buffer.read(8):
        data = sys.stdin.buffer.read(int.from_bytes(header, "big"))
        print(json.dumps(outcome(decode, data)), flush=True)


if __name__ == "__main__":
    main()
