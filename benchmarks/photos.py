"""Folders of photos for benchmarks: seeded crops of a few photographs, mirrored, brighter or darker, as JPEG files."""

import random
from pathlib import Path

from PIL import Image, ImageEnhance

_QUALITY = 90


def make_photos(originals: Path, folder: Path, number: int, width: int, height: int) -> None:
    """Write `number` photos of width x height pixels into one class folder for each original.

    Args:
        originals: Contains *.jpg.
        folder: Files that it has are kept.
        number: Of photos in all.
        width: In pixels.
        height: In pixels.
    """
    pictures = [Image.open(path).convert("RGB") for path in sorted(originals.glob("*.jpg"))]
    for position in range(number):
        path = folder / f"class{position % len(pictures)}" / f"{position:06}.jpg"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _variation(pictures[position % len(pictures)], position, width, height).save(path, quality=_QUALITY)


def _variation(picture: Image.Image, seed: int, width: int, height: int) -> Image.Image:
    draw = random.Random(seed)
    part = draw.uniform(0.5, 0.95)
    left, top = (draw.uniform(0, side * (1 - part)) for side in picture.size)
    box = (left, top, left + picture.width * part, top + picture.height * part)
    crop = picture.resize((width, height), Image.Resampling.BILINEAR, box=box)
    if draw.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return ImageEnhance.Brightness(crop).enhance(draw.uniform(0.7, 1.3))
