"""Corrected labels from people who use the web page or the HTTP service, with the images, in a SQLite file.

Each image has one correction, the newest. `feedback` lists them, and writes the images into class folders.
"""

import dataclasses
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from cifar10.data.class_names import ClassFolders, few, printable
from cifar10.errors import UsageError
from cifar10.images.decode import EncodedImage, ImageError
from cifar10.images.other_formats import is_heic
from cifar10.serving.database import Layout, reading, writing
from cifar10.suggest import did_you_mean

DEFAULT_PATH: Final = Path("data/serving/corrections.db")
MAX_IMAGE_BYTES: Final = 10 * 2**20
"""Of an encoded image that is kept."""

Source = Literal["web"]
State = Literal["new", "exported", "withdrawn"]

_LAYOUT = Layout(
    content="corrections",
    application_id=0x43494643,
    version=1,
    tables="""
CREATE TABLE corrections (
    sha256 TEXT PRIMARY KEY,
    time REAL NOT NULL,
    image BLOB NOT NULL,
    suffix TEXT NOT NULL,
    predicted_class TEXT NOT NULL,
    probability REAL NOT NULL,
    corrected_class TEXT NOT NULL,
    weights_digest TEXT NOT NULL,
    source TEXT NOT NULL,
    state TEXT NOT NULL
)""",
    is_durable=True,
    most_bytes=4 * 2**30,
)
_COLUMNS = "sha256, time, suffix, predicted_class, probability, corrected_class, weights_digest, source, state"
_ADD = """
INSERT INTO corrections (image, sha256, time, suffix, predicted_class, probability, corrected_class, weights_digest,
    source, state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (sha256) DO UPDATE SET time = excluded.time, predicted_class = excluded.predicted_class,
    probability = excluded.probability, corrected_class = excluded.corrected_class,
    weights_digest = excluded.weights_digest, source = excluded.source, state = excluded.state
WHERE excluded.time >= corrections.time
"""
_SUFFIXES = (
    *((b"\x89PNG", ".png"), (b"\xff\xd8\xff", ".jpg"), (b"RIFF", ".webp"), (b"BM", ".bmp"), (b"GIF8", ".gif")),
    *((b"II*\0", ".tif"), (b"MM\0*", ".tif"), (b"P", ".pnm")),
)


@dataclass(frozen=True, slots=True)
class Correction:
    """The label that a person gave an image."""

    sha256: str
    """Of the encoded image."""
    time: float
    """Seconds since 1970, UTC."""
    suffix: str
    """Of a file with the image, such as .png."""
    predicted_class: str
    probability: float
    """Of the predicted class."""
    corrected_class: str
    weights_digest: str
    """Of the network that predicted."""
    source: Source
    state: State
    """withdrawn: it is not to be used."""


class CorrectionStore:
    """The corrections in a file. Any number of threads and processes may use it at once.

    Args:
        path: Is made with the first correction, as is its folder.
    """

    def __init__(self, path: Path = DEFAULT_PATH) -> None:
        self.path = path

    def add(
        self,
        image: bytes,
        *,
        predicted_class: str,
        probability: float,
        corrected_class: str,
        class_names: Sequence[str],
        weights_digest: str,
        source: Source,
    ) -> Correction:
        """Keep a correction; when this returns, it is on disk. An earlier one of the same image is replaced.

        Args:
            image: Encoded, of at most `MAX_IMAGE_BYTES`.
            predicted_class: The most probable class, and `probability` its probability.
            corrected_class: In any spelling that `ClassFolders` accepts.
            class_names: Those that the network knows.
            weights_digest: Of the network.
            source: Where the correction was made.

        Raises:
            UsageError: The network does not know the class.
            ImageError: The image cannot be read, or is too large.
            DatabaseError: The correction could not be kept.
        """
        correction = Correction(
            sha256=hashlib.sha256(image).hexdigest(),
            time=time.time(),
            suffix=_checked_suffix(image),
            predicted_class=predicted_class,
            probability=float(probability),
            corrected_class=_known_class(corrected_class, class_names),
            weights_digest=weights_digest,
            source=source,
            state="new",
        )
        with writing(self.path, _LAYOUT) as connection:
            connection.execute(_ADD, (image, *dataclasses.astuple(correction)))
        return correction

    def withdraw(self, sha256: str) -> bool:
        """Mark the correction of an image as not to be used; return whether there is one.

        Raises:
            DatabaseError: The file cannot be written.
        """
        return self._set_state([sha256], "withdrawn") == 1

    def corrections(self) -> list[Correction]:
        """Return all corrections, the oldest first; none if there is no file.

        Raises:
            DatabaseError: The file cannot be read.
        """
        if not self.path.exists():
            return []
        with reading(self.path, _LAYOUT) as connection:
            rows = connection.execute(f"SELECT {_COLUMNS} FROM corrections ORDER BY time, sha256").fetchall()
        return [Correction(*row) for row in rows]

    def image(self, sha256: str) -> bytes | None:
        """Return an encoded image, or None if it has no correction.

        Raises:
            DatabaseError: The file cannot be read.
        """
        with reading(self.path, _LAYOUT) as connection:
            row = connection.execute(
                "SELECT CAST(image AS BLOB) FROM corrections WHERE sha256 = ?", (sha256,)
            ).fetchone()
        return None if row is None else bytes(row[0])

    def mark_exported(self, corrections: Sequence[Correction]) -> None:
        """Mark corrections as exported, unless they have been replaced since they were read.

        Raises:
            DatabaseError: The file cannot be written.
        """
        changes = [(correction.sha256, correction.time) for correction in corrections if correction.state == "new"]
        if not changes:
            return
        with writing(self.path, _LAYOUT) as connection:
            connection.executemany(
                "UPDATE corrections SET state = 'exported' WHERE sha256 = ? AND time = ? AND state = 'new'", changes
            )

    def _set_state(self, digests: Sequence[str], state: State) -> int:
        with writing(self.path, _LAYOUT) as connection:
            changed = [
                connection.execute("UPDATE corrections SET state = ? WHERE sha256 = ?", (state, digest)).rowcount
                for digest in digests
            ]
        return sum(changed)


def _known_class(name: str, class_names: Sequence[str]) -> str:
    """Return the name of a class as the network has it."""
    class_id = ClassFolders(class_names).find(name)
    if class_id is None:
        hint = did_you_mean(name, list(class_names)) or f"; there are {few(list(class_names))}"
        raise UsageError(f"{printable(name)} is not a class of this network{hint}")
    return class_names[class_id]


def _checked_suffix(image: bytes) -> str:
    """Return the suffix for an image that can be read."""
    if len(image) > MAX_IMAGE_BYTES:
        raise ImageError(f"too large to be kept: {len(image) / 2**20:.0f} MB, the limit is {MAX_IMAGE_BYTES >> 20} MB")
    EncodedImage(image).decode_square(32, reduced=True)
    if is_heic(image[:256]):
        return ".heic"
    return next((suffix for signature, suffix in _SUFFIXES if image.startswith(signature)), ".avif")
