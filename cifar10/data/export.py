"""Export a data set as PNG files in class folders: ROOT/train/cat/00017.png, ROOT/test/cat/00003.png.

The number is the image's position in its split. A marker in each folder identifies its data, so that a second export
writes nothing, an interrupted one is resumed, and folders that are not exports are not changed.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from cifar10.constants import EXPORT_MARKER
from cifar10.data.class_names import printable
from cifar10.data.image_dataset import DataError, ImageDataset, Split
from cifar10.wording import counted


def export_images(data: ImageDataset, root: Path) -> None:
    """Write `data` below `root`: training and validation images to `train`, in this order, and test images to `test`.

    A folder gets its final name when it is complete. Missing files are added to a folder that already holds these data.

    Raises:
        DataError: A folder exists and holds something else, or cannot be written.
    """
    pool = Split(
        torch.cat([data.train.images[:], data.validation.images[:]]),
        torch.cat([data.train.labels, data.validation.labels]),
    )
    splits = {"train": pool, "test": data.test}
    try:
        for name in splits:
            _refuse_foreign(root / name, data)
        for name, split in splits.items():
            _export_split(split, data, root, name)
    except OSError as error:
        raise DataError(
            f"the images cannot be written to {error.filename or root} ({error.strerror or error}); "
            "fix that and start again: the export resumes"
        ) from error


def _export_split(split: Split, data: ImageDataset, root: Path, name: str) -> None:
    folder, unfinished = root / name, root / f".{name}.unfinished"
    if folder.exists():
        num_written = _write_missing(split, data.class_names, folder)
    else:
        if unfinished.exists() and _read_marker(unfinished) != _marker(data):
            raise DataError(f"{unfinished} is left over from an export of other data; remove it")
        unfinished.mkdir(parents=True, exist_ok=True)
        (unfinished / EXPORT_MARKER).write_text(_marker(data), encoding="utf-8")
        num_written = _write_missing(split, data.class_names, unfinished)
        unfinished.rename(folder)
    print(f"{folder}: {counted(len(split), 'image')}, {num_written:,} of them new", file=sys.stderr)


def _write_missing(split: Split, class_names: tuple[str, ...], folder: Path) -> int:
    """Write the images that `folder` lacks; return how many. Each file is complete when it gets its final name."""
    for class_name in class_names:
        (folder / class_name).mkdir(exist_ok=True)
    present = {str(path.relative_to(folder)) for path in folder.glob("*/*.png")}
    digits = len(str(max(len(split) - 1, 0)))
    names = [f"{class_names[label]}/{row:0{digits}}.png" for row, label in enumerate(split.labels.tolist())]
    missing = [(row, name) for row, name in enumerate(names) if name not in present]
    pixels: NDArray[Any] = split.images[:].permute(0, 2, 3, 1).numpy()  # (N, H, W, 3)
    temporary = folder / ".writing"
    for row, name in tqdm(missing, desc=folder.name, unit=" images", file=sys.stderr, disable=None):
        Image.fromarray(pixels[row]).save(temporary, format="png")
        temporary.rename(folder / name)
    return len(missing)


def _refuse_foreign(folder: Path, data: ImageDataset) -> None:
    if folder.exists() and (marker := _read_marker(folder)) != _marker(data):
        held = marker.partition(" ")[0]
        content = f"holds {printable(held)}" if held else "was not made by an export"
        raise DataError(f"{folder} already exists and {content}; move it away")


def _read_marker(folder: Path) -> str:
    """Return the content of the marker of `folder`; empty if there is none."""
    marker = folder / EXPORT_MARKER
    return marker.read_text(encoding="utf-8", errors="replace") if marker.is_file() else ""


def _marker(data: ImageDataset) -> str:
    return f"{data.name} {data.digest}\n"
