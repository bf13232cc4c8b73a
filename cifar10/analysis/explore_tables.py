"""The tables of `explore`: one row for each image, pair or label, for other programs and for spreadsheets."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cifar10.analysis.explore_findings import Findings
from cifar10.data.collection import Collection

TABLES = ("images.csv", "copies.csv", "near_duplicates.csv", "suspected_labels.csv", "unreadable.csv")
"""Names of files; those that an exploration has nothing for are not written."""


def explore_tables(findings: Findings) -> dict[str, pd.DataFrame]:
    """Return the tables by the names of their files; those that were not asked for, or have nothing, are left out."""
    tables = {
        "images.csv": _image_table(findings),
        "copies.csv": _copies_table(findings),
        "near_duplicates.csv": _pair_table(findings),
        "suspected_labels.csv": _label_table(findings),
    }
    if findings.collection.unreadable:
        files = [(_storable(file), _storable(reason)) for file, reason in findings.collection.unreadable]
        tables["unreadable.csv"] = pd.DataFrame(files, columns=["file", "reason"])
    return {name: table for name, table in tables.items() if table is not None}


def _storable(name: str) -> str:
    r"""Return a name as UTF-8 can hold it: bytes that are not UTF-8 as \xNN, as in the results of `infer`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _places(
    collection: Collection, images: Sequence[int] | NDArray[np.int64], prefix: str = ""
) -> dict[str, list[Any]]:
    """Return columns that say which images these are."""
    numbers = [int(image) for image in images]
    places = [collection.place(image) for image in numbers]
    columns: dict[str, list[Any]] = {
        f"{prefix}split": [split for split, _ in places],
        f"{prefix}position": [position for _, position in places],
    }
    if collection.class_names:
        columns[f"{prefix}class"] = [collection.class_of(image) for image in numbers]
    if any(split.files is not None for split in collection.splits.values()):
        columns[f"{prefix}file"] = [None if file is None else _storable(file) for file in map(collection.file, numbers)]
    return columns


def _image_table(findings: Findings) -> pd.DataFrame:
    measures, (oddities, _) = findings.appearance, findings.oddities
    columns = _places(findings.collection, range(len(findings.collection)))
    for name in ("brightness", "contrast", "colourfulness", "sharpness"):
        columns[name] = getattr(measures, name)
    if findings.collection.num_pixels is not None:
        columns["pixels"] = list(findings.collection.num_pixels)
    return pd.DataFrame({**columns, "oddity": oddities})


def _copies_table(findings: Findings) -> pd.DataFrame:
    groups = [number for number, group in enumerate(findings.copies) for _ in group]
    images = [int(image) for group in findings.copies for image in group]
    return pd.DataFrame({"group": groups, **_places(findings.collection, images)})


def _pair_table(findings: Findings) -> pd.DataFrame | None:
    pairs = findings.pairs
    if pairs is None:
        return None
    columns = {
        "score": pairs.score,
        "likely": pairs.is_likely,
        "similarity": pairs.similarity,
        "mirrored": pairs.is_mirrored,
    }
    first, second = (
        _places(findings.collection, images, f"{name}_")
        for name, images in (("first", pairs.first), ("second", pairs.second))
    )
    return pd.DataFrame({**columns, **first, **second})


def _label_table(findings: Findings) -> pd.DataFrame | None:
    issues = findings.issues
    if issues is None:
        return None
    ranking = issues.ranking()
    names = np.array(findings.collection.class_names, dtype=object)
    return pd.DataFrame(
        {
            **_places(findings.collection, ranking),
            "suggested": names[issues.suggested[ranking]],
            "suspicion": issues.suspicion[ranking],
            "probability": issues.own_probability[ranking],
            "suggested_probability": issues.suggested_probability[ranking],
            "suspected": issues.is_suspected[ranking],
        }
    )
