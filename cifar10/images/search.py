"""Find image files: in a folder and its sub-folders, by a glob, or a single file; sorted, one at a time."""

import os
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
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
)
"""Names that end so, in any case, are taken for images when a folder is searched."""

SYSTEM_FOLDERS = frozenset(
    [
        *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@tmp"),  # Synology, QNAP
        *("__macosx", "network trash folder", "temporary items"),  # macOS, also inside zip archives and on shares
        *("$recycle.bin", "system volume information", "found.000"),  # Windows; "recycled" may well be a class of waste
        *("lost+found", "~snapshot"),  # ext4, NetApp
        "__pycache__",
    ]
)
"""Folders that operating systems and network storage make: thumbnails, trash, snapshots. Names are case-folded."""

Patterns = frozenset[tuple[str, ...]]
"""What may still follow below a folder, one pattern a level; () is anything."""

_LINK_OUT, _LINK_TO_FOLDER = "link out of the folder", "link to a folder"


class ImageSearch(Iterator[Path]):
    """The image files of a folder and its sub-folders, of a glob, or one file; found while it is iterated over.

    Sorted by name within each folder; only one folder at a time is held in memory. Passed over: other files by their
    name, hidden ones, system folders below `root`, pipes and devices, links to folders (what is inside `root` is found
    where it lies) and links out of `root`. A folder that cannot be listed is yielded like a file, so that decoding it
    gives the reason.

    Args:
        given: May hold `*`, `?`, `[]` and `**`; a folder that matches is searched too. A file of that very name goes
            first.
        follow_links: Also take links to files and folders, wherever they lead, but for a link to a folder that it lies
            in itself.

    Raises:
        UserError: There is no such folder or file.
    """

    def __init__(self, given: str, follow_links: bool = False) -> None:
        self.given = given
        self.skipped: Counter[str] = Counter()
        """Reason -> entries that were passed over so far; complete when the search has ended."""
        self._paths: Iterator[Path]
        if os.path.lexists(given) and not os.path.isdir(given):
            folder, self._paths = os.path.dirname(given), iter([Path(given)])
        else:
            folder, pattern = _split_glob(given)
            if not os.path.isdir(folder):
                raise UserError(f"there is no folder or file {given!r}{did_you_mean_path(given)}")
            real_root = None if follow_links else os.path.realpath(folder)
            self._paths = _walk(folder, pattern, _Search(self.skipped, real_root))
        self.root = Path(folder)
        """The folder to which names are relative: of a glob, its fixed beginning."""

    def __next__(self) -> Path:
        return next(self._paths)

    def is_empty(self) -> bool:
        """Tell whether no image is left; the first that there is will still be yielded."""
        first = next(self._paths, None)
        if first is None:
            return True
        self._paths = chain([first], self._paths)
        return False


def list_folders(folder: str) -> tuple[list[str], Counter[str]]:
    """Return the names of the folders in `folder`, and of links to folders, sorted; and reason -> other entries.

    Raises:
        OSError: It cannot be listed.
    """
    names: list[str] = []
    skipped: Counter[str] = Counter()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name == EXPORT_MARKER:
                continue
            reason = _reason_against_folder(entry)
            if reason is None:
                names.append(entry.name)
            else:
                skipped[reason] += 1
    return sorted(names), skipped


def listed(skipped: Counter[str]) -> str:
    """Return what was passed over in words, the most frequent reason first: `3 hidden, 1 system folder`."""
    by_number = sorted(skipped.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{number:,} {reason}" for reason, number in by_number)


def no_images(search: ImageSearch) -> str:
    """Return the message that a search which has ended found no image, with what it passed over."""
    told = f"no images in {search.given!r}: looked for *.png, *.jpg and other picture files"
    if search.skipped:
        told += f"; {describe_skipped(search.skipped)}"
    if search.skipped[_LINK_OUT] or search.skipped[_LINK_TO_FOLDER]:
        told += (
            "\nlinks to folders and out of the folder are not followed, so that a folder from elsewhere cannot reach "
            "your files; name the folder that holds the images, or copy them: "
            f"cp -rL {shlex.quote(str(search.root))} COPY"
        )
    return told


def is_system_folder(name: str) -> bool:
    """Tell whether a folder of this name, in any case, is one of `SYSTEM_FOLDERS`. Hidden folders are not."""
    return name.casefold() in SYSTEM_FOLDERS


def describe_skipped(skipped: Counter[str]) -> str:
    """Return how many were passed over for which reason, the most frequent first, as a part of a line."""
    advice = "; convert HEIC photos to JPEG first (heif-convert, sips, ImageMagick)" if "HEIC photo" in skipped else ""
    return f"passed over: {listed(skipped)}{advice}"


def _split_glob(root: str) -> tuple[str, tuple[str, ...]]:
    """Return the folder where the search begins, and the rest as one pattern a level; () is all there is."""
    if os.path.isdir(root) or not has_magic(root):
        return root, ()
    parts = root.split(os.sep)
    first = next(index for index, part in enumerate(parts) if has_magic(part))
    folder = os.sep.join(parts[:first]) or (os.sep if first else os.curdir)
    return folder, tuple(part for part in parts[first:] if part)


@dataclass(frozen=True)
class _Search:
    """What holds for one search from its beginning to its end."""

    skipped: Counter[str]
    real_root: str | None
    """Where links to files may lead; None: anywhere, and links to folders are followed too."""


def _walk(folder: str, pattern: tuple[str, ...], search: _Search) -> Iterator[Path]:
    pending = [_list_folder(folder, frozenset([pattern]), search)]  # a stack: folders nest deeper than Python
    while pending:
        for path, patterns in pending[-1]:
            if patterns is None:
                yield Path(path)
            else:
                pending.append(_list_folder(path, patterns, search))
                break
        else:
            pending.pop()


def _list_folder(folder: str, patterns: Patterns, search: _Search) -> Iterator[tuple[str, Patterns | None]]:
    """Yield (path, None) for each image in `folder`, and (path, patterns) for each folder to search, by name."""
    try:
        with os.scandir(folder) as entries:
            found = [item for entry in entries if (item := _look_at(entry, patterns, search))]
    except OSError:
        yield folder, None
        return
    for name, deeper in sorted(found, key=lambda item: item[0]):
        yield os.path.join(folder, name), deeper


def _look_at(entry: "os.DirEntry[str]", patterns: Patterns, search: _Search) -> tuple[str, Patterns | None] | None:
    """Return (name, None) for an image, (name, patterns below) for a folder, None for what is passed over."""
    deeper = _advance(patterns, entry.name)
    if not deeper or entry.name == EXPORT_MARKER:
        return None
    is_folder = _is_folder(entry) if search.real_root is None else entry.is_dir(follow_symlinks=False)
    reason = _reason_against_folder(entry) if is_folder else _reason_against_file(entry, search.real_root)
    if reason:
        search.skipped[reason] += 1
        return None
    if is_folder:
        return entry.name, deeper
    return (entry.name, None) if any(set(rest) <= {"**"} for rest in deeper) else None


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    """Tell whether `entry` is a folder or a link to one; its own is_dir() raises for a link that loops."""
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir(follow_symlinks=False)


def _reason_against_folder(entry: "os.DirEntry[str]") -> str | None:
    if entry.name.startswith("."):
        return "hidden"
    if not _is_folder(entry):
        return _reason_against_loose(entry)
    if is_system_folder(entry.name):
        return "system folder"
    return "link that loops" if entry.is_symlink() and _leads_up(entry.path) else None


def _reason_against_loose(entry: "os.DirEntry[str]") -> str:
    """Return why something that is no folder is none of those that are looked for."""
    if entry.is_symlink() and not os.path.exists(entry.path):
        return "link that leads nowhere"
    if _is_named_as_image(entry.name):
        return "image outside of the class folders"
    return kind_of_name(entry.name) or "not named as an image"


def _leads_up(link: str) -> bool:
    """Tell whether `link` leads to one of the folders that it lies in, so that a search would never end."""
    places = (os.path.abspath(link), os.path.join(os.path.realpath(os.path.dirname(link)), "link"))
    above = {folder for place in places for folder in Path(place).parents}
    target = os.stat(link)
    return any(os.path.samestat(target, os.stat(folder)) for folder in above)


def _reason_against_file(entry: "os.DirEntry[str]", real_root: str | None) -> str | None:
    if entry.name.startswith("."):
        return "hidden"
    if entry.is_symlink() and (reason := _reason_against_link(entry, real_root)):
        return reason
    if not _is_named_as_image(entry.name):
        return kind_of_name(entry.name) or "not named as an image"
    if os.path.exists(entry.path) and not os.path.isfile(entry.path):
        return "not a regular file"
    return None


def _reason_against_link(link: "os.DirEntry[str]", real_root: str | None) -> str | None:
    """Return why a link to a file is not followed; to a folder it only comes here if such are not."""
    if os.path.isdir(link.path):
        return _LINK_TO_FOLDER
    target = os.path.realpath(link.path)
    if real_root is not None and os.path.commonpath([target, real_root]) != real_root:
        return _LINK_OUT
    return "link that loops" if os.path.islink(target) else None  # a link even after every link was followed


def _is_named_as_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def _advance(patterns: Patterns, name: str) -> Patterns:
    """Return what may follow below `name`, a file or folder to which `patterns` lead. Empty: it does not match."""
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
