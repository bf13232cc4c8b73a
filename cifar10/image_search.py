"""Where the images are: a folder and all below it, a glob or a single file -> paths, in order and one by one."""

import os
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatchcase
from glob import has_magic
from pathlib import Path

from cifar10.errors import UserError
from cifar10.other_formats import kind_of_name

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


def find_images(root: str, skipped: Counter[str] | None = None) -> Iterator[Path]:
    """Yield the image files of a folder and its sub-folders, or of a glob, or `root` itself if it is a file.

    Sorted by name within each folder; only one folder at a time is held in memory. Passed over: other files by their
    name, hidden ones, system folders below `root`, pipes and devices, links to folders (what is inside `root` is found
    where it lies) and links out of `root`. A folder that cannot be listed is yielded like a file, so that decoding it
    gives the reason.

    Args:
        root: May hold `*`, `?`, `[]` and `**`; a folder that matches is searched too. A file of that very name goes
            first.
        skipped: Here each passed-over entry is counted under its reason.

    Raises:
        UserError: there is no such folder or file.
    """
    skipped = Counter() if skipped is None else skipped
    if os.path.lexists(root) and not os.path.isdir(root):
        return iter([Path(root)])
    folder, pattern = _split_glob(root)
    if not os.path.isdir(folder):
        raise UserError(f"there is no folder or file {root!r}")
    return _walk(folder, pattern, skipped)


def is_system_folder(name: str) -> bool:
    """Tell whether a folder of this name, in any case, is one of `SYSTEM_FOLDERS`. Hidden folders are not."""
    return name.casefold() in SYSTEM_FOLDERS


def describe_skipped(skipped: Counter[str]) -> str:
    """Return how many were passed over for which reason, the most frequent first, as a part of a line."""
    by_number = sorted(skipped.items(), key=lambda item: (-item[1], item[0]))
    listed = ", ".join(f"{number:,} {reason}" for reason, number in by_number)
    advice = "; convert HEIC photos to JPEG first (heif-convert, sips, ImageMagick)" if "HEIC photo" in skipped else ""
    return f"passed over: {listed}{advice}"


def search_root(root: str) -> Path:
    """Return the folder to which the names of `find_images(root)` are relative: of a glob, its fixed beginning."""
    if os.path.lexists(root) and not os.path.isdir(root):
        return Path(root).parent
    return Path(_split_glob(root)[0])


def _split_glob(root: str) -> tuple[str, tuple[str, ...]]:
    """Return the folder where the search begins, and the rest as one pattern a level; () is all there is."""
    if os.path.isdir(root) or not has_magic(root):
        return root, ()
    parts = root.split(os.sep)
    first = next(index for index, part in enumerate(parts) if has_magic(part))
    folder = os.sep.join(parts[:first]) or (os.sep if first else os.curdir)
    return folder, tuple(part for part in parts[first:] if part)


def _walk(folder: str, pattern: tuple[str, ...], skipped: Counter[str]) -> Iterator[Path]:
    real_root = os.path.realpath(folder)
    pending = [
        _list_folder(folder, frozenset([pattern]), real_root, skipped)
    ]  # a stack: folders nest deeper than Python
    while pending:
        for path, patterns in pending[-1]:
            if patterns is None:
                yield Path(path)
            else:
                pending.append(_list_folder(path, patterns, real_root, skipped))
                break
        else:
            pending.pop()


def _list_folder(
    folder: str, patterns: Patterns, real_root: str, skipped: Counter[str]
) -> Iterator[tuple[str, Patterns | None]]:
    """Yield (path, None) for each image in `folder`, and (path, patterns) for each folder to search, by name."""
    try:
        with os.scandir(folder) as entries:
            found = [item for entry in entries if (item := _look_at(entry, patterns, real_root, skipped))]
    except OSError:
        yield folder, None
        return
    for name, deeper in sorted(found, key=lambda item: item[0]):
        yield os.path.join(folder, name), deeper


def _look_at(
    entry: "os.DirEntry[str]", patterns: Patterns, real_root: str, skipped: Counter[str]
) -> tuple[str, Patterns | None] | None:
    """Return (name, None) for an image, (name, patterns below) for a folder, None for what is passed over."""
    deeper = _advance(patterns, entry.name)
    if not deeper:
        return None
    is_folder = entry.is_dir(follow_symlinks=False)
    reason = _reason_to_skip_folder(entry.name) if is_folder else _reason_to_skip(entry, real_root)
    if reason:
        skipped[reason] += 1
        return None
    if is_folder:
        return entry.name, deeper
    return (entry.name, None) if any(set(rest) <= {"**"} for rest in deeper) else None


def _reason_to_skip_folder(name: str) -> str | None:
    if name.startswith("."):
        return "hidden"
    return "system folder" if is_system_folder(name) else None


def _reason_to_skip(entry: "os.DirEntry[str]", real_root: str) -> str | None:
    if entry.name.startswith("."):
        return "hidden"
    if entry.is_symlink() and (reason := _reason_to_skip_link(entry, real_root)):
        return reason
    if os.path.splitext(entry.name)[1].lower() not in SUFFIXES:
        return kind_of_name(entry.name) or "not named as an image"
    if os.path.exists(entry.path) and not os.path.isfile(entry.path):
        return "not a regular file"
    return None


def _reason_to_skip_link(link: "os.DirEntry[str]", real_root: str) -> str | None:
    if os.path.isdir(link.path):  # link.is_dir() raises if it loops
        return "link to a folder"
    target = os.path.realpath(link.path)
    if os.path.commonpath([target, real_root]) != real_root:
        return "link out of the folder"
    return "link that loops" if os.path.islink(target) else None  # a link even after every link was followed


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
