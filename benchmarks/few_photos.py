"""What are pretrained weights worth with few photos: probe and fine-tuning against the same network from scratch?

    python benchmarks/few_photos.py --weights squeezenet1_1.pth [--root data] [--per-class 20 100] [--seeds 0 1 2]

Takes some images of each class from the training split of CIFAR-10, other ones for each seed, and enlarges them to the
size of the photos that the network was made for, or less. Each way trains on the same images, without validation
images, and is tested on the same images of the test split. Ways: `experiment=probe`, `experiment=finetune`, and the
latter from random weights, without freezing, all layers at a rate of 0.001 (at 0.01 the network stays at chance).
"""

import argparse
import json
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
from measuring import table, write_results
from PIL import Image

from cifar10.config.compose import load_config
from cifar10.data.cifar import cifar10
from cifar10.data.image_dataset import ImageDataset, Split
from cifar10.probe import probe
from cifar10.train import train

_WAYS = {
    "linear probe": ("experiment=probe",),
    "fine-tuning": ("experiment=finetune",),
    "from scratch": (
        *("experiment=finetune", "model.weights=none"),
        *("training.freeze_until=0", "optimizer.body_lr=null", "optimizer.lr=1.0e-3"),
    ),
}


def main() -> None:
    arguments = parse_arguments()
    data = cifar10(str(arguments.root), classes=None, validation_size=0, seed=0, sources=None)
    runs: list[dict[str, object]] = []
    accuracies: dict[tuple[int, str], list[float]] = defaultdict(list)
    seconds: dict[tuple[int, str], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as scratch:
        for per_class in arguments.per_class:
            for seed in arguments.seeds:
                root = Path(scratch) / f"{per_class}-{seed}"
                write_images(data.train, data, per_class, seed, root / "train")
                write_images(data.test, data, arguments.test_images // data.num_classes, 0, root / "test")
                for way in _WAYS:
                    scores = run(way, root, seed, arguments)
                    accuracies[per_class, way].append(100 * scores["test/accuracy"])
                    seconds[per_class, way].append(scores["fit_seconds"])
                    runs.append({"per_class": per_class, "seed": seed, "way": way, **scores})
                    print(json.dumps(runs[-1]), flush=True)
    rows = [
        [
            per_class,
            way,
            described(values),
            f"{min(values):.2f} to {max(values):.2f}",
            described(seconds[per_class, way]),
        ]
        for (per_class, way), values in accuracies.items()
    ]
    head = ["images a class", "way", "accuracy, % (mean, deviation)", "range", "seconds to fit"]
    body = [
        f"{arguments.model} at {arguments.image_size} pixels, {arguments.test_images:,} test images, one view, "
        f"{len(arguments.seeds)} seeds, each with other training images.",
        "",
        *table(head, rows),
    ]
    write_results("few_photos", "Few photos: pretrained weights against none", body, {"runs": runs})


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="published weights of the model")
    parser.add_argument("--model", default="squeezenet1_1")
    parser.add_argument("--root", type=Path, default=Path("data"), help="holds cifar-10-batches-py")
    parser.add_argument("--per-class", type=int, nargs="+", default=[20, 100])
    parser.add_argument("--test-images", type=int, default=2000)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    return parser.parse_args()


def write_images(split: Split, data: ImageDataset, per_class: int, seed: int, folder: Path) -> None:
    """Write `per_class` images of each class, chosen by `seed`, into class folders."""
    generator, labels = np.random.default_rng(seed), split.labels.numpy()
    for label, name in enumerate(data.class_names):
        (folder / name).mkdir(parents=True)
        for position in generator.permutation(np.flatnonzero(labels == label))[:per_class].tolist():
            pixels = split.images[position].permute(1, 2, 0).numpy()
            Image.fromarray(np.ascontiguousarray(pixels)).save(folder / name / f"{position:05}.png")


def run(way: str, root: Path, seed: int, arguments: argparse.Namespace) -> dict[str, float]:
    words = [
        *("model=imagenet", f"model.name={arguments.model}", f"model.weights={arguments.weights}", f"seed={seed}"),
        *(f"data_loading.root={root}", f"data_loading.image_size={arguments.image_size}"),
        *("data_loading.validation_fraction=0", f"data_loading.cache={root}/cache", "evaluation.tta=none"),
        *(f"models_dir={root}/models", "tracking=none", f"run_name={way.replace(' ', '-')}"),
    ]
    settings = _WAYS[way]
    words = [word for word in words if word.partition("=")[0] not in {s.partition("=")[0] for s in settings}]
    cached = [f"probe.cache={root}/cache"] if way == "linear probe" else []
    config = load_config([*settings, *words, *cached])
    scores = probe(config) if config.probe else train(config)
    history = (root / "models" / str(config.run_name) / "history.csv").read_text().splitlines()
    column = history[0].split(",").index("seconds")
    return {**scores, "fit_seconds": sum(float(line.split(",")[column]) for line in history[1:])}


def described(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.2f} +- {deviation:.2f}"


if __name__ == "__main__":
    main()
