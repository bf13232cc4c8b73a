"""Dark, bright, blurred, noisy and uniform images are noted for it, others are not."""

import numpy as np
import torch
from PIL import Image, ImageFilter

from cifar10.analysis.appearance import find_odd, mean_images, measure
from tests.pictures import scene


def test_odd_images_are_named_for_what_they_are() -> None:
    generator = np.random.default_rng(0)
    pictures = [scene(seed) for seed in range(80)]
    blurred = np.asarray(Image.fromarray(scene(99)).filter(ImageFilter.GaussianBlur(6)))
    odd = {
        "too dark": pictures[0] // 10,
        "too bright": 255 - pictures[1] // 10,
        "blurred": blurred,
        "noisy": generator.integers(0, 2, (64, 64, 3), np.uint8) * 255,
        "uniform": np.full((64, 64, 3), 128, np.uint8),
    }
    images = torch.from_numpy(np.stack([*pictures, *odd.values()])).permute(0, 3, 1, 2)
    names, degrees = find_odd(measure([images[:50], images[50:]]))
    assert names[80:].tolist() == list(odd)
    assert (names[:80] == "").all()
    assert (degrees[80:] > 0).all()


def test_measures_of_known_images() -> None:
    half = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    half[:, :, :4] = 200
    red = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    red[:, 0] = 100
    measured = measure([half, red])
    np.testing.assert_allclose(measured.brightness, [100, 29.9], atol=1e-3)
    np.testing.assert_allclose(measured.contrast, [100, 0], atol=1e-3)
    np.testing.assert_allclose(measured.colourfulness, [0, 100], atol=1e-3)


def test_mean_images_are_those_of_each_class() -> None:
    images = torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = np.arange(20) % 3
    means = mean_images([images[:7], images[7:]], labels, 3, 8)
    for label in range(3):
        expected = images[labels == label].double().mean(dim=0).permute(1, 2, 0)
        assert np.abs(means[label] - expected.numpy()).max() <= 0.51
    assert mean_images([images], np.full(20, -1), 1, 8).shape == (1, 8, 8, 3)


def test_no_image_is_no_error() -> None:
    names, degrees = find_odd(measure([]))
    assert len(names) == len(degrees) == 0
