"""Scan an image folder data set: its splits, classes, files, and ignored entries.

    ROOT/train/cat/1.png   ROOT/val/cat/2.png   ROOT/test/cat/3.png    or without splits:   ROOT/cat/1.png

Links are followed, wherever they lead: clusters, DVC and git-annex link everything. Skipped entries are reported.
"""

import logging
import os
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import yaml

from cifar10.data.class_names import ClassFolders, few, in_order, is_utf8, nfc, printable
from cifar10.data.image_dataset import DataError, MissingDataError
from cifar10.images.search import ImageSearch, list_folders, listed
from cifar10.suggest import did_you_mean, did_you_mean_path

_LOGGER = logging.getLogger(__name__)
_SPLITS = {"train": "train", "test": "test", **dict.fromkeys(("val", "valid", "validation"), "validation")}
"""Case-folded name of a folder -> its split."""

LabelledFile = tuple[Path, int]
"""An image file and the id of its class."""


class SplitFolders(NamedTuple):
    """The folder of each split; None if it does not exist."""

    train: Path
    validation: Path | None
    test: Path | None
    is_undivided: bool = False
    """The class folders are in `train` itself, which is the root, and the images are to be divided into splits."""


def find_splits(root: Path) -> SplitFolders:
    """Return the folders of the splits in `root`, with names in any case: train, test, and val, valid or validation.

    Without these, two or more folders with images are classes.

    Raises:
        DataError: There is neither a training folder nor classes, or two folders are the same split.
    """
    names = _folders_in(root)[0] if os.path.isdir(root) else []
    by_split: dict[str, list[str]] = {"train": [], "validation": [], "test": [], "": []}
    for name in names:
        by_split[_SPLITS.get(name.casefold(), "")].append(name)
    others = by_split.pop("")
    if not by_split["train"]:
        if not (by_split["validation"] or by_split["test"]) and _has_classes(root, names):
            return SplitFolders(root, None, None, is_undivided=True)
        _refuse_missing(root, names)
    for split, found in by_split.items():
        if len(found) > 1:
            raise DataError(f"{' and '.join(found)} in {root} are both the {split} split; join them, or move one away")
    if others:
        _LOGGER.warning("folders beside %s are not a split and are not used: %s", by_split["train"][0], few(others))
    train, validation, test = (root / found[0] if found else None for found in by_split.values())
    assert train is not None
    return SplitFolders(train, validation, test)


def find_classes(
    train: Path, wanted: Sequence[str | int] | None, is_undivided: bool = False
) -> tuple[list[str], list[str]]:
    """Return the names of the classes in the order of their ids, and all class folders of `train`.

    Args:
        train: Folder of the training split.
        wanted: Names to choose, in this order; None chooses all class folders.
        is_undivided: `train` is no split: folders without an image are not classes.

    Raises:
        DataError: There are fewer than two, one is missing or named twice, or a name is not UTF-8.
    """
    folders, skipped = _folders_in(train)
    present = in_order(name for name in folders if not is_undivided or _has_image(train / name))
    for name in present:
        if not is_utf8(name):  # no checkpoint, table or figure could contain it
            pattern = "".join(c if c.isalnum() else "?" for c in name)  # a glob that a shell expands to the name
            raise DataError(
                f"the class folder {printable(name)} in {train} has a name that is not UTF-8; rename it: "
                f"mv {shlex.quote(str(train))}/{pattern} {shlex.quote(str(train))}/NAME"
            )
    _refuse_twice(present, f"{train} has two folders of the same name in other Unicode forms")
    for alike in ClassFolders(present).alike():
        _LOGGER.warning("%s are separate classes that differ only in spelling", few(alike))
    names = present if wanted is None else [_name(item, present) for item in wanted]
    if len(names) < 2:
        _refuse_too_few(train, len(present), skipped, None if wanted is None else len(names))
    _refuse_twice(names, "data_loading.classes names a class twice")
    known = ClassFolders(names)
    there = {known.find(name) for name in present}
    for class_id, name in enumerate(names):
        if class_id not in there:
            hint = did_you_mean(name, present) or f"; there are {few(present)}"
            raise DataError(f"data_loading.classes: there is no folder {train / name}{hint}")
    return names, present


def labelled_files(split: Path, names: Sequence[str], present: Sequence[str]) -> list[LabelledFile]:
    """Return the images in the class folders of `split`, sorted by path; warn about skipped entries.

    Args:
        split: Folder of a split.
        names: The classes, in the order of their ids.
        present: All class folders of the training split; those not in `names` are ignored.

    Raises:
        DataError: A folder that contains images is not a class, or cannot be listed.
    """
    known, others = ClassFolders(names), ClassFolders(present)
    folders, skipped = _folders_in(split)
    files: list[LabelledFile] = []
    strange: list[str] = []
    for name in folders:
        label = known.find(name)
        search = ImageSearch(str(split / name), follow_links=True)
        if label is not None:
            files += [(path, label) for path in search]
            skipped += search.skipped
        elif others.find(name) is None:
            if search.is_empty():
                skipped["folder without an image"] += 1
            else:
                strange.append(name)
    if strange:
        _refuse_strange(split, strange, present)
    if skipped:
        _LOGGER.warning("%s: passed over: %s", split, listed(skipped))
    return files


def _has_classes(root: Path, names: Sequence[str]) -> bool:
    """Return whether `names`, folders in `root`, are classes, and not misnamed splits or data sets of their own."""
    if root.name.casefold() == "train":
        return False
    if any(name.casefold().startswith("train") or os.path.isdir(root / name / "train") for name in names):
        return False
    return sum(_has_image(root / name) for name in names) > 1


def _has_image(folder: Path) -> bool:
    return not ImageSearch(str(folder), follow_links=True).is_empty()


def _folders_in(folder: Path) -> tuple[list[str], Counter[str]]:
    try:
        return list_folders(str(folder))
    except OSError as error:
        raise DataError(f"{folder} cannot be listed: {error.strerror or error}") from None


def _name(wanted: str | int, present: Sequence[str]) -> str:
    """Return the class name `wanted` as text.

    Raises:
        DataError: `wanted` is a number that YAML reads from another, or from more than one, name in `present`.
    """
    if isinstance(wanted, str):
        return wanted
    numbers = [name for name in present if re.fullmatch(r"[-+]?[0-9][0-9a-fxA-FX_:]*", name)]
    alike = [name for name in numbers if name == str(wanted) or yaml.safe_load(name) == wanted]
    if alike in ([], [str(wanted)]):
        return str(wanted)
    raise DataError(
        f"data_loading.classes: YAML reads {' and '.join(alike)} as {wanted}; write the name in quotes, as in "
        f'classes: ["{alike[-1]}"]'
    )


def _refuse_missing(root: Path, present: Sequence[str]) -> NoReturn:
    if not os.path.isdir(root):
        hint = did_you_mean_path(str(root)) or "; set data_loading.root to the folder that contains train"
        raise MissingDataError(f"there is no folder {root}{hint}")
    train = root / "train"
    if any("\\" in name for name in os.listdir(root)):
        raise DataError(
            f"there is no folder {train}; names in {root} contain backslashes, as in archives from Windows; unpack the "
            "archive again with unzip"
        )
    near = [name for name in present if name.casefold().startswith("train")]
    classes = [name for name in present if name.casefold() not in _SPLITS]
    below = [name for name in present if os.path.isdir(root / name / "train")]
    if near:
        advice = f"rename {root / near[0]}"
    elif len(below) == 1:
        advice = f"it is in {root / below[0]}: data_loading.root={root / below[0]}"
    elif len(classes) > 1 and root.name.casefold() == "train":
        advice = f"name the folder that contains {root.name}: data_loading.root={root.parent}"
    elif (filled := [name for name in classes if _has_image(root / name)]) and len(filled) == 1:
        raise MissingDataError(f"{root} has images of one class only, {filled[0]}; add a folder for each other class")
    else:
        advice = (
            f"put a folder of images for each class into {root}, such as {root / 'cat' / '1.png'}, "
            "or into train, val and test there; or name another folder: data_loading.root=DIR"
        )
    raise MissingDataError(f"there is no folder {train}; {advice}")


def _refuse_twice(names: Sequence[str], complaint: str) -> None:
    twice = [name for name, times in Counter(map(nfc, names)).items() if times > 1]
    if twice:
        raise DataError(f"{complaint}: {few(twice)}")


def _refuse_too_few(train: Path, num_folders: int, skipped: Counter[str], num_wanted: int | None) -> NoReturn:
    if num_wanted is not None:
        raise DataError(f"data_loading.classes names {num_wanted}; a classifier needs at least 2")
    passed_over = f" (passed over: {listed(skipped)})" if skipped else ""
    raise DataError(
        f"{train} has {num_folders} class folders{passed_over}; a classifier needs at least 2: put the images of each "
        f"class into a folder of its own, such as {train / 'cat' / '1.png'}"
    )


def _refuse_strange(split: Path, strange: Sequence[str], present: Sequence[str]) -> NoReturn:
    if len(strange) == 1:
        hint = did_you_mean(strange[0], present) or f"; the classes are {few(present)}."
        problem = f"the folder {printable(strange[0])} is not a class of the training images{hint} Rename it"
    else:
        classes = f"the classes of the training images, which are {few(present)}"
        problem = f"the folders {few(strange)} are not among {classes}. Rename them"
    raise DataError(f"{split}: {problem}, or move folders that are not classes away")
