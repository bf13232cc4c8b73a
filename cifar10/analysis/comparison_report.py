"""The report of a comparison as one HTML page: verdict, settings, curves, classes, and images whose answer flipped."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cifar10.analysis.comparison import ComparedRun, Comparison, Flips, Side
from cifar10.analysis.comparison_figures import accuracy_figure, curves_figure, recall_figure
from cifar10.analysis.comparison_words import p_text, points_of, verdicts
from cifar10.analysis.network_differences import class_differences
from cifar10.analysis.report import Gallery, Part, Picture, Report, Section, Table, Text, Tile
from cifar10.data.class_names import printable
from cifar10.wording import counted

Row = list[str | int | float | None]
ShowImage = Callable[[int], NDArray[np.uint8]]
"""Position of a test image -> its pixels, (S, S, 3)."""

_MOST_FLIPS = 12  # images of each kind in a gallery
_MOST_GALLERIES = 3  # sides that the first one is shown against
_MOST_COLUMNS = 8  # of recalls
_MOST_SIDE = 256  # pixels of an image in the gallery


@dataclass(frozen=True)
class ComparisonPage:
    """The page and what it is made of.

    Args:
        found: The comparison.
        show_image: Returns a test image.
    """

    found: Comparison
    show_image: ShowImage

    def report(self) -> Report:
        """Return the page."""
        found = self.found
        sections = [Section("Result", self._result()), Section("Settings", self._settings())]
        sections.append(Section("Learning curves", self._curves()))
        if found.images is not None:
            sections.append(Section("Classes", self._classes()))
            sections.append(Section("Flipped answers", self._flips()))
        images = "" if found.images is None else f", {counted(len(found.images.labels), 'test image')}"
        subtitle = f"{counted(len(found.runs), 'run')}{images}"
        names = [printable(side.title) for side in found.sides[:3]]
        more = f" and {len(found.sides) - 3} more" if len(found.sides) > 3 else ""
        return Report(f"{', '.join(names)}{more}: a comparison", subtitle, sections, found.origin)

    def _result(self) -> list[Part]:
        found = self.found
        parts: list[Part] = [Text(sentence) for sentence in verdicts(found)]
        if found.images is None:
            return [
                *parts,
                Table(["run", "why it has no answers to compare"], [[r.name, r.problem] for r in found.runs]),
            ]
        caption = "Runs of one colour differ by their seed only. An interval is that of a single network by Wilson."
        parts.append(Picture(accuracy_figure(found), "Accuracy of each network with its interval", caption))
        parts.append(Table(["run", "seed", "accuracy", "95 % interval", "one view", "TTA"], self._accuracies()))
        if found.differences:
            parts.append(_recipes(found))
        parts.append(_networks(found))
        return parts

    def _accuracies(self) -> list[Row]:
        rows: list[Row] = []
        for run in self.found.runs:
            seed = None if run.seed < 0 else run.seed
            if run.answers is None:
                rows.append([run.name, seed, None, None, None, None])
                continue
            accuracy, plain = self.found.accuracy(run), self.found.accuracy(run, plain=True)
            interval = f"{accuracy.interval.low:.2%} to {accuracy.interval.high:.2%}"
            rows.append([run.name, seed, f"{accuracy.value:.2%}", interval, f"{plain.value:.2%}", run.answers.tta])
        return rows

    def _settings(self) -> list[Part]:
        found = self.found
        parts: list[Part] = []
        if found.settings:
            head = ["setting", *(side.title for side in found.sides)]
            rows: list[Row] = [[key, *values] for key, values in found.settings]
            parts.append(Table(head, rows, "Settings that differ. Names and places of files are left out."))
        else:
            parts.append(Text("All settings are the same, but for seeds, names and places of files."))
        if found.origins:
            rows = [[key, *values] for key, values in found.origins]
            caption = "What else differs: data, code, versions, machine."
            parts.append(Table(["", *(run.name for run in found.runs)], rows, caption))
        return parts

    def _curves(self) -> list[Part]:
        figure = curves_figure(self.found.sides)
        if figure is None:
            return [Text("No run has recorded an epoch.")]
        parts: list[Part] = [Picture(figure, "Loss and accuracy by epoch of all runs over each other")]
        without = [run.name for run in self.found.runs if not any("val/loss" in epoch for epoch in run.history)]
        if without:
            names = ", ".join(map(printable, without))
            parts.append(Text(f"Without validation images, so without a validation curve: {names}."))
        if len({run.settings.get("training.label_smoothing") for run in self.found.runs}) > 1:
            parts.append(Text("Label smoothing differs, so training losses are not of the same kind."))
        return parts

    def _classes(self) -> list[Part]:
        found = self.found
        assert found.images is not None
        names, sides = found.images.class_names, found.answering_sides[:_MOST_COLUMNS]
        recalls = {side.title: found.recalls(side) for side in sides}
        parts: list[Part] = []
        figure = recall_figure(recalls, names)
        if figure is not None:
            parts.append(Picture(figure, "Recall of each class, for each side"))
        head = ["class", "images", *recalls]
        counts = np.bincount(found.images.labels, minlength=len(names)).tolist()
        rows: list[Row] = []
        differences = self._class_differences(sides) if len(sides) == 2 else None
        for class_id, name in enumerate(names):
            own = [None if np.isnan(each[class_id]) else f"{each[class_id]:.1%}" for each in recalls.values()]
            row: Row = [name, counts[class_id], *own]
            if differences is not None:
                row += differences[class_id]
            rows.append(row)
        caption = "Recall of each class."
        if differences is not None:
            head += ["difference, points", "interval, points", "beyond chance"]
            caption += (
                " Differences are those of the first less the second; the intervals cover further images for these "
                "networks, and all of them together hold with a probability of 95 %."
            )
        return [*parts, Table(head, rows, caption)]

    def _class_differences(self, sides: Sequence[Side]) -> list[Row]:
        found = self.found
        assert found.images is not None
        first, second = ([found.is_right(run) for run in side.answering] for side in sides)
        rows: list[Row] = []
        for interval in class_differences((first, second), found.images.labels, len(found.images.class_names)):
            if interval is None:
                rows.append([None, None, None])
                continue
            bounds = f"{100 * interval.low:+.1f} to {100 * interval.high:+.1f}"
            rows.append([f"{100 * interval.value:+.1f}", bounds, "yes" if interval.excludes_zero else "no"])
        return rows

    def _flips(self) -> list[Part]:
        first, *others = self.found.answering_sides
        parts: list[Part] = []
        for other in others[:_MOST_GALLERIES]:
            flips = self.found.flips(first, other)
            for positions, winner, loser in (
                (flips.only_first, first, other),
                (flips.only_second, other, first),
            ):
                parts.append(self._gallery(flips, positions, winner, loser))
        if len(others) > _MOST_GALLERIES:
            names = ", ".join(printable(side.name) for side in others[_MOST_GALLERIES:])
            parts.append(Text(f"Not shown: {printable(first.name)} against {names}."))
        return parts

    def _gallery(self, flips: Flips, positions: NDArray[np.int64], winner: Side, loser: Side) -> Part:
        names = printable(winner.answering[0].name), printable(loser.answering[0].name)
        if not len(positions):
            return Text(f"There is no image that {names[0]} recognises and {names[1]} does not.")
        tiles = [self._tile(position, flips) for position in positions[:_MOST_FLIPS].tolist()]
        count = counted(len(positions), "image")
        shown = f"the {len(tiles)} clearest of {count}" if len(tiles) < len(positions) else count
        below = "Title: the true class; below: both answers with their probabilities."
        return Gallery(tiles, f"Recognised by {names[0]}, not by {names[1]}: {shown}. {below}")

    def _tile(self, position: int, flips: Flips) -> Tile:
        assert self.found.images is not None
        names = self.found.images.class_names
        lines = [self._answer(side, side.answering[0], position) for side in (flips.first, flips.second)]
        lines.append(f"image {position:,}")
        title = names[int(self.found.images.labels[position])]
        image = self.show_image(position)
        step = max(1, image.shape[0] // _MOST_SIDE)
        return Tile([np.ascontiguousarray(image[::step, ::step])], title, lines)

    def _answer(self, side: Side, run: ComparedRun, position: int) -> str:
        """Return what a side answers for an image, and how many of its seeds are right."""
        assert self.found.images is not None and run.answers is not None
        answer = printable(self.found.images.class_names[int(run.answers.predicted[position])])
        text = f"{printable(side.name)}: {answer} {run.answers.confidence[position]:.0%}"
        if len(side.answering) == 1:
            return text
        right = sum(bool(self.found.is_right(each)[position]) for each in side.answering)
        return f"{text} ({right} of {len(side.answering)} seeds right)"


def _recipes(found: Comparison) -> Table:
    rows: list[Row] = []
    titles = {side.name: side.title for side in found.answering_sides}
    for each in found.differences:
        verdict = "yes" if each.is_beyond_chance else "no" if each.num_seeds > 1 else "one seed is not enough to say"
        points = f"{100 * each.interval.value:+.2f}"
        rows.append([titles[each.first], titles[each.second], points, points_of(each), each.num_seeds, verdict])
    caption = (
        "Differences of accuracy in points, the first less the second. The intervals cover further seeds and further "
        "images of the same kind, or only images if there is one seed; all of them together hold with a probability of "
        "95 %."
    )
    return Table(["first", "second", "points", "interval", "pairs of seeds", "beyond chance"], rows, caption)


def _networks(found: Comparison) -> Table:
    rows: list[Row] = [
        [
            pair.first,
            pair.second,
            f"{100 * (pair.only_first - pair.only_second) / pair.num_images:+.2f}",
            pair.both,
            pair.only_first,
            pair.only_second,
            pair.neither,
            p_text(pair),
            "yes" if pair.is_beyond_chance else "no",
        ]
        for pair in found.pairs
    ]
    times = f", p-values are multiplied by the {len(rows)} pairs" if len(rows) > 1 else ""
    caption = (
        f"Pairs of networks on the same images. McNemar's exact test asks whether the images that only one of the two "
        f"recognises fall to either as by a coin{times}. It is about these networks, not about other seeds of theirs."
    )
    head = [
        "first",
        "second",
        "points",
        "both right",
        "only first",
        "only second",
        "neither",
        "p-value",
        "beyond chance",
    ]
    return Table(head, rows, caption)
