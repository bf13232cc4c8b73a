"""The measured part of a model card: evaluation, robustness, the exported file, latency."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cifar10.analysis.intervals import wilson
from cifar10.analysis.model_card_text import Cell, code, command, missing, table, text
from cifar10.runs.measured_files import MeasuredFiles

if TYPE_CHECKING:
    from cifar10.runs.checkpoints import Checkpoint

_PUBLISHED = "cifar10.data.cifar.cifar10"
"""Data whose test images others have judged; see `honest`."""


def results(checkpoint: "Checkpoint", files: MeasuredFiles, run: str) -> list[str]:
    """Return the sections, each with a heading.

    Args:
        checkpoint: Any.
        files: What was measured about it.
        run: Its name for commands.
    """
    found = files.evaluation
    if found is None:
        parts = ["## Evaluation\n\n" + missing("The accuracy", _evaluate(run))]
    else:
        parts = [_accuracy(found, checkpoint), _classes(found), _calibration(found), _robustness(found, run)]
        if checkpoint.config.data_loading.target == _PUBLISHED:
            parts.append(_honest(found, run))
    return [*parts, _export(files.promotion, run), _latency(files.promotion, run)]


def _evaluate(run: str, *words: str) -> str:
    """Return the line that evaluates a run; a registered model has no folder for the report."""
    place = ["--output=measured"] if run.startswith("models:/") else []
    return command("evaluate", run, *words, *place)


def accuracy_of(evaluation: Mapping[str, Any], view: str = "tta") -> str:
    """Return an accuracy with its interval in words; `view` is tta or plain."""
    found = evaluation["accuracy"][view]
    return f"{found['value']:.2%} ({_interval(found['interval'])})"


def _interval(ends: Sequence[float]) -> str:
    return f"95 % interval {ends[0]:.2%} to {ends[1]:.2%}"


def _accuracy(found: Mapping[str, Any], checkpoint: "Checkpoint") -> str:
    rows: list[Sequence[Cell]] = []
    if found["tta"] != "none":
        rows.append(("accuracy with test-time augmentation", accuracy_of(found)))
    rows.append(("accuracy, one view", accuracy_of(found, "plain")))
    if checkpoint.num_classes > 5 and "top5" in found:
        top = found["top5"]["tta"]
        rows.append(("top-5 accuracy", f"{top['value']:.2%} ({_interval(top['interval'])})"))
    rows += [
        ("cross-entropy", f"{found['loss']['tta']:.4f} nats"),
        ("macro F1", f"{found['macro']['f1']:.4f}"),
    ]
    data = (
        ""
        if found["data_digest"] == checkpoint.data_digest
        else (f" These are not the data of the training: SHA-256 {code(found['data_digest'])}.")
    )
    views = "" if found["tta"] == "none" else f" Test-time augmentation: {code(found['tta'])}."
    about = f"{found['num_images']:,} images of the test split, which was not trained on.{views}{data}"
    return f"## Evaluation\n\n{about} Intervals are Wilson's.\n\n{table(('measure', 'value'), rows)}"


def _classes(found: Mapping[str, Any]) -> str:
    rows = [_class_row(each) for each in found["classes"]]
    head = ("class", "images", "precision", "recall", "recall, 95 %", "F1")
    return f"### Classes\n\n{table(head, rows)}"


def _class_row(score: Mapping[str, Any]) -> Sequence[Cell]:
    shown = [None if score[key] is None else f"{score[key]:.3f}" for key in ("precision", "recall", "f1")]
    precision, recall, f1 = (each or "-" for each in shown)
    bounds = "-"
    if score["support"]:
        ends = wilson(round((score["recall"] or 0) * score["support"]), score["support"])
        bounds = f"{ends.low:.3f} to {ends.high:.3f}"
    return (code(score["name"]), f"{score['support']:,}", precision, recall, bounds, f1)


def _calibration(found: Mapping[str, Any]) -> str:
    measured = found["calibration"]
    rows: list[Sequence[Cell]] = [
        ("mean confidence, one view", f"{measured['mean_confidence']:.1%}"),
        ("expected calibration error, one view", f"{measured['calibration_error']:.2%}"),
    ]
    if found["tta"] != "none":
        name = "expected calibration error with test-time augmentation"
        rows.append((name, f"{measured['calibration_error_tta']:.2%}"))
    if (scaled := measured["temperature"]) is not None:
        number, split = f"{scaled['num_images']:,}", scaled["fitted_on"]
        name = f"expected calibration error, logits divided by {scaled['value']:.3f}"
        rows.append((name, f"{scaled['calibration_error']:.2%}; fitted on {number} {text(split)} images"))
    return f"### Calibration\n\n{table(('measure', 'value'), rows)}"


def _robustness(found: Mapping[str, Any], run: str) -> str:
    corruptions = found.get("corruptions")
    if not corruptions:
        line = _evaluate(run, "--corruptions=all")
        return "### Robustness\n\n" + missing("The accuracy under noise, blur, weather and digital artefacts", line)
    means = {kind: float(np.mean(accuracies)) for kind, accuracies in corruptions.items()}
    ordered = sorted(means.items(), key=lambda item: item[1])
    rows = [(text(kind.replace("_", " ")), f"{mean:.1%}", f"{corruptions[kind][-1]:.1%}") for kind, mean in ordered]
    about = f"Mean error over kinds and strengths: {found['corruption_error']:.1%}, one view. The hardest kinds first:"
    head = ("corruption", "accuracy, mean of the strengths", "at the highest strength")
    return f"### Robustness\n\n{about}\n\n{table(head, rows)}"


def _honest(found: Mapping[str, Any], run: str) -> str:
    scores = found.get("honest")
    if not scores:
        line = _evaluate(run, "--honest=data/honest")
        what = "The accuracy without near-duplicates of training images and without rejected labels"
        return "### Honest accuracy\n\n" + missing(what, line)
    rows = [
        (text(each["name"]), f"{each['num_images']:,}", f"{each['accuracy']:.2%}", _interval(each["interval"]))
        for each in scores
    ]
    return f"### Honest accuracy\n\n{table(('accuracy', 'images', 'value', 'interval'), rows)}"


def _export(promotion: Mapping[str, Any] | None, run: str) -> str:
    if promotion is None:
        line = command("promote", "--dry_run", f"--checkpoint_name={run}")
        return "## Exported file\n\n" + missing("The agreement of an exported file with the checkpoint", line)
    file, parity = promotion["export"], promotion["parity"]
    rows: list[Sequence[Cell]] = [
        ("file", f"{code(file['file'])}, {file['bytes'] / 1e6:.1f} MB"),
        ("SHA-256", code(file["sha256"])),
        ("computed by", code(file["engine"])),
        ("compared on", f"{parity['num_images']:,} test images, one by one and in batches"),
        ("images with another class than the checkpoint", f"{parity['num_flipped']:,}"),
        ("largest difference of a probability", f"{parity['largest_difference']:.1e}"),
    ]
    return f"## Exported file\n\n{table(('fact', 'value'), rows)}"


def _latency(promotion: Mapping[str, Any] | None, run: str) -> str:
    if promotion is None:
        line = command("promote", "--dry_run", f"--checkpoint_name={run}")
        return "## Latency\n\n" + missing("The time for an image", line)
    machine, measured = promotion["machine"], promotion["latency"]
    place = f"{machine.get('cpu')}, {machine.get('cores')} cores, CPU only"
    about = (
        f"One image, from pixels to probabilities, with test-time augmentation as in the evaluation, by ONNX Runtime: "
        f"median {1000 * measured['seconds']:.2f} ms over {measured['num_images']:,} images on {text(place)}."
    )
    return f"## Latency\n\n{about}"
