"""Left and right: found to matter where they do, and views that score worse are not used."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from cifar10.config.build import build
from cifar10.config.compose import load_config
from cifar10.config.targets import DATA
from cifar10.data.image_dataset import ImageDataset, Split
from cifar10.runs.checkpoints import load_checkpoint
from cifar10.train import train
from cifar10.training.mirroring import MirrorTest, measure_mirroring

SIZE = 16


def stripes(num_images: int, seed: int) -> Split:
    """Return noisy stripes that rise (class 0) or fall (class 1): each class is the mirror image of the other."""
    random = np.random.default_rng(seed)
    labels = np.arange(num_images) % 2
    row, column = np.mgrid[:SIZE, :SIZE]
    phase = random.uniform(0, 2 * np.pi, (num_images, 1, 1))
    slope = np.where(labels == 0, 1, -1)[:, None, None]
    grey = 127 + 80 * np.sin(0.8 * (row + slope * column) + phase) + random.normal(0, 15, (num_images, SIZE, SIZE))
    pixels = np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[:, None], 3, axis=1)
    return Split(torch.from_numpy(pixels), torch.from_numpy(labels.astype(np.int64)))


def stripe_data(num_validation: int = 200) -> ImageDataset:
    return ImageDataset("stripes", ("rising", "falling"), stripes(600, 0), stripes(num_validation, 1), stripes(100, 2))


@pytest.mark.parametrize("num_validation", [200, 0])
def test_left_and_right_matter_where_a_class_is_the_mirror_image_of_another(num_validation: int) -> None:
    result = measure_mirroring(stripe_data(num_validation))
    assert result is not None
    assert result.plain > 0.9 and result.mirrored < 0.1 and result.matters


def test_left_and_right_do_not_matter_for_drawn_shapes() -> None:
    data: ImageDataset = build(DATA, load_config(["data_loading=shapes"]).data_loading)
    assert data.is_mirrorable  # as known from how they are drawn, and as measured:
    result = measure_mirroring(data)
    assert result is not None and not result.matters


def test_a_difference_within_chance_is_not_told() -> None:
    assert not MirrorTest(plain=0.5, mirrored=0.4, num_images=100).matters
    assert MirrorTest(plain=0.5, mirrored=0.4, num_images=1000).matters
    assert not MirrorTest(plain=0.5, mirrored=0.46, num_images=100_000).matters


def test_measuring_draws_no_random_numbers() -> None:
    data, before = stripe_data(), torch.get_rng_state()
    measure_mirroring(data)
    assert torch.equal(torch.get_rng_state(), before)


def write_folders(split: Split, folder: Path) -> None:
    for number, (image, label) in enumerate(zip(split.images[:], split.labels.tolist(), strict=True)):
        path = folder / ("rising", "falling")[label] / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels: NDArray[np.uint8] = image.permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(path)


STRIPES = [
    *("experiment=demo", "data_loading=folder", "data_loading.root=stripes", f"data_loading.image_size={SIZE}"),
    *("model.width=8", "training.epochs=4", "training.batch_size=50", "training.monitor=null", "tracking=none"),
]


@pytest.mark.slow
def test_views_that_score_worse_on_validation_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    write_folders(stripes(400, 0), Path("stripes/train"))
    write_folders(stripes(100, 1), Path("stripes/test"))
    train(load_config([*STRIPES, "run_name=plain", "augmentation=none", "evaluation.tta=mirror"]))
    messages = capsys.readouterr().err
    assert "left and right seem to matter" in messages
    assert "this network is tested and used without" in messages and "left and right matter in these data" in messages
    facts = json.loads(Path("models/plain/scores.json").read_text())
    assert facts["test/accuracy_tta"] == facts["test/accuracy"] > 0.95
    for name in ("best.ckpt", "last.ckpt"):
        assert load_checkpoint(Path("models/plain", name)).tta == "none"
    train(load_config([*STRIPES, "run_name=quiet", "augmentation=none", "evaluation.tta=none"]))
    assert "warning" not in capsys.readouterr().err
    assert load_checkpoint(Path("models/quiet/best.ckpt")).metadata.tta is None
