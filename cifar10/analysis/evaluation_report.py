"""The report of an evaluation as one HTML page: numbers, figures, and the worst errors as a gallery."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cifar10.analysis.calibration import negative_log_likelihood
from cifar10.analysis.classification_report import ClassScore
from cifar10.analysis.evaluation import Accuracy, Averages, Evaluation, averages
from cifar10.analysis.evaluation_figures import calibration_figure, corruption_map, honest_figure, recall_by_class
from cifar10.analysis.figures import confusion_matrix
from cifar10.analysis.grad_cam import overlay
from cifar10.analysis.intervals import Interval, wilson
from cifar10.analysis.report import Gallery, Number, Numbers, Part, Picture, Report, Section, Table, Text, Tile
from cifar10.wording import counted

_TOP = 5
_MOST_CONFUSIONS = 15
_MOST_SIDE = 256  # pixels of an image in the gallery


def make_report(found: Evaluation) -> Report:
    """Return the page."""
    sections = [
        Section("Result", _result(found)),
        Section("Classes", _classes(found)),
        Section("Confusion", _confusion(found)),
        Section("Calibration", _calibration(found)),
        Section("Worst errors", _errors(found)),
    ]
    if found.honest:
        sections.append(Section("Honest accuracy", _honest(found)))
    if found.corruptions:
        sections.append(Section("Robustness", _robustness(found)))
    name, number = found.name, counted(len(found.answers), f"{found.split} image")
    return Report(
        f"Evaluation of {name}", f"{number}, {len(found.answers.class_names)} classes", sections, found.origin
    )


def _result(found: Evaluation) -> list[Part]:
    answers, labels = found.answers, found.answers.labels
    plain, augmented = (Accuracy.of(each, labels) for each in (answers.plain, answers.augmented))
    entries = [Number("accuracy", f"{plain.value:.2%}", f"one view; 95 % interval {_shown(plain.interval)}")]
    if found.tta != "none":
        entries.insert(
            0, Number("accuracy with TTA", f"{augmented.value:.2%}", f"95 % interval {_shown(augmented.interval)}")
        )
    if len(answers.class_names) > _TOP:
        top = Accuracy.of(answers.augmented, labels, _TOP)
        entries.append(Number("top-5 accuracy", f"{top.value:.2%}", f"95 % interval {_shown(top.interval)}"))
    loss = negative_log_likelihood(answers.augmented, labels)
    entries.append(Number("cross-entropy", f"{loss:.4f}", "nats for each image; lower is better"))
    entries.append(
        Number("calibration error", f"{found.calibration.calibration_error:.2%}", "one view; 0 is calibrated")
    )
    if found.trained is not None:
        trained = Accuracy.of(found.trained.augmented, found.trained.labels)
        gap = 100 * (trained.value - augmented.value)
        of = (
            f"{trained.number:,} of {found.num_trained:,}"
            if trained.number < found.num_trained
            else f"{trained.number:,}"
        )
        entries.append(Number("accuracy on training images", f"{trained.value:.2%}", f"{of}; {gap:+.2f} points"))
    parts: list[Part] = [Numbers(entries)]
    if found.tta != "none":
        parts.append(Text(f"Unless one view is named, answers are those of test-time augmentation (TTA): {found.tta}."))
    return parts


def _shown(interval: Interval) -> str:
    return f"{interval.low:.2%} to {interval.high:.2%}"


def _classes(found: Evaluation) -> list[Part]:
    own, other = found.answers.score, None if found.trained is None else found.trained.score
    figure = recall_by_class(own, f"{found.split} images", other, "training images")
    parts: list[Part] = []
    if figure is not None:
        caption = "Where the training images lie far to the right, the network knows them by heart more than the class."
        parts.append(Picture(figure, "Recall of each class with its interval", caption if other else ""))
    head = ["class", "images", "precision", "recall", "recall, 95 %", "F1"]
    theirs = {} if other is None else {score.name: score for score in other.classes}
    if other is not None:
        head += ["precision, train", "recall, train", "F1, train", "train − " + found.split]
    rows: list[list[str | int | float | None]] = []
    for score in own.classes:
        hits = round((score.recall or 0) * score.support)
        interval = _bounds(wilson(hits, score.support)) if score.support else None
        row = [score.name, score.support, score.precision, score.recall, interval, score.f1]
        if other is not None:
            train = theirs.get(score.name)
            gap = None if train is None or train.f1 is None or score.f1 is None else train.f1 - score.f1
            row += [None] * 4 if train is None else [train.precision, train.recall, train.f1, gap]
        rows.append(row)
    table = Table(head, rows, "Scores of each class. Precision: answers of the class that are right.")
    return [*parts, table, _averages(own.classes, None if other is None else other.classes, found.split)]


def _averages(own: Sequence[ClassScore], other: Sequence[ClassScore] | None, split: str) -> Table:
    def row(name: str, mean: Averages) -> list[str | int | float | None]:
        return [name, mean.precision, mean.recall, mean.f1]

    kinds = (("each class counts once (macro)", False), ("each class counts by its images (weighted)", True))
    rows = [row(f"{split}: {name}", averages(own, weighted)) for name, weighted in kinds]
    if other is not None:
        rows += [row(f"train: {name}", averages(other, weighted)) for name, weighted in kinds]
    return Table(["mean", "precision", "recall", "F1"], rows)


def _bounds(interval: Interval) -> str:
    return f"{interval.low:.3f} to {interval.high:.3f}"


def _confusion(found: Evaluation) -> list[Part]:
    score = found.answers.score
    caption = "A row is a class, a column an answer; each row sums to 100 %."
    parts: list[Part] = [
        Picture(confusion_matrix(score.confusion, score.class_names), "Confusion matrix", caption),
    ]
    support = dict(zip(score.class_names, score.confusion.sum(axis=1).tolist(), strict=True))
    rows: list[list[str | int | float | None]] = [
        [true, other, number, f"{number / support[true]:.1%}"]
        for true, other, number in score.confusions(_MOST_CONFUSIONS)
    ]
    if rows:
        parts.append(Table(["class", "taken for", "images", "of the class"], rows, "The most frequent mistakes."))
    return parts


def _calibration(found: Evaluation) -> list[Part]:
    measured, answers = found.calibration, found.answers
    scaled = measured.temperature
    accuracy = Accuracy.of(answers.plain, answers.labels).value
    difference = measured.mean_confidence - accuracy
    verdict = "too sure of itself" if difference > 0 else "more cautious than it needs to be"
    text = (
        f"With one view, the mean confidence is {measured.mean_confidence:.1%} and the accuracy {accuracy:.1%}: the "
        f"network is {verdict}. The expected calibration error is the distance between the two, averaged over "
        f"{len(measured.bins)} bins of equal width."
    )
    figure = calibration_figure(measured.bins, measured.scaled_bins, scaled.value if scaled else None)
    caption = "Above: how often answers of a confidence are right; calibrated ones lie on the dashed line. Below: how many there are."
    parts: list[Part] = [Text(text), Picture(figure, "Reliability diagram and histogram of confidence", caption)]
    rows: list[list[str | int | float | None]] = [
        [
            "one view",
            f"{measured.calibration_error:.4f}",
            f"{negative_log_likelihood(answers.plain, answers.labels):.4f}",
        ],
    ]
    if found.tta != "none":
        loss = negative_log_likelihood(answers.augmented, answers.labels)
        rows.append(["with TTA", f"{measured.calibration_error_tta:.4f}", f"{loss:.4f}"])
    if scaled is not None:
        rows.append(
            [f"one view, temperature {scaled.value:.3f}", f"{scaled.calibration_error:.4f}", f"{scaled.loss:.4f}"]
        )
    parts.append(Table(["probabilities", "expected calibration error", "cross-entropy"], rows))
    parts.append(Text(_about_temperature(found)))
    return parts


def _about_temperature(found: Evaluation) -> str:
    scaled = found.calibration.temperature
    if scaled is None:
        return (
            "No temperature was fitted: that needs images which the network was not trained on, and there is no "
            "validation split."
            if found.split == "train"
            else "No temperature was fitted: one image is too few."
        )
    fitted = (
        f"The temperature {scaled.value:.4f} was fitted on {counted(scaled.num_images, f'{scaled.fitted_on} image')}"
    )
    if scaled.is_cross_fitted:
        return (
            f"{fitted}, since there is no validation split to fit it on, and on training images the network is surer than "
            "on others. So that no image is measured with what it was fitted on, each half of the images is scaled here "
            "by the temperature of the other half."
        )
    return f"{fitted}, which are not those that are measured. export --temperature carries it into exported files."


def _errors(found: Evaluation) -> list[Part]:
    errors, answers = found.errors, found.answers
    if not len(errors.positions):
        return [Text("No answer is wrong.")]
    tiles = []
    for place, position in enumerate(errors.positions.tolist()):
        image = _small_enough(errors.images[place])
        shown = [image]
        if errors.heat is not None:
            shown.append(_small_enough(overlay(errors.images[place], errors.heat[place])))
        names, row = answers.class_names, answers.augmented[position]
        answer, label = int(answers.predicted[position]), int(answers.labels[position])
        lines = [f"is {names[label]} ({row[label]:.1%})", f"image {position:,}"]
        tiles.append(Tile(shown, f"{names[answer]} {row[answer]:.1%}", lines))
    caption = "The wrong answers of the highest confidence. Above: the answer; below it, the label and its probability."
    if errors.heat is not None:
        caption += " Beside each image: where the network sees the class that it answers (Grad-CAM), bright is most."
    parts: list[Part] = [Gallery(tiles, caption)]
    if errors.heat is None:
        parts.append(Text("This network has no feature map before its last layer, so Grad-CAM cannot be drawn."))
    return parts


def _small_enough(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a photo, (S, S, 3), at a size that the page needs, by leaving out pixels; small images are kept."""
    step = max(1, image.shape[0] // _MOST_SIDE)
    return np.ascontiguousarray(image[::step, ::step])


def _honest(found: Evaluation) -> list[Part]:
    first = found.honest[0]
    rows: list[list[str | int | float | None]] = [
        [
            score.name,
            score.num_images,
            f"{score.accuracy:.2%}",
            _shown(score.interval),
            "" if score is first else f"{100 * (score.accuracy - first.accuracy):+.2f}",
        ]
        for score in found.honest
    ]
    text = (
        "What others found out about these images, and what is left of the accuracy. Near-duplicates of training images "
        "test memory; a rejected label counts a right answer as wrong."
    )
    parts: list[Part] = [
        Text(text),
        Picture(honest_figure(found.honest, found.people), "Accuracies with their intervals"),
        Table(["accuracy", "images", "value", "95 % interval", "points"], rows),
    ]
    if (people := found.people) is not None:
        about = [
            ["probability that a person agrees with the network", f"{people.accuracy:.2%}", _shown(people.interval)],
            ["probability that a person agrees with the label", f"{people.label_accuracy:.2%}", None],
            ["probability that two people agree", f"{people.agreement:.2%}", None],
            ["cross-entropy of the network against people", f"{people.cross_entropy:.4f}", None],
            ["the smallest that is possible: entropy of people", f"{people.entropy:.4f}", None],
        ]
        parts.append(Table(["against about fifty people's labels of each image", "value", "95 % interval"], about))
    return parts


def _robustness(found: Evaluation) -> list[Part]:
    clean = Accuracy.of(found.answers.plain, found.answers.labels).value
    means = {kind: float(np.mean(accuracies)) for kind, accuracies in found.corruptions.items()}
    error = found.corruption_error
    worst = min(means, key=lambda kind: means[kind])
    entries = [
        Number("mean corruption error", f"{error:.2%}", "over kinds and strengths, without reference; lower is better"),
        Number("error without corruption", f"{1 - clean:.2%}", "one view"),
        Number("hardest kind", worst.replace("_", " "), f"accuracy {means[worst]:.1%}"),
    ]
    caption = "Accuracy of one view, on all images, by kind and strength of the corruption."
    return [Numbers(entries), Picture(corruption_map(found.corruptions, clean), "Accuracy by corruption", caption)]
