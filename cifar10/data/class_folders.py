"""Scan an image folder data set: its splits, classes, files, and ignored entries.

    ROOT/train/cat/1.png   ROOT/val/cat/2.png   ROOT/test/cat/3.png

Links are followed, wherever they lead: clusters, DVC and git-annex link everything. Nothing is left out in silence.
"""

import logging
import os
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import yaml

from cifar10.data.class_names import ClassFolders, few, in_order, is_utf8, nfc, printable
from cifar10.data.image_dataset import DataError, MissingDataError
from cifar10.images.search import ImageSearch, list_folders, listed
from cifar10.suggest import did_you_mean, did_you_mean_path

_LOGGER = logging.getLogger(__name__)
_SPLITS = {"train": "train", "test": "test", **dict.fromkeys(("val", "valid", "validation"), "validation")}
"""Case-folded name of a folder -> the split that it holds."""

LabelledFile = tuple[Path, int]
"""An image file and the id of its class."""


@dataclass(frozen=True)
class SplitFolders:
    """The folder of each split; None where there is none."""

    train: Path
    validation: Path | None
    test: Path | None


def find_splits(root: Path) -> SplitFolders:
    """Return the folders of `root` that hold the splits, in any case: train, test, and val, valid or validation.

    Raises:
        DataError: There is no train, or two folders are the same split.
    """
    names = _folders_in(root)[0] if os.path.isdir(root) else []
    by_split = defaultdict(list)
    for name in names:
        by_split[_SPLITS.get(name.casefold(), "")].append(name)
    others = by_split.pop("", [])
    if "train" not in by_split:
        _refuse_missing(root, names)
    for split, found in by_split.items():
        if len(found) > 1:
            raise DataError(f"{' and '.join(found)} in {root} are both the {split} split; join them, or move one away")
    if others:
        _LOGGER.warning(
            "beside %s are folders that are no split, and are not used: %s", by_split["train"][0], few(others)
        )
    train, validation, test = (_one(root, by_split[split]) for split in ("train", "validation", "test"))
    assert train is not None
    return SplitFolders(train, validation, test)


def find_classes(train: Path, wanted: Sequence[str | int] | None) -> tuple[list[str], list[str]]:
    """Return the names of the classes in the order of their ids, and all class folders of `train`.

    Args:
        train: Folder of the training split.
        wanted: Names to choose, in this order; None chooses all class folders.

    Raises:
        DataError: There are fewer than two, one is not there or there twice, or has a name that is no text.
    """
    folders, skipped = _folders_in(train)
    present = in_order(folders)
    _refuse_no_text(train, present)
    _refuse_twice(present, f"{train} has two folders of the same name in other Unicode forms")
    for alike in ClassFolders(present).alike():
        _LOGGER.warning("%s are classes of their own, told apart by nothing but spelling", few(alike))
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
    """Return the images in the class folders of `split`, sorted by path; say what else is there and passed over.

    Args:
        split: Folder of a split.
        names: The classes, in the order of their ids.
        present: All class folders of the training split; those that `names` does not mean were not chosen.

    Raises:
        DataError: A folder that holds images is no class, or cannot be listed.
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


def _one(root: Path, names: Sequence[str]) -> Path | None:
    return root / names[0] if names else None


def _folders_in(folder: Path) -> tuple[list[str], Counter[str]]:
    try:
        return list_folders(str(folder))
    except OSError as error:
        raise DataError(f"{folder} cannot be listed: {error.strerror or error}") from None


def _name(wanted: str | int, present: Sequence[str]) -> str:
    """Return the name that `wanted` means. A number means the folder that is written like it and no other.

    Raises:
        DataError: YAML would read several, or another, of `present` as that number.
    """
    if isinstance(wanted, str):
        return wanted
    others = [name for name in present if re.fullmatch(r"[-+]?[0-9][0-9a-fxA-FX_:]*", name)]
    alike = [name for name in others if name == str(wanted) or yaml.safe_load(name) == wanted]
    if alike in ([], [str(wanted)]):
        return str(wanted)
    raise DataError(
        f"data_loading.classes: YAML reads {' and '.join(alike)} as {wanted}; write the name in quotes, as in "
        f'classes: ["{alike[-1]}"]'
    )


def _refuse_missing(root: Path, present: Sequence[str]) -> NoReturn:
    if not os.path.isdir(root):
        hint = did_you_mean_path(str(root))
        raise MissingDataError(
            f"there is no folder {root}{hint or '; set data_loading.root to the one that holds train'}"
        )
    train = root / "train"
    if any("\\" in name for name in os.listdir(root)):
        raise DataError(
            f"there is no folder {train}; names there hold backslashes, as an archive from Windows has them; unpack it "
            "anew with unzip"
        )
    if near := [name for name in present if name.casefold().startswith("train")]:
        raise MissingDataError(f"there is no folder {train}; rename {root / near[0]}")
    classes = [name for name in present if name.casefold() not in _SPLITS]
    below = [name for name in present if os.path.isdir(root / name / "train")]
    if len(below) == 1:
        advice = f"it is in {root / below[0]}: data_loading.root={root / below[0]}"
    elif len(classes) > 1 and root.name.casefold() == "train":
        advice = f"name the folder that {root.name} is in: data_loading.root={root.parent}"
    elif len(classes) > 1 and len(classes) == len(present):
        advice = f"if {few(classes)} in {root} are the class folders, move them into it"
    else:
        advice = f"put one folder of images for each class there, such as {train / 'cat' / '1.png'}"
    raise MissingDataError(f"there is no folder {train}; {advice}")


def _refuse_no_text(train: Path, names: Sequence[str]) -> None:
    """Refuse names that are no UTF-8: no checkpoint, table or figure could hold them."""
    for name in names:
        if not is_utf8(name):
            pattern = "".join(c if c.isalnum() else "?" for c in name)  # what a shell finds it by
            raise DataError(
                f"the class folder {printable(name)} in {train} has a name that is not UTF-8; rename it: "
                f"mv {shlex.quote(str(train))}/{pattern} {shlex.quote(str(train))}/NAME"
            )


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
        told = f"the folder {printable(strange[0])} is no class of the training images{hint}"
    else:
        told = f"the folders {few(strange)} are no classes of the training images; those are {few(present)}."
    raise DataError(f"{split}: {told} Rename {'it' if len(strange) == 1 else 'them'}, or move what is no class away")
