"""On real images: a probe of a real ImageNet network learns from ten images of each class what chance does not."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cifar10.config.compose import load_config
from cifar10.data.cifar import cifar10
from cifar10.data.image_dataset import Split
from cifar10.images.sources import open_source
from cifar10.inference.destination import choose_destination
from cifar10.probe import probe
from cifar10.similar import similar

PHOTOS = Path(__file__).parents[2] / "shared" / "data" / "photos"
WEIGHTS = PHOTOS / "squeezenet1_1_imagenet1k.pth"
pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not WEIGHTS.exists(), reason="needs the weights in ../shared/data/photos"),
]
NETWORK = ("model=imagenet", "model.name=squeezenet1_1", f"model.weights={WEIGHTS}")


def write(split: Split, class_names: tuple[str, ...], per_class: int, root: Path) -> None:
    labels = split.labels.numpy()
    for label, name in enumerate(class_names):
        (root / name).mkdir(parents=True)
        for position in np.flatnonzero(labels == label)[:per_class].tolist():
            pixels = np.ascontiguousarray(split.images[position].permute(1, 2, 0).numpy())
            Image.fromarray(pixels).save(root / name / f"{position}.png")


def test_a_probe_on_ten_images_a_class_beats_half(real_data_root: Path, tmp_path: Path) -> None:
    data = cifar10(str(real_data_root), classes=None, validation_size=0, seed=0, sources=None)
    write(data.train, data.class_names, 10, tmp_path / "images" / "train")
    write(data.test, data.class_names, 40, tmp_path / "images" / "test")
    words = ["experiment=probe", *NETWORK, f"data_loading.root={tmp_path}/images", "data_loading.image_size=128"]
    places = [f"models_dir={tmp_path}/models", f"probe.cache={tmp_path}/cache", "tracking=none", "run_name=probe"]
    scores = probe(load_config([*words, *places, "data_loading.validation_fraction=0", "evaluation.tta=none"]))
    assert scores["test/accuracy"] > 0.5  # measured 0.57; chance is 0.1


def test_the_nearest_photos_of_a_cat_are_cats(tmp_path: Path) -> None:
    destination = choose_destination(str(tmp_path / "rows.csv"), None)
    pretrained = load_config(NETWORK).model
    similar(str(PHOTOS / "cat_tabby.jpg"), open_source(str(PHOTOS)), destination, None, pretrained, 3, "cpu", None)
    paths = [line.partition(",")[0] for line in (tmp_path / "rows.csv").read_text().splitlines()[1:]]
    assert [Path(path).name for path in paths] == ["cat_tabby.jpg", "cat_ginger_backlit.jpg", "cat_ginger_white.jpg"]
