"""What does tracking.tensorboard=true cost a run?

    python benchmarks/tensorboard_cost.py [--rounds 5]

Measures each part by itself, each round in a process of its own: what is written when training starts (with the import
of the package, and the graph), the scalars of an epoch, and what is written at the end (images, and embeddings of
1,000 of 2,000 validation images). The network is that of the default recipe, with random weights; the images are drawn
shapes of CIFAR-10's size.
"""

import argparse
import contextlib
import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from measuring import spread, table, wall_and_cpu, write_results

_PARTS = {
    "start": "start: package, graph",
    "epoch": "curves of an epoch",
    "end": "end: pictures, embeddings",
}
_EPOCHS = 20
_VALIDATION_IMAGES = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure()))
        return
    rounds: list[dict[str, Any]] = []
    for number in range(arguments.rounds):
        done = subprocess.run([sys.executable, __file__, "--one"], check=True, stdout=subprocess.PIPE, text=True)
        rounds.append(json.loads(done.stdout.splitlines()[-1]))
        print(f"round {number + 1} of {arguments.rounds}: {rounds[-1]}", file=sys.stderr, flush=True)
    write_results("tensorboard_cost", "What TensorBoard's files cost a run", report(rounds), {"rounds": rounds})


def report(rounds: list[dict[str, Any]]) -> list[str]:
    rows = [
        [title, *(spread([each[part][clock] for each in rounds], 3) for clock in ("wall", "cpu"))]
        for part, title in _PARTS.items()
    ]
    megabytes = [each["bytes"] / 1e6 for each in rounds]
    return [
        f"{len(rounds)} rounds, each in a process of its own. Medians, in brackets the range.",
        "",
        *table(["", "wall, s", "cpu, s"], rows),
        "",
        f"- size of the files: {spread(megabytes, 1)} MB",
    ]


def measure() -> dict[str, Any]:
    """Return wall and cpu seconds of each part, and the size of the files in bytes."""
    import torch

    from cifar10.config.build import build
    from cifar10.config.compose import load_config
    from cifar10.config.targets import DATA
    from cifar10.data.image_dataset import ImageDataset
    from cifar10.model import Classifier
    from cifar10.trainer import make_trainer
    from cifar10.training.fitting import make_network
    from cifar10.training.tensorboard import DrawGraph, TensorBoardFiles, write_predictions

    words = ["data_loading=shapes", f"data_loading.validation_size={_VALIDATION_IMAGES}", "tracking=none"]
    config = load_config(words)
    data: ImageDataset = build(DATA, config.data_loading)
    network = make_network(config, data)
    classifier = Classifier(network, config.evaluation, {"class_names": list(data.class_names)})
    classifier.confusion = torch.eye(data.num_classes, dtype=torch.int64)
    scores = dict.fromkeys(("train/loss", "train/accuracy", "val/loss", "val/accuracy", "lr"), 0.5)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()) as said:
        trainer = make_trainer(config, Path(folder), [], tensorboard=True)
        files = trainer.logger
        assert isinstance(files, TensorBoardFiles)
        drawing = DrawGraph(config, data.num_classes, data.image_size)

        def curves() -> None:
            for epoch in range(_EPOCHS):
                files.log_metrics(scores, epoch)
            files.save()

        clocks = {
            "start": wall_and_cpu(lambda: drawing.on_train_start(trainer, classifier)),
            "epoch": tuple(seconds / _EPOCHS for seconds in wall_and_cpu(curves)),
            "end": wall_and_cpu(lambda: write_predictions(trainer, classifier, data)),
        }
        assert "warning" not in said.getvalue(), said.getvalue()
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    return {**{part: {"wall": wall, "cpu": cpu} for part, (wall, cpu) in clocks.items()}, "bytes": size}


if __name__ == "__main__":
    main()
