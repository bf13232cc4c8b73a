"""The most similar images come first, copies before all, and each image is embedded once."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cifar10.config.compose import load_config
from cifar10.errors import UserError
from cifar10.images.sources import open_source
from cifar10.inference.destination import choose_destination
from cifar10.similar import similar
from cifar10.train import train
from tests.malformed import picture
from tests.test_probe import num_embedded  # noqa: F401
from tests.tiny_run import TINY


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run, and a folder of red, green and noisy images, with a copy of the photo and a damaged file."""
    root = tmp_path_factory.mktemp("similar")
    torch.set_num_threads(1)
    train(load_config([*TINY, f"models_dir={root}/models", "run_name=run"]))
    noise = np.random.default_rng(0).integers(0, 30, (20, 24, 24, 3), np.uint8)
    (root / "images" / "deep").mkdir(parents=True)
    for number, colour in enumerate([(220, 30, 30)] * 5 + [(30, 220, 30)] * 5):
        pixels = noise[number] + np.array(colour, np.uint8)
        Image.fromarray(pixels).save(root / "images" / "deep" / f"{'red' if number < 5 else 'green'}{number}.png")
    Image.fromarray(noise[19] + np.array((220, 30, 30), np.uint8)).save(root / "photo.png")
    Image.open(root / "photo.png").save(root / "images" / "copy.png")
    Image.fromarray(picture(size=24)).save(root / "images" / "noise.png")
    (root / "images" / "broken.png").write_bytes(b"broken")
    return root


def rows_of(folder: Path, name: str, **options: Any) -> tuple[list[str], int]:
    output = folder / name
    destination = choose_destination(str(output), None)
    checkpoint = folder / "models" / "run" / "best.ckpt"
    search = open_source(str(folder / "images"))
    cache = str(folder / "cache")
    failed = similar(str(folder / "photo.png"), search, destination, checkpoint, cache=cache, **options)
    return output.read_text().splitlines(), failed


def test_a_copy_is_first_then_images_of_the_same_kind(folder: Path) -> None:
    lines, failed = rows_of(folder, "rows.jsonl", top_k=20)
    rows = [json.loads(line) for line in lines]
    names = [Path(row["path"]).stem for row in rows]
    assert names[0] == "copy" and rows[0]["similarity"] > 0.9999
    assert all(name.startswith("red") for name in names[1:6])
    similarities = [row["similarity"] for row in rows]
    assert similarities == sorted(similarities, reverse=True) and len(rows) == 12 and failed == 1


def test_a_network_that_gives_no_numbers_is_refused(folder: Path) -> None:
    raw = torch.load(folder / "models" / "run" / "best.ckpt", weights_only=True)
    for tensor in raw["state_dict"].values():
        tensor.fill_(float("nan") if tensor.is_floating_point() else 0)
    torch.save(raw, folder / "diverged.ckpt")
    search, destination = open_source(str(folder / "images")), choose_destination(str(folder / "none.jsonl"), None)
    with pytest.raises(UserError, match="the network gives no numbers for the photo: it has diverged, or is damaged"):
        similar(str(folder / "photo.png"), search, destination, folder / "diverged.ckpt", cache=str(folder / "empty"))
    assert not list((folder / "empty").rglob("*.npz"))


def test_tables_hold_as_many_rows_as_are_wanted(folder: Path) -> None:
    assert rows_of(folder, "rows.csv", top_k=2)[0][0] == "path,similarity"
    assert len(rows_of(folder, "rows.csv", top_k=2)[0]) == 3
    assert rows_of(folder, "rows.txt", top_k=1)[0][1].split()[0] == "1.0000"


def test_embeddings_are_kept(folder: Path, num_embedded: list[int]) -> None:  # noqa: F811
    rows_of(folder, "rows.csv")
    before = sum(num_embedded)
    rows_of(folder, "rows.csv")
    assert sum(num_embedded) == before
