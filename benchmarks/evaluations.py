"""What does `evaluate` find out about trained networks, and does it count as scikit-learn does?

    python benchmarks/evaluations.py --honest DIR --folder reports models/a/best.ckpt models/b/best.ckpt [--root data]

Evaluates each checkpoint on the test split of CIFAR-10 into a folder of its own; a folder that already has the report
of the same weights is taken as it is. The corruptions are measured for the first `--corrupted` networks.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from measuring import REPOSITORY, table, write_results
from sklearn.metrics import classification_report

sys.path.insert(0, str(REPOSITORY))

from cifar10.config.corruption_kinds import KINDS, STRENGTHS
from cifar10.runs.checkpoints import load_checkpoint


def main() -> None:
    arguments = parse_arguments()
    reports: dict[str, dict[str, Any]] = {}
    for number, checkpoint in enumerate(arguments.checkpoints):
        name = checkpoint.parent.name
        reports[name] = evaluated(checkpoint, arguments.folder / name, arguments, number < arguments.corrupted)
    differing = sum(differences(arguments.folder / name, report) for name, report in reports.items())
    body = [
        *table(["", *reports, "mean"], accuracies(reports)),
        "",
        f"Scores that differ from scikit-learn's `classification_report` in any digit: {differing}.",
        "",
        *table(["honest accuracy, with test-time augmentation", *reports, "mean"], honest(reports)),
    ]
    if corrupted := {name: report for name, report in reports.items() if "corruptions" in report}:
        rows = [
            [kind.replace("_", " "), *(f"{100 * values:.1f}" for values in mean_accuracies(corrupted, kind))]
            for kind in KINDS
        ]
        title = f"accuracy of one view, %, by strength; mean of {len(corrupted)}"
        body += ["", *table([title, *map(str, STRENGTHS)], rows)]
    for name, report in reports.items():
        report["checkpoint"] = name  # others do not have its folder
    write_results("evaluations", "Evaluations on CIFAR-10", body, {"reports": reports})


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--root", default="data", help="holds cifar-10-batches-py")
    parser.add_argument("--honest", required=True, help="folder of the lists about the test images")
    parser.add_argument("--folder", type=Path, required=True, help="of the reports")
    parser.add_argument("--corrupted", type=int, default=1, help="networks to measure under corruptions")
    return parser.parse_args()


def evaluated(checkpoint: Path, folder: Path, arguments: argparse.Namespace, is_corrupted: bool) -> dict[str, Any]:
    """Return the numbers of a checkpoint; evaluate it if its folder does not have them."""
    file = folder / "report.json"
    if file.exists():
        known: dict[str, Any] = json.loads(file.read_text())
        has_all = "honest" in known and ("corruptions" in known or not is_corrupted)
        if known["weights_digest"] == load_checkpoint(checkpoint).weights_digest and has_all:
            return known
    folder.mkdir(parents=True, exist_ok=True)
    words = [f"--checkpoint_name={checkpoint}", f"--output={folder}", f"--honest={arguments.honest}"]
    words += ["--corruptions=all"] if is_corrupted else []
    words.append(f"data_loading.root={arguments.root}")
    command = [sys.executable, "commands.py", "evaluate", *words]
    subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def differences(folder: Path, report: Mapping[str, Any]) -> int:
    """Return how many scores of classes and means are not equal to scikit-learn's, computed from `confusion.csv`."""
    with (folder / "confusion.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    labels, answers = ([row[name] for row in rows] for name in ("true", "predicted"))
    expected = classification_report(labels, answers, output_dict=True, zero_division=0.0)
    ours = {score["name"]: score for score in report["classes"]}
    ours |= {"macro avg": report["macro"], "weighted avg": report["weighted"]}
    pairs = [
        (ours[name][own], expected[name][theirs])
        for name in ours
        for own, theirs in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score"))
    ]
    pairs.append((report["accuracy"]["tta"]["value"], expected["accuracy"]))
    return sum(own != theirs for own, theirs in pairs)


def accuracies(reports: Mapping[str, Mapping[str, Any]]) -> list[list[object]]:
    def row(title: str, values: Sequence[float], form: str) -> list[object]:
        return [title, *(format(value, form) for value in values), format(statistics.mean(values), form)]

    def interval(kind: str) -> list[object]:
        bounds = [report["accuracy"][kind]["interval"] for report in reports.values()]
        return ["95 % interval", *(f"{100 * low:.2f} to {100 * high:.2f}" for low, high in bounds), ""]

    found = list(reports.values())
    scaled = [report["calibration"]["temperature"] for report in found]
    errors = [report.get("corruption_error") for report in found]
    return [
        row("accuracy, one view, %", [100 * report["accuracy"]["plain"]["value"] for report in found], ".2f"),
        interval("plain"),
        row(
            "accuracy, test-time augmentation, %", [100 * report["accuracy"]["tta"]["value"] for report in found], ".2f"
        ),
        interval("tta"),
        row(
            "on 5,000 training images, %",
            [100 * report["train"]["accuracy"]["tta"]["value"] for report in found],
            ".2f",
        ),
        row("top-5, %", [100 * report["top5"]["tta"]["value"] for report in found], ".2f"),
        row("calibration error, one view", [report["calibration"]["calibration_error"] for report in found], ".4f"),
        row("fitted temperature", [one["value"] for one in scaled], ".4f"),
        row("calibration error with it", [one["calibration_error"] for one in scaled], ".4f"),
        row("cross-entropy, one view", [report["loss"]["plain"] for report in found], ".4f"),
        row("cross-entropy with the temperature", [one["loss"] for one in scaled], ".4f"),
        row(
            "temperature that training images would give",
            [report["calibration"]["temperature_on_training"] for report in found],
            ".4f",
        ),
        ["mean corruption error, %", *(f"{100 * error:.1f}" if error else "" for error in errors), ""],
    ]


def honest(reports: Mapping[str, Mapping[str, Any]]) -> list[list[object]]:
    rows: list[list[object]] = []
    for entries in zip(*(report["honest"] for report in reports.values()), strict=True):
        cells = [
            f"{100 * one['accuracy']:.2f} ({100 * one['interval'][0]:.2f} to {100 * one['interval'][1]:.2f})"
            for one in entries
        ]
        mean = statistics.mean(100 * one["accuracy"] for one in entries)
        rows.append([f"{entries[0]['name']}, {entries[0]['num_images']:,} images, %", *cells, f"{mean:.2f}"])
    people = [report["people"] for report in reports.values()]
    for title, key, factor in (
        ("a person agrees with the network, %", "accuracy", 100),
        ("a person agrees with the label, %", "label_accuracy", 100),
        ("two people agree, %", "agreement", 100),
        ("cross-entropy against people", "cross_entropy", 1),
        ("the same with the fitted temperature", "scaled_cross_entropy", 1),
        ("entropy of people", "entropy", 1),
    ):
        values = [factor * one[key] for one in people]
        form = ".2f" if factor == 100 else ".4f"
        rows.append([title, *(format(value, form) for value in values), format(statistics.mean(values), form)])
    return rows


def mean_accuracies(reports: Mapping[str, Mapping[str, Any]], kind: str) -> list[float]:
    columns = zip(*(report["corruptions"][kind] for report in reports.values()), strict=True)
    return [statistics.mean(column) for column in columns]


if __name__ == "__main__":
    main()
