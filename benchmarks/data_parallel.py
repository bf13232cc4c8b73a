"""What do two processes make of two cores, against one process that has both?

    python benchmarks/data_parallel.py [--root data] [--seeds 0 1 2] [--overrides KEY=VALUE ...]

Runs the default recipe on CIFAR-10, cut down to three epochs, in turn with training.devices=1 and with
training.devices=2 training.threads=1, with the same global batch, the same images in the same order and the same seeds.
Efficiency is the ratio of images a second, from the second epoch on, for the first one includes what is paid once.
Weights cannot be the same to the bit: batch normalisation measures each process's share of a batch. So the accuracies
of both are stated side by side. Processor time is that of the first process: nobody waits for the second one, so the
system does not tell what it took.
"""

import argparse
import csv
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from measuring import REPOSITORY, in_turn, ratio, spread, table, timed, write_results

_RECIPE = ("experiment=fast", "training.epochs=3", "training.accelerator=cpu")
_WAYS = {"one process": ("training.devices=1",), "two processes": ("training.devices=2", "training.threads=1")}


def main() -> None:
    arguments = parse_arguments()
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in _WAYS}
    with tempfile.TemporaryDirectory(prefix="data_parallel_") as scratch:

        def run(way: str) -> float:
            number = len(runs[way])
            name = f"{way.replace(' ', '_')}{number}"
            words = [*_RECIPE, *arguments.overrides, *_WAYS[way], f"seed={arguments.seeds[number]}", f"run_name={name}"]
            places = [f"data_loading.root={arguments.root.absolute()}", f"models_dir={scratch}", "tracking=none"]
            runs[way].append(train([*words, *places], Path(scratch) / name))
            return float(runs[way][-1]["images_a_second"])

        figures = in_turn({way: lambda way=way: run(way) for way in _WAYS}, len(arguments.seeds))  # type: ignore[misc]
    body = report(runs, figures, [*_RECIPE, *arguments.overrides])
    write_results("data_parallel", "Two processes against one, on two cores", body, {"runs": runs})


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=REPOSITORY / "data", help="holds cifar-10-batches-py")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one a round")
    parser.add_argument("--overrides", nargs="*", default=[], help="given to train as they are; after the script's own")
    return parser.parse_args()


def train(overrides: list[str], folder: Path) -> dict[str, Any]:
    """Train once; return accuracies, seconds of the whole run, and images a second from the second epoch on."""
    seconds = timed([sys.executable, "commands.py", "train", *overrides])
    scores = json.loads((folder / "scores.json").read_text())
    with (folder / "history.csv").open() as file:
        epochs = list(csv.DictReader(file))
    if len(epochs) < 2:
        raise SystemExit("one epoch shows nothing but what is paid once: set training.epochs to 2 or more")
    batch_size = yaml.safe_load((folder / "config.yaml").read_text())["training"]["batch_size"]
    images = int(epochs[0]["step"]) * batch_size
    rates = [images / float(epoch["seconds"]) for epoch in epochs[1:]]  # images grow within a run, so not their median
    return {**scores, **seconds, "images_a_second": statistics.harmonic_mean(rates)}


def report(runs: dict[str, list[dict[str, Any]]], figures: dict[str, list[float]], words: list[str]) -> list[str]:
    one, two = _WAYS
    rows = [
        [
            f"{way}: `{' '.join(extra)}`",
            spread(figures[way], 1),
            *(spread([run[f"{clock}_seconds"] for run in runs[way]], 0) for clock in ("wall", "cpu")),
            *(spread([100 * run[key] for run in runs[way]]) for key in ("test/accuracy_tta", "test/accuracy")),
        ]
        for way, extra in _WAYS.items()
    ]
    apart = [100 * (b["test/accuracy_tta"] - a["test/accuracy_tta"]) for a, b in zip(runs[one], runs[two], strict=True)]
    head = ["way", "images/s", "whole run, wall s", "cpu s, first process", "accuracy, TTA, %", "plain, %"]
    return [
        f"`python commands.py train {' '.join(words)} seed=S`, {runs[one][0]['precision']}, n = {len(apart)} seeds.",
        "Medians, in brackets the range.",
        "",
        *table(head, rows),
        "",
        f"- efficiency, images a second of two processes over one: {ratio(figures[two], figures[one])}",
        f"- accuracy with test-time augmentation, two processes minus one, same seed: {spread(apart)} points",
    ]


if __name__ == "__main__":
    main()
