"""Write corrected images into class folders, DIR/CLASS/SHA256.png, that `data_loading=folder` reads.

The folder may hold other images of the classes. A repeated export changes nothing; after a new correction of an image,
its file moves. Files that no correction has are not touched.
"""

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from cifar10.data.class_names import ClassFolders, few, is_utf8, printable
from cifar10.errors import UserError
from cifar10.files import atomic_write, file_sha256, remove_leftovers, sole_writer
from cifar10.images.search import SYSTEM_FOLDERS
from cifar10.serving.corrections import Correction, CorrectionStore

_OURS = re.compile(r"([0-9a-f]{64})\.[a-z]+")
_LONGEST_NAME = 255  # bytes, of most file systems


@dataclass(frozen=True)
class ExportedCorrections:
    """What an export has done."""

    num_written: int
    """Images that were not there."""
    num_moved: int
    """Images that were in another class."""
    num_removed: int
    """Images whose correction was withdrawn."""
    num_unchanged: int

    def describe(self) -> str:
        """Return one line for people."""
        return (
            f"{self.num_written:,} images written, {self.num_moved:,} moved to another class, {self.num_removed:,} "
            f"removed, {self.num_unchanged:,} unchanged"
        )


def export_corrections(store: CorrectionStore, root: Path) -> ExportedCorrections:
    """Write the images of all corrections below `root`, which is made if it is missing.

    Raises:
        UserError: A class cannot be the name of a folder, or has none beside those of other images in `root`; another
            process writes to `root`; the disk is full; an image of the store is damaged.
        DatabaseError: The corrections cannot be read.
    """
    corrections = store.corrections()
    _refuse_bad_names(sorted({each.corrected_class for each in corrections}))
    try:
        with sole_writer(root):
            return _export(store, corrections, root)
    except OSError as error:
        raise UserError(f"{error.filename or root} cannot be written: {error.strerror or error}") from error


def _export(store: CorrectionStore, corrections: Sequence[Correction], root: Path) -> ExportedCorrections:
    folders = _ClassFolders(root)
    used = [each for each in corrections if each.state != "withdrawn"]
    folder_of = {name: folders.folder(name) for name in sorted({each.corrected_class for each in used})}
    num_written = num_moved = num_removed = 0
    for each in corrections:
        present = folders.files.get(each.sha256, [])
        path = folder_of[each.corrected_class] / f"{each.sha256}{each.suffix}" if each in used else None
        is_missing = path is not None and not (path in present and file_sha256(path) == each.sha256)
        if path is not None and is_missing:
            _write(store, each, path)
        others = [other for other in present if other != path]
        for other in others:
            other.unlink()
        num_removed += path is None and bool(others)
        num_moved += path is not None and bool(others)
        num_written += is_missing and not others
    store.mark_exported(used)
    return ExportedCorrections(num_written, num_moved, num_removed, len(used) - num_written - num_moved)


def _write(store: CorrectionStore, correction: Correction, path: Path) -> None:
    image = store.image(correction.sha256)
    if image is None or sha256(image).hexdigest() != correction.sha256:
        raise UserError(f"{store.path} is damaged: its image {correction.sha256[:16]} is not the corrected one")
    path.parent.mkdir(exist_ok=True)
    remove_leftovers(path)
    with atomic_write(path) as file:
        file.write(image)


class _ClassFolders:
    """The class folders of `root`, and the exported corrections in them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: dict[str, list[Path]] = defaultdict(list)
        """SHA-256 -> files with that name."""
        self._folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and entry.name[0] != ".")
        self._has_others = False
        for folder in self._folders:
            for entry in os.scandir(root / folder):
                found = _OURS.fullmatch(entry.name)
                if found:
                    self.files[found[1]].append(root / folder / entry.name)
                elif entry.name[0] != ".":
                    self._has_others = True

    def folder(self, class_name: str) -> Path:
        """Return the folder of a class, in any spelling that the folder of a class may have.

        Raises:
            UserError: There is none, and `root` holds images of other classes, from elsewhere.
        """
        known = ClassFolders(self._folders).find(class_name)
        if known is not None:
            return self.root / self._folders[known]
        if self._has_others:
            raise UserError(
                f"{self.root} has no folder {printable(class_name)} among its classes ({few(self._folders)}); the "
                "corrections are of another network: name another folder, or make that one first"
            )
        return self.root / class_name


def _refuse_bad_names(class_names: Sequence[str]) -> None:
    """Raise a UserError if a class cannot be a folder that `data_loading=folder` reads."""
    bad = [name for name in class_names if not _is_folder_name(name)]
    if bad:
        raise UserError(f"{few(bad)} cannot be the name of a class folder; rename the class and train again")


def _is_folder_name(name: str) -> bool:
    is_possible = "/" not in name and "\0" not in name and is_utf8(name) and 0 < len(name.encode()) <= _LONGEST_NAME
    return is_possible and not name.startswith(".") and name.casefold() not in SYSTEM_FOLDERS
