"""Entry point of `evaluate`: checkpoint -> its data and network -> a split -> scores, and a report."""

import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cifar10.analysis.corruptions import corrupted
from cifar10.analysis.evaluation import Answers, Evaluation, FittedTemperature, WorstErrors, averages, calibrate
from cifar10.analysis.evaluation_report import make_report
from cifar10.analysis.figures import save_figures
from cifar10.analysis.grad_cam import grad_cam, last_feature_map
from cifar10.analysis.honest import (
    Findings,
    PeopleScore,
    honest_scores,
    is_published_test_split,
    people_score,
    read_findings,
)
from cifar10.config.corruption_kinds import STRENGTHS
from cifar10.data.class_names import printable
from cifar10.data.image_dataset import ImageDataset, Split
from cifar10.data.published_labels import obtain_labels
from cifar10.errors import UsageError
from cifar10.files import make_output_folder, write_text
from cifar10.inference.engines import load_model
from cifar10.runs.additions import add_to_run
from cifar10.runs.checkpoint_names import name_of_run, resolve_checkpoint
from cifar10.runs.checkpoints import Checkpoint, load_checkpoint
from cifar10.runs.provenance import machine, versions
from cifar10.runs.run import finite_or_none
from cifar10.runs.trained_data import load_trained_data, moved_line, relocated
from cifar10.system.memory import keep_memory_warm
from cifar10.system.progress import Progress
from cifar10.trainer import prepare_cpu
from cifar10.training.testing import Tester, here_and_alone, sample_of
from cifar10.types import Metrics

SPLITS = {"train": "train", "val": "validation", "test": "test"}
"""Values of --split -> names of the splits of a data set."""
REPORT, NUMBERS = "report.html", "report.json"
_MOST_OTHERS = 2500  # training images to compare with, and validation images to fit the temperature on
_NUM_ERRORS = 24
_FOLDERS = {"test": "evaluation", "train": "evaluation-train", "val": "evaluation-val"}


def evaluate(
    checkpoint_name: str,
    output: str | None = None,
    overrides: Sequence[str] = (),
    *,
    split: str = "test",
    engine: str | None = None,
    corruptions: Sequence[str] = (),
    honest: str | None = None,
    report: bool = True,
) -> Metrics:
    """Test a checkpoint on a split of its data; print the scores as JSON and return them, and write a report.

    Args:
        checkpoint_name: As for `resolve_checkpoint`.
        output: Folder for `evaluation.json`, `confusion.csv`, `confusion.png`, `report.html` and `report.json`; None:
            beside the checkpoint, `evaluation`, and for another split than test `evaluation-train` or `evaluation-val`.
        overrides: Where the data are now, as for `relocated`.
        split: One of `SPLITS`.
        engine: The name of a file in `conf/engine/`, which computes; None: the network as in its training.
        corruptions: Kinds of corruptions to measure the accuracy under.
        honest: Folder of the files that `published_labels` names; missing ones are fetched into it.
        report: Write files. False: print the scores only.

    Raises:
        UsageError: The split has no images.
        UserError: The checkpoint or its data cannot be used, its network gives no numbers, or the folder cannot be
            written.
    """
    checkpoint = load_checkpoint(resolve_checkpoint(checkpoint_name))
    folder = Path(output) if output else checkpoint.path.parent / _FOLDERS[split]
    if report:
        make_output_folder(folder)
    keep_memory_warm()
    prepare_cpu(here_and_alone(checkpoint.config.training))
    data = load_trained_data(
        checkpoint, relocated(checkpoint.config, overrides), moved_line("evaluate", checkpoint_name)
    )
    _warn_of_other_data(checkpoint, data)
    measured = _images_of(data, split)
    findings = None if honest is None else _findings(measured, split, Path(honest))
    computing = None if engine is None else load_model(engine, checkpoint.path).engine
    tester = Tester.of(checkpoint, data, folder if report else checkpoint.path.parent, computing)
    scores, answers = tester.answers(measured, SPLITS[split])
    scores = {name.replace("test/", f"{split}/", 1): value for name, value in scores.items()}
    facts = _facts(checkpoint, data, len(measured), split, engine)
    values = {name: finite_or_none(value) for name, value in scores.items()}
    shown = json.dumps({**values, **facts}, indent=2, allow_nan=False)
    print(shown)
    if report:
        write_text(folder / "evaluation.json", f"{shown}\n")
        write_text(folder / "confusion.csv", _confusion_table(answers))
        save_figures([], answers.score.confusion, data.class_names, folder)
        trained, held_out = _others(tester, data, split)
        calibration = calibrate(answers, held_out, trained, split)
        found = Evaluation(
            name=name_of_run(checkpoint.path.parent),
            split=split,
            tta=checkpoint.tta,
            answers=answers,
            trained=trained,
            num_trained=len(data.train),
            calibration=calibration,
            errors=_worst_errors(checkpoint, measured, answers),
            corruptions=_under_corruptions(checkpoint, measured, corruptions, engine or "torch"),
            honest=honest_scores(answers.augmented, answers.labels, findings) if findings else (),
            people=_against_people(answers, findings, calibration.temperature),
            origin=_origin(facts),
        )
        _write_report(found, facts, scores, checkpoint, folder)
    return scores


def _warn_of_other_data(checkpoint: Checkpoint, data: ImageDataset) -> None:
    if data.digest != checkpoint.data_digest:
        print(
            f"warning: these are not the data of the training run (SHA-256 {data.digest[:12]} now, "
            f"{checkpoint.data_digest[:12]} then); the scores are those of the data as they are now",
            file=sys.stderr,
        )


def _images_of(data: ImageDataset, split: str) -> Split:
    images = data.splits[SPLITS[split]]
    if not len(images):
        others = ", ".join(f"--split={name}" for name, full in SPLITS.items() if len(data.splits[full]))
        raise UsageError(f"--split={split}: {data.name} has no {SPLITS[split]} images in this run; choose {others}")
    return images


def _findings(measured: Split, split: str, folder: Path) -> Findings:
    """Return what is known about the images of CIFAR-10's test split.

    Raises:
        UsageError: They are others.
    """
    if split != "test" or not is_published_test_split(measured):
        raise UsageError(
            "--honest is about all test images of CIFAR-10 in their published order, and these are others; leave it out"
        )
    return read_findings(obtain_labels(folder))


def _facts(checkpoint: Checkpoint, data: ImageDataset, number: int, split: str, engine: str | None) -> dict[str, Any]:
    return {
        "tta": checkpoint.tta,
        "checkpoint": printable(str(checkpoint.path)),
        "weights_digest": checkpoint.weights_digest,
        "data": data.name,
        "num_images": number,
        "data_digest": data.digest,
        "training_data_digest": checkpoint.data_digest,
        **({} if split == "test" else {"split": split}),
        **({} if engine is None else {"engine": engine}),
    }


def _others(tester: Tester, data: ImageDataset, split: str) -> tuple[Answers | None, Answers | None]:
    """Return what is computed for training images, to compare with, and for validation images, to fit a temperature."""
    trained = held_out = None
    if split != "train":
        _, trained = tester.answers(sample_of(data.train, _MOST_OTHERS), "training")
    if split != "val" and len(data.validation):
        tester.classifier.tta = "none"
        _, held_out = tester.answers(sample_of(data.validation, _MOST_OTHERS), "validation")
    return trained, held_out


def _worst_errors(checkpoint: Checkpoint, split: Split, answers: Answers) -> WorstErrors:
    positions = answers.worst(_NUM_ERRORS)
    images = split.images[torch.from_numpy(positions)]
    heat = None
    if len(positions):
        network = checkpoint.network()
        layer = last_feature_map(network, images[:1])
        if layer is not None:
            heat = grad_cam(network, layer, images, answers.predicted[positions].tolist())
    return WorstErrors(positions, np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy()), heat)


def _under_corruptions(
    checkpoint: Checkpoint, split: Split, kinds: Sequence[str], engine_name: str
) -> dict[str, list[float]]:
    """Return kind -> accuracy of one view at each strength."""
    accuracies: dict[str, list[float]] = {}
    if not kinds:
        return accuracies
    engine, labels = load_model(engine_name, checkpoint.path).engine, split.labels.numpy()
    with Progress("corruptions", len(kinds) * len(STRENGTHS) * len(split)) as progress:
        for kind in kinds:
            accuracies[kind] = []
            for strength in STRENGTHS:
                parts = []
                for images in corrupted(split.images, kind, strength):
                    pixels = np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
                    parts.append(engine.probabilities(pixels).argmax(axis=1))
                    progress.update(len(images))
                accuracies[kind].append(float(np.mean(np.concatenate(parts) == labels)))
    return accuracies


def _write_report(
    found: Evaluation, facts: Mapping[str, Any], scores: Metrics, checkpoint: Checkpoint, folder: Path
) -> None:
    numbers = json.dumps({**facts, "split": found.split, **found.numbers()}, indent=1, allow_nan=False)
    write_text(folder / NUMBERS, f"{numbers}\n")
    make_report(found).write(folder / REPORT)
    place = _FOLDERS[found.split]
    added = add_to_run(checkpoint, _metrics(found, scores), [folder / REPORT, folder / NUMBERS], place)
    recorded = "; recorded in MLflow" if added else ""
    print(f"written to {folder}: {REPORT}, {NUMBERS}, evaluation.json, confusion.csv{recorded}", file=sys.stderr)


def _against_people(
    answers: Answers, findings: Findings | None, temperature: FittedTemperature | None
) -> PeopleScore | None:
    if findings is None or findings.people is None:
        return None
    value = None if temperature is None else temperature.value
    return people_score(answers.augmented, answers.labels, answers.class_names, findings.people, value)


def _origin(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    computer = machine()
    return [
        *((name.replace("_", " "), str(value)) for name, value in facts.items()),
        ("made", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"),
        ("machine", f"{computer['cpu']}, {computer['cores']} cores, GPU {computer['gpu']}"),
        ("versions", ", ".join(f"{name} {number}" for name, number in versions().items())),
    ]


def _metrics(found: Evaluation, scores: Metrics) -> dict[str, float | None]:
    """Return the scores for MLflow."""
    calibration, macro = found.calibration, averages(found.answers.score.classes, is_weighted=False)
    values = {
        **{name.partition("/")[2]: value for name, value in scores.items()},
        "macro_f1": macro.f1,
        "calibration_error": calibration.calibration_error,
        "temperature": calibration.temperature.value if calibration.temperature else None,
        "corruption_error": found.corruption_error,
    }
    return {f"evaluation/{found.split}/{name}": finite_or_none(value) for name, value in values.items()}


def _confusion_table(answers: Answers) -> str:
    """Return a table in CSV with one row for each image, as `dvc plots` reads it."""
    table, names = io.StringIO(), answers.class_names
    writer = csv.writer(table)
    writer.writerow(["true", "predicted"])
    confusion = answers.score.confusion
    for row, column in np.argwhere(confusion).tolist():
        writer.writerows([[names[row], names[column]]] * int(confusion[row, column]))
    return table.getvalue()
