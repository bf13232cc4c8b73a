"""Find image files: in a folder and its sub-folders, by a glob, or a single file; sorted, one at a time."""

import os
import shlex
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatchcase
from glob import has_magic
from itertools import chain
from pathlib import Path

from cifar10.constants import EXPORT_MARKER
from cifar10.errors import UserError
from cifar10.images.other_formats import kind_of_name
from cifar10.suggest import did_you_mean_path

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    *(".heic", ".heif", ".hif", ".avif", ".mpo"),  # of telephones
)
"""File name extensions of images, in any case, when a folder is searched."""

SYSTEM_FOLDERS = frozenset(
    [
        *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@tmp"),  # Synology, QNAP
        *("__macosx", "network trash folder", "temporary items"),  # macOS, also inside zip archives and on shares
        *("$recycle.bin", "system volume information", "found.000"),  # Windows; "recycled" may well be a class of waste
        *("lost+found", "~snapshot"),  # ext4, NetApp
        "__pycache__",
    ]
)
"""Folders that operating systems and network storage create: thumbnails, trash, snapshots. Names are case-folded."""

Patterns = frozenset[tuple[str, ...]]
"""Globs that paths below a folder must match, one pattern for each level; () matches anything."""

_LINK_OUT, _LINK_TO_FOLDER = "link out of the folder", "link to a folder"


class ImageSearch(Iterator[Path]):
    """The image files of a folder and its sub-folders, of a glob, or one file; found during the iteration.

    Sorted by name within each folder; only one folder at a time is held in memory. Skipped: files with other names,
    hidden files, system folders below `root`, pipes and devices, links to folders (files inside `root` are found where
    they are) and links out of `root`. A folder that cannot be listed is yielded like a file, so that decoding it
    raises the reason.

    Args:
        given: May contain `*`, `?`, `[]` and `**`; a folder that matches is searched too. A file of that very name
            takes precedence.
        follow_links: Also follow links to files and folders, wherever they lead, except a link to a folder that
            contains the link.

    Raises:
        UserError: There is no such folder or file.
    """

    def __init__(self, given: str, follow_links: bool = False) -> None:
        self.given = given
        self.skipped: Counter[str] = Counter()
        """Reason -> number of entries skipped so far; complete when the search has ended."""
        self._real_root: str | None = None
        """Folder that links to files may not leave; None: links lead anywhere, and links to folders are followed."""
        self._paths: Iterator[Path]
        if os.path.lexists(given) and not os.path.isdir(given):
            folder, self._paths = os.path.dirname(given), iter([Path(given)])
        else:
            folder, pattern = _split_glob(given)
            if not os.path.isdir(folder):
                raise UserError(f"there is no folder or file {given!r}{did_you_mean_path(given)}")
            self._real_root = None if follow_links else os.path.realpath(folder)
            self._paths = self._search(folder, pattern)
        self.root = Path(folder)
        """The folder that names are relative to: for a glob, the part before the first pattern."""

    def __next__(self) -> Path:
        return next(self._paths)

    def is_empty(self) -> bool:
        """Return whether no image is left. The next image is not consumed."""
        first = next(self._paths, None)
        if first is None:
            return True
        self._paths = chain([first], self._paths)
        return False

    def _search(self, folder: str, pattern: tuple[str, ...]) -> Iterator[Path]:
        pending: list[tuple[str, Patterns | None]] = [(folder, frozenset([pattern]))]  # None: an image
        while pending:  # a stack, because folders may nest deeper than Python recurses
            path, patterns = pending.pop()
            if patterns is None:
                yield Path(path)
                continue
            try:
                with os.scandir(path) as entries:
                    found = [item for entry in entries if (item := self._examine(entry, patterns))]
            except OSError:
                yield Path(path)
                continue
            found.sort(key=lambda item: item[0], reverse=True)
            pending += [(os.path.join(path, name), below) for name, below in found]

    def _examine(self, entry: "os.DirEntry[str]", patterns: Patterns) -> tuple[str, Patterns | None] | None:
        """Return (name, None) for an image, (name, patterns below) for a folder to search, None for other entries."""
        below = _advance(patterns, entry.name)
        if not below or entry.name == EXPORT_MARKER:
            return None
        is_folder = _is_folder(entry) if self._real_root is None else entry.is_dir(follow_symlinks=False)
        reason = _reason_against_folder(entry) if is_folder else _reason_against_file(entry, self._real_root)
        if reason:
            self.skipped[reason] += 1
            return None
        if is_folder:
            return entry.name, below
        return (entry.name, None) if any(set(rest) <= {"**"} for rest in below) else None


def list_folders(folder: str) -> tuple[list[str], Counter[str]]:
    """Return the sorted names of the folders in `folder`, including links to folders; and reason -> other entries.

    Raises:
        OSError: `folder` cannot be listed.
    """
    names: list[str] = []
    skipped: Counter[str] = Counter()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name == EXPORT_MARKER:
                continue
            if reason := _reason_against_folder(entry):
                skipped[reason] += 1
            else:
                names.append(entry.name)
    return sorted(names), skipped


def listed(skipped: Counter[str]) -> str:
    """Return the skipped entries in words, the most frequent reason first: `3 hidden, 1 system folder`."""
    by_number = sorted(skipped.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{number:,} {reason}" for reason, number in by_number)


def no_images(given: str, skipped: Counter[str], root: Path) -> str:
    """Return the message that a finished search found no image, with the entries that it skipped."""
    if given == "-":
        return "the list on standard input is empty"
    message = f"no images in {given!r}: looked for *.png, *.jpg and other picture files"
    if skipped:
        message += f"; {describe_skipped(skipped)}"
    if skipped[_LINK_OUT] or skipped[_LINK_TO_FOLDER]:
        message += (
            "\nlinks to folders and out of the folder are not followed, so that a folder from elsewhere cannot reach "
            "your files; name the folder that holds the images, or copy them: "
            f"cp -rL {shlex.quote(str(root))} COPY"
        )
    return message


def describe_skipped(skipped: Counter[str]) -> str:
    """Return the number of skipped entries by reason, the most frequent first, as part of a line."""
    return f"passed over: {listed(skipped)}"


def reason_against_member(name: str) -> str | None:
    """Return why the member `name` of an archive is not taken for an image; the same rules as for files in folders."""
    *folders, file = name.split("/")
    if any(part.startswith(".") and part not in (".", "..") for part in (*folders, file)):
        return "hidden"
    if any(folder.casefold() in SYSTEM_FOLDERS for folder in folders):
        return "system folder"
    return _reason_against_name(file)


def _split_glob(root: str) -> tuple[str, tuple[str, ...]]:
    """Return the folder where the search begins, and one pattern for each level below; () matches anything."""
    if os.path.isdir(root) or not has_magic(root):
        return root, ()
    parts = root.split(os.sep)
    first = next(index for index, part in enumerate(parts) if has_magic(part))
    folder = os.sep.join(parts[:first]) or (os.sep if first else os.curdir)
    return folder, tuple(part for part in parts[first:] if part)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    """Return whether `entry` is a folder or a link to one; its own is_dir() raises for a link that loops."""
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir(follow_symlinks=False)


def _reason_against_folder(entry: "os.DirEntry[str]") -> str | None:
    """Return why `entry` is not searched as a folder, or is not one."""
    if entry.name.startswith("."):
        return "hidden"
    if not _is_folder(entry):
        if entry.is_symlink() and not os.path.exists(entry.path):
            return "link that leads nowhere"
        return _reason_against_name(entry.name) or "image outside of the class folders"
    if entry.name.casefold() in SYSTEM_FOLDERS:
        return "system folder"
    return "link that loops" if entry.is_symlink() and _leads_up(entry.path) else None


def _leads_up(link: str) -> bool:
    """Return whether `link` leads to a folder that contains it, so that a search would never end."""
    places = (os.path.abspath(link), os.path.join(os.path.realpath(os.path.dirname(link)), "link"))
    above = {folder for place in places for folder in Path(place).parents}
    target = os.stat(link)
    return any(os.path.samestat(target, os.stat(folder)) for folder in above)


def _reason_against_file(entry: "os.DirEntry[str]", real_root: str | None) -> str | None:
    """Return why the file `entry` is not taken for an image. Links to folders come here if they are not followed."""
    if entry.name.startswith("."):
        return "hidden"
    if entry.is_symlink():
        if os.path.isdir(entry.path):
            return _LINK_TO_FOLDER
        target = os.path.realpath(entry.path)
        if real_root is not None and os.path.commonpath([target, real_root]) != real_root:
            return _LINK_OUT
        if os.path.islink(target):  # still a link after all links have been followed
            return "link that loops"
    if reason := _reason_against_name(entry.name):
        return reason
    is_file = entry.is_file(follow_symlinks=False) or os.path.isfile(entry.path)  # the first is known already
    return "not a regular file" if not is_file and os.path.exists(entry.path) else None


def _reason_against_name(name: str) -> str | None:
    if os.path.splitext(name)[1].lower() in SUFFIXES:
        return None
    return kind_of_name(name) or "not named as an image"


def _advance(patterns: Patterns, name: str) -> Patterns:
    """Return the patterns for the level below the file or folder `name`; empty if `name` matches none of `patterns`."""
    following: set[tuple[str, ...]] = set()
    for pattern in patterns:
        rest = pattern
        while rest and rest[0] == "**":  # no folder, or one more
            following.add(rest)
            rest = rest[1:]
        if not rest:
            following.add(())
        elif fnmatchcase(name, rest[0]):
            following.add(rest[1:])
    return frozenset(following)
