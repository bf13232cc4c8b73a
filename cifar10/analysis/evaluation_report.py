"""The report of an evaluation as one HTML page: numbers, figures, and the worst errors as a gallery."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cifar10.analysis.calibration import is_at_limit, negative_log_likelihood
from cifar10.analysis.classification_report import ClassScore
from cifar10.analysis.evaluation import Accuracy, Averages, Evaluation, averages
from cifar10.analysis.evaluation_figures import calibration_figure, corruption_map, honest_figure, recall_by_class
from cifar10.analysis.figures import confusion_matrix
from cifar10.analysis.grad_cam import overlay
from cifar10.analysis.intervals import Interval, wilson
from cifar10.analysis.report import Gallery, Number, Numbers, Part, Picture, Report, Section, Table, Text, Tile
from cifar10.wording import counted

Row = list[str | int | float | None]

_TOP = 5
_MOST_CONFUSIONS = 15
_MOST_SIDE = 256  # pixels of an image in the gallery
_FEW_IMAGES = 100
_SPLITS = {"train": "training", "val": "validation", "test": "test"}


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
    images = counted(len(found.answers), f"{_SPLITS[found.split]} image")
    subtitle = f"{images}, {len(found.answers.class_names)} classes"
    return Report(f"Evaluation of {found.name}", subtitle, sections, found.origin)


def _result(found: Evaluation) -> list[Part]:
    answers, labels = found.answers, found.answers.labels
    plain, augmented = (Accuracy.of(each, labels) for each in (answers.plain, answers.augmented))
    entries = [Number("accuracy", f"{plain.value:.2%}", f"one view; 95 % interval {_shown(plain.interval)}")]
    if found.tta != "none":
        note = f"95 % interval {_shown(augmented.interval)}"
        entries.insert(0, Number("accuracy with TTA", f"{augmented.value:.2%}", note))
    if len(answers.class_names) > _TOP:
        top = Accuracy.of(answers.augmented, labels, _TOP)
        entries.append(Number("top-5 accuracy", f"{top.value:.2%}", f"95 % interval {_shown(top.interval)}"))
    loss = negative_log_likelihood(answers.augmented, labels)
    entries.append(Number("cross-entropy", f"{loss:.4f}", "nats for each image; lower is better"))
    error = found.calibration.calibration_error
    entries.append(Number("calibration error", f"{error:.2%}", "one view; 0 is calibrated"))
    if found.trained is not None:
        split = _SPLITS[found.split]
        trained = Accuracy.of(found.trained.augmented, found.trained.labels)
        of = f" of {found.num_trained:,}" if trained.number < found.num_trained else ""
        note = (
            f"{trained.number:,}{of}; {100 * (trained.value - augmented.value):+.2f} points against the {split} images"
        )
        entries.append(Number("accuracy on training images", f"{trained.value:.2%}", note))
    parts: list[Part] = [Numbers(entries)]
    if found.tta != "none":
        parts.append(Text(f"Unless one view is named, answers are those of test-time augmentation (TTA): {found.tta}."))
    return parts


def _shown(interval: Interval) -> str:
    return f"{interval.low:.2%} to {interval.high:.2%}"


def _classes(found: Evaluation) -> list[Part]:
    own, other = found.answers.score, None if found.trained is None else found.trained.score
    figure = recall_by_class(own, f"{_SPLITS[found.split]} images", other, "training images")
    caption = "The further the training images lie to the right, the more of them the network has learned by heart."
    parts: list[Part] = []
    if figure is not None:
        parts.append(Picture(figure, "Recall of each class with its interval", caption if other else ""))
    head = ["class", "images", "precision", "recall", "recall, 95 %", "F1"]
    if other is not None:
        head += ["precision, train", "recall, train", "F1, train", f"F1, train − {found.split}"]
    theirs = {} if other is None else {score.name: score for score in other.classes}
    rows = [_scores(score, theirs.get(score.name), other is not None) for score in own.classes]
    table = Table(head, rows, "Scores of each class. Precision: the share of the answers of the class that are right.")
    return [*parts, table, _averages(own.classes, None if other is None else other.classes, found.split)]


def _scores(score: ClassScore, trained: ClassScore | None, has_others: bool) -> Row:
    hits = round((score.recall or 0) * score.support)
    interval = wilson(hits, score.support) if score.support else None
    bounds = None if interval is None else f"{interval.low:.3f} to {interval.high:.3f}"
    row: Row = [score.name, score.support, score.precision, score.recall, bounds, score.f1]
    if not has_others:
        return row
    if trained is None:
        return row + [None] * 4
    gap = None if trained.f1 is None or score.f1 is None else trained.f1 - score.f1
    return [*row, trained.precision, trained.recall, trained.f1, gap]


def _averages(own: Sequence[ClassScore], other: Sequence[ClassScore] | None, split: str) -> Table:
    def row(name: str, mean: Averages) -> Row:
        return [name, mean.precision, mean.recall, mean.f1]

    kinds = (("each class counts once (macro)", False), ("each class counts by its images (weighted)", True))
    rows = [row(f"{split}: {name}", averages(own, weighted)) for name, weighted in kinds]
    if other is not None:
        rows += [row(f"train: {name}", averages(other, weighted)) for name, weighted in kinds]
    return Table(["mean", "precision", "recall", "F1"], rows)


def _confusion(found: Evaluation) -> list[Part]:
    score = found.answers.score
    caption = "A row is a class, a column an answer; the colour is the share of the row."
    matrix = Picture(confusion_matrix(score.confusion, score.class_names), "Confusion matrix", caption)
    support = dict(zip(score.class_names, score.confusion.sum(axis=1).tolist(), strict=True))
    rows: list[Row] = [
        [true, other, number, f"{number / support[true]:.1%}"]
        for true, other, number in score.confusions(_MOST_CONFUSIONS)
    ]
    mistakes = Table(["class", "taken for", "images", "of the class"], rows, "The most frequent mistakes.")
    return [matrix, mistakes] if rows else [matrix]


def _calibration(found: Evaluation) -> list[Part]:
    measured, answers = found.calibration, found.answers
    scaled = measured.temperature
    accuracy = Accuracy.of(answers.plain, answers.labels)
    text = (
        f"With one view, the mean confidence is {measured.mean_confidence:.1%} and the accuracy {accuracy.value:.1%}: "
        f"{_verdict(measured.mean_confidence, accuracy.interval)}. The expected calibration error is the distance "
        f"between the two, averaged over {len(measured.bins)} bins of equal width."
    )
    figure = calibration_figure(measured.bins, measured.scaled_bins, scaled.value if scaled else None)
    caption = (
        "Above: how often answers of a confidence are right; calibrated ones lie on the dashed line. Below: how many "
        "images have that confidence."
    )
    losses = [negative_log_likelihood(each, answers.labels) for each in (answers.plain, answers.augmented)]
    lines = [("one view", measured.calibration_error, losses[0])]
    if found.tta != "none":
        lines.append(("with TTA", measured.calibration_error_tta, losses[1]))
    if scaled is not None:
        lines.append((f"one view, temperature {scaled.value:.3f}", scaled.calibration_error, scaled.loss))
    head = ["probabilities", "expected calibration error", "cross-entropy"]
    return [
        Text(text),
        Picture(figure, "Reliability diagram and histogram of confidence", caption),
        Table(head, [[name, f"{error:.2%}", f"{loss:.4f}"] for name, error, loss in lines]),
        Text(_about_temperature(found)),
    ]


def _verdict(mean_confidence: float, accuracy: Interval) -> str:
    if mean_confidence > accuracy.high:
        return "the network is too sure of itself"
    if mean_confidence < accuracy.low:
        return "the network is more cautious than it needs to be"
    return f"no difference beyond chance, since the accuracy has the 95 % interval {_shown(accuracy)}"


def _about_temperature(found: Evaluation) -> str:
    scaled, trained = found.calibration.temperature, found.calibration.temperature_on_training
    if scaled is None:
        reason = "there are no others" if found.split == "train" else "one image is too few"
        return f"No temperature was fitted: that needs images which the network was not trained on, and {reason}."
    images = counted(scaled.num_images, f"{_SPLITS[scaled.fitted_on]} image")
    few = " They are too few to rely on it." if scaled.num_images < _FEW_IMAGES else ""
    text = f"The temperature {scaled.value:.4f} was fitted on {images}"
    if scaled.is_cross_fitted:
        why = "there is no validation split" if found.split == "test" else "no others were held out"
        text += (
            f", since {why}. So that no image is measured with what it was fitted on, each half of the images is "
            "scaled here by the temperature of the other half."
        )
    else:
        text += ", which are not those that are measured."
    if trained is not None:
        text += f" On training images, which the network has learned, it would be {trained:.4f}."
    if is_at_limit(scaled.value):
        return f"{text}{few} It is at the limit of the search, as if all answers were right: do not use it."
    return f"{text}{few} The option --temperature of export takes it into its files."


def _errors(found: Evaluation) -> list[Part]:
    errors, answers = found.errors, found.answers
    if not len(errors.positions):
        return [Text("No answer is wrong.")]
    tiles, names = [], answers.class_names
    for place, position in enumerate(errors.positions.tolist()):
        shown = [_small_enough(errors.images[place])]
        if errors.heat is not None:
            shown.append(_small_enough(overlay(errors.images[place], errors.heat[place])))
        row = answers.augmented[position]
        answer, label = int(answers.predicted[position]), int(answers.labels[position])
        lines = [f"labelled {names[label]} ({row[label]:.1%})", f"image {position:,}"]
        tiles.append(Tile(shown, f"{names[answer]} {row[answer]:.1%}", lines))
    caption = "The wrong answers of the highest confidence: the answer, and below it the label with its probability."
    if errors.heat is not None:
        caption += " Beside each image: where the network sees the class that it answers (Grad-CAM); the rest is dark."
    parts: list[Part] = [Gallery(tiles, caption)]
    if errors.heat is None:
        parts.append(Text("This network has no feature map before its last layer, so Grad-CAM cannot be drawn."))
    return parts


def _small_enough(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image, (S, S, 3), without rows and columns that the page cannot show."""
    step = max(1, image.shape[0] // _MOST_SIDE)
    return np.ascontiguousarray(image[::step, ::step])


def _honest(found: Evaluation) -> list[Part]:
    first = found.honest[0]
    rows: list[Row] = [
        [
            score.name,
            score.num_images,
            f"{score.accuracy:.2%}",
            _shown(score.interval),
            None if score is first else f"{100 * (score.accuracy - first.accuracy):+.2f}",
        ]
        for score in found.honest
    ]
    text = (
        "Accuracy with published findings about these images taken into account. Near-duplicates of training "
        "images test memory; a rejected label counts a right answer as wrong."
    )
    parts: list[Part] = [
        Text(text),
        Picture(honest_figure(found.honest, found.people), "Accuracies with their intervals"),
        Table(["accuracy", "images", "value", "95 % interval", "points"], rows),
    ]
    if (people := found.people) is not None:
        about: list[Row] = [
            ["probability that a person agrees with the network", f"{people.accuracy:.2%}", _shown(people.interval)],
            ["probability that a person agrees with the label", f"{people.label_accuracy:.2%}", None],
            ["probability that two people agree", f"{people.agreement:.2%}", None],
            ["cross-entropy of the network against people", f"{people.cross_entropy:.4f}", None],
            ["the same with the fitted temperature", _or_none(people.scaled_cross_entropy), None],
            ["the smallest that is possible: the entropy of people", f"{people.entropy:.4f}", None],
        ]
        parts.append(Table(["against about fifty people's labels of each image", "value", "95 % interval"], about))
    return parts


def _or_none(value: float | None) -> str | None:
    return None if value is None else f"{value:.4f}"


def _robustness(found: Evaluation) -> list[Part]:
    clean = Accuracy.of(found.answers.plain, found.answers.labels).value
    means = {kind: float(np.mean(accuracies)) for kind, accuracies in found.corruptions.items()}
    worst = min(means, key=lambda kind: means[kind])
    entries = [
        Number(
            "mean corruption error",
            f"{found.corruption_error:.2%}",
            "share of wrong answers, averaged over kinds and strengths; lower is better",
        ),
        Number("error without corruption", f"{1 - clean:.2%}", "one view"),
    ]
    if len(means) > 1:
        entries.append(Number("hardest kind", worst.replace("_", " "), f"accuracy {means[worst]:.1%}"))
    caption = "Accuracy of one view, on all images, by kind and strength of the corruption."
    return [Numbers(entries), Picture(corruption_map(found.corruptions, clean), "Accuracy by corruption", caption)]
