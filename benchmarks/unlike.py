"""Which score tells best that an image is unlike the training data, and what does the export's rule find?

    python benchmarks/unlike.py CHECKPOINT --root DIR [--photos DIR]

In: the test split of CIFAR-10. Out: the test split of CIFAR-100, generated shapes, squares cut out of photos, noise,
flat colours, and inverted and upside-down test images. Scores that need fitting are fitted on 5,000 training images.
For each: the area under the ROC curve; the part of the other images that is taken for known where 95 % of the test
images are; and the part that is called unlike where 1 % of the test images are, with the bound from one half of them.
The last row is the rule in the exported ONNX file, with its own bound.

Also measured: what the logits, a second output of the graph, cost, and whether probabilities stay bitwise the same.
"""

import argparse
import pickle
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from measuring import table, write_results
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from cifar10.config.build import build
from cifar10.config.compose import load_config
from cifar10.config.targets import DATA
from cifar10.export import export
from cifar10.images.decode import decode_image, resize_image
from cifar10.images.search import ImageSearch
from cifar10.inference.engines.onnx import OnnxEngine, load
from cifar10.inference.reference import Reference
from cifar10.inference.unlike import UnlikeRule, picture_features
from cifar10.networks.heads import find_head
from cifar10.runs.checkpoints import Checkpoint, load_checkpoint
from cifar10.runs.trained_data import load_trained_data, relocated

Array = NDArray[np.float64]
_NUM_FIT, _NUM_ARTIFICIAL, _CUTS = 5000, 2000, 60


class Computed(NamedTuple):
    """What scores are made from: embeddings (N, E), logits (N, K), features of the picture (N, 3)."""

    embeddings: Array
    logits: Array
    features: Array


Score = Callable[[Computed], Array]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--root", required=True, help="folder with CIFAR-10 and CIFAR-100")
    parser.add_argument("--photos", help="a folder of photos")
    arguments = parser.parse_args()
    checkpoint = load_checkpoint(arguments.checkpoint)
    data = load_trained_data(checkpoint, relocated(checkpoint.config, [f"data_loading.root={arguments.root}"]))
    training = np.ascontiguousarray(data.train.images[:: len(data.train) // _NUM_FIT].permute(0, 2, 3, 1).numpy())
    labels = data.train.labels[:: len(data.train) // _NUM_FIT].numpy()
    test = data.test.arrays()[0]
    others = other_images(test, Path(arguments.root), arguments.photos)
    with tempfile.TemporaryDirectory(prefix="unlike_") as folder:
        overrides = [f"data_loading.root={arguments.root}"]
        [file] = export(str(arguments.checkpoint), ["onnx"], output=folder, overrides=overrides)
        engine, description = load(file)
    assert isinstance(engine, OnnxEngine) and description.reference is not None
    network = _Network(checkpoint)
    fitted, known = network.compute(training), network.compute(test)
    computed = {name: network.compute(images) for name, images in others.items()}
    scores = candidates(fitted, labels)
    rows, raw = [], {}
    for name, score in scores.items():
        raw[name] = compare(score(known), {other: score(found) for other, found in computed.items()})
        rows.append([name, *_cells(raw[name])])
    rule = exported_rule(engine, description.reference, test, others)
    rows.append(["**rule of the export**", *_cells(rule)])
    assert description.reference.unlike is not None
    cost = cost_of_logits(engine, description.reference.unlike, test)
    held_out = description.reference.num_held_out
    calibrated = f"{held_out:,} held-out images" if held_out else "training images, as none were held out"
    body = [
        f"Network: weights {checkpoint.weights_digest[:12]}, {len(test):,} test images. Calibrated on {calibrated}.",
        "Each cell: area under the ROC curve, in %; other images that are taken for known where 95 % of the test "
        "images are, in %; other images that are called unlike where 1 % of the test images are, in %.",
        "",
        *table(["score", *(f"{name} ({len(images):,})" for name, images in others.items())], rows),
        "",
        f"The rule of the export calls {rule['test_unlike']:.2f} % of the test images unlike, with a bound of its own; "
        "its third number is for that bound.",
        f"The logits cost {cost['percent']:+.2f} % of the time of a batch of 256 (median of 30 pairs), "
        f"{cost['percent_single']:+.2f} % of a single image; probabilities are bitwise "
        f"{'the same' if cost['same'] else 'different'}. The whole rule takes {cost['rule_microseconds']:.0f} "
        "microseconds for a single image.",
    ]
    write_results("unlike", "Images unlike the training data", body, {"scores": raw, "rule": rule, "cost": cost})


def other_images(test: NDArray[np.uint8], root: Path, photos: str | None) -> dict[str, NDArray[np.uint8]]:
    """Return images that are not of the test split, uint8 (N, S, S, 3), by name."""
    rng, size = np.random.default_rng(0), test.shape[1]
    with (root / "cifar-100-python" / "test").open("rb") as file:
        rows = pickle.load(file, encoding="latin1")["data"]
    shapes = build(DATA, load_config(["data_loading=shapes", f"data_loading.image_size={size}"]).data_loading)
    flat = rng.integers(0, 256, (_NUM_ARTIFICIAL, 1, 1, 3), np.uint8)
    images = {
        "CIFAR-100": np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)),
        "shapes": shapes.test.arrays()[0],
        "noise": rng.integers(0, 256, (_NUM_ARTIFICIAL, size, size, 3), np.uint8),
        "flat colours": np.ascontiguousarray(np.broadcast_to(flat, (_NUM_ARTIFICIAL, size, size, 3))),
        "inverted": 255 - test,
        "upside down": np.ascontiguousarray(test[:, ::-1]),
    }
    return images if photos is None else {"photos": _cuts(photos, size, rng), **images}


def _cuts(photos: str, size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return squares from random places of each photo, of 30 to 100 % of its short side."""
    cuts = []
    for path in ImageSearch(photos):
        pixels = decode_image(path)
        height, width = pixels.shape[:2]
        for _ in range(_CUTS):
            side = int(min(height, width) * rng.uniform(0.3, 1))
            top, left = rng.integers(0, height - side + 1), rng.integers(0, width - side + 1)
            cuts.append(resize_image(np.ascontiguousarray(pixels[top : top + side, left : left + side]), size))
    return np.stack(cuts)


class _Network:
    def __init__(self, checkpoint: Checkpoint) -> None:
        self.network = checkpoint.network().eval()
        self.captured: list[torch.Tensor] = []
        _, head = find_head(self.network, checkpoint.num_classes)
        head.register_forward_pre_hook(lambda _, inputs: self.captured.append(inputs[0]))

    @torch.inference_mode()
    def compute(self, images: NDArray[np.uint8]) -> Computed:
        embeddings, logits = [], []
        for start in range(0, len(images), 250):
            part = torch.from_numpy(images[start : start + 250]).permute(0, 3, 1, 2).contiguous()
            logits.append(self.network(part).double().numpy())
            embedding = self.captured.pop()
            embeddings.append((embedding.mean(dim=(2, 3)) if embedding.ndim == 4 else embedding).double().numpy())
        return Computed(np.concatenate(embeddings), np.concatenate(logits), picture_features(images))


def candidates(fitted: Computed, labels: NDArray[np.int64]) -> dict[str, Score]:
    """Return scores, which are higher for images unlike those that they are fitted on."""
    embeddings, classes = fitted.embeddings, range(int(labels.max()) + 1)
    means = np.stack([embeddings[labels == number].mean(axis=0) for number in classes])
    within, around = _precision(embeddings - means[labels]), embeddings.mean(axis=0)
    overall = _precision(embeddings - around)
    picture_mean, picture = fitted.features.mean(axis=0), _precision(fitted.features - fitted.features.mean(axis=0), 0)

    def to_means(found: Computed) -> Array:
        nearest_mean: Array = np.min([_squared(found.embeddings - mean, within) for mean in means], axis=0)
        return nearest_mean

    def energy(found: Computed) -> Array:
        return -np.asarray(torch.from_numpy(found.logits).logsumexp(dim=1))

    def in_picture(found: Computed) -> Array:
        return _squared(found.features - picture_mean, picture)

    def nearest(number: int, neighbour: int) -> Score:
        prototypes = _unit(embeddings[:: len(embeddings) // number][:number])

        def score(found: Computed) -> Array:
            similar: Array = np.partition(_unit(found.embeddings) @ prototypes.T, -neighbour, axis=1)
            return 1 - similar[:, -neighbour]

        return score

    single: dict[str, Score] = {
        "largest probability": lambda found: -np.asarray(torch.from_numpy(found.logits).softmax(dim=1).amax(dim=1)),
        "largest logit": lambda found: -found.logits.max(axis=1),
        "energy": energy,
        "length of the embedding": lambda found: -np.linalg.norm(found.embeddings, axis=1),
        "cosine to class means": lambda found: 1 - (_unit(found.embeddings) @ _unit(means).T).max(axis=1),
        "Mahalanobis": to_means,
        "relative Mahalanobis": lambda found: to_means(found) - _squared(found.embeddings - around, overall),
        "5th nearest of 500": nearest(500, 5),
        "10th nearest of 5,000": nearest(5000, 10),
        "picture": in_picture,
    }
    pairs = [
        ("largest probability", "picture"),
        ("energy", "10th nearest of 5,000"),
        ("energy", "length of the embedding"),
    ]
    for pair in pairs:
        single[" + ".join(pair)] = _sum([single[name] for name in pair], fitted)
    single["energy, or rare picture"] = _larger(energy, in_picture, fitted)
    return single


def _sum(scores: list[Score], fitted: Computed) -> Score:
    bounds = [np.quantile(score(fitted), [0.5, 0.99]) for score in scores]
    return lambda found: np.sum(
        [(score(found) - low) / (high - low) for score, (low, high) in zip(scores, bounds, strict=True)], axis=0
    )


def _larger(energy: Score, picture: Score, fitted: Computed) -> Score:
    """Return the rule of the export, fitted on training images."""
    low, high = np.quantile(energy(fitted), [0.5, 0.99])
    rare = np.quantile(picture(fitted), 0.999)

    def score(found: Computed) -> Array:
        by_logits, by_picture = (energy(found) - low) / (high - low), picture(found) / rare
        larger: Array = np.where(by_picture > 1, np.maximum(by_logits, by_picture), by_logits)
        return larger

    return score


def compare(known: Array, others: dict[str, Array]) -> dict[str, list[float]]:
    """Return the three figures of each set, in percent."""
    half = np.random.default_rng(0).permutation(len(known))[: len(known) // 2]
    common, rare = np.quantile(known, 0.95), np.quantile(known[half], 0.99)
    return {
        name: [_area(known, found), 100 * float((found <= common).mean()), 100 * float((found > rare).mean())]
        for name, found in others.items()
    }


def exported_rule(
    engine: OnnxEngine, reference: Reference, test: NDArray[np.uint8], others: dict[str, NDArray[np.uint8]]
) -> dict[str, object]:
    """Return the figures of the rule in the file; the third is of its own bound."""
    rule = reference.unlike
    assert rule is not None
    known = rule.scores(engine.probabilities_and_logits(test)[1], test)
    common, figures = np.quantile(known, 0.95), {}
    for name, images in others.items():
        found = rule.scores(engine.probabilities_and_logits(images)[1], images)
        called = 100 * float((found > rule.threshold).mean())
        figures[name] = [_area(known, found), 100 * float((found <= common).mean()), called]
    return {**figures, "test_unlike": 100 * float((known > rule.threshold).mean())}


def cost_of_logits(engine: OnnxEngine, rule: UnlikeRule, test: NDArray[np.uint8]) -> dict[str, float | bool]:
    """Return what the second output costs, in percent of the time without it."""
    plain = engine.probabilities(test[:2000])
    same = bool((plain == engine.probabilities_and_logits(test[:2000])[0]).all())
    figures: dict[str, float | bool] = {"same": same}
    for name, size, repeats in (("percent", 256, 1), ("percent_single", 1, 50)):
        images, ratios = test[:size], []
        for number in range(31):
            ways = [engine.probabilities, engine.probabilities_and_logits]
            seconds = {}
            for way in ways if number % 2 else ways[::-1]:
                began = time.perf_counter()
                for _ in range(repeats):
                    way(images)
                seconds[way == engine.probabilities] = time.perf_counter() - began
            ratios += [seconds[False] / seconds[True]] if number else []
        figures[name] = 100 * (float(np.median(ratios)) - 1)
    logits = engine.probabilities_and_logits(test[:1])[1]
    began = time.perf_counter()
    for _ in range(1000):
        rule.is_unlike(logits, test[:1])
    return figures | {"rule_microseconds": 1000 * (time.perf_counter() - began)}


def _cells(figures: Mapping[str, object]) -> list[str]:
    return [f"{each[0]:.1f} / {each[1]:.0f} / {each[2]:.1f}" for each in figures.values() if isinstance(each, list)]


def _area(known: Array, others: Array) -> float:
    is_other = np.repeat([0, 1], [len(known), len(others)])
    return 100 * float(roc_auc_score(is_other, np.concatenate([known, others])))


def _precision(apart: Array, shrinkage: float = 1e-3) -> Array:
    covariance = apart.T @ apart / len(apart)
    size = len(covariance)
    inverse: Array = np.linalg.inv(covariance + shrinkage * np.trace(covariance) / size * np.eye(size))
    return inverse


def _squared(apart: Array, precision: Array) -> Array:
    distances: Array = np.einsum("ij,jk,ik->i", apart, precision, apart, optimize=True)
    return distances


def _unit(embeddings: Array) -> Array:
    unit: Array = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    return unit


if __name__ == "__main__":
    main()
