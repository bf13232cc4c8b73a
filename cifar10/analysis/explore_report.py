"""The report of `explore`: what was found, as numbers, figures and galleries."""

from collections.abc import Iterator, Sequence

import numpy as np

from cifar10.analysis.appearance import ODDITIES
from cifar10.analysis.explore_duplicates import duplicate_parts
from cifar10.analysis.explore_figures import (
    appearance_distributions,
    channel_histograms,
    class_balance,
    sample_grid,
)
from cifar10.analysis.explore_findings import Findings, copy_counts, is_across
from cifar10.analysis.explore_tiles import image_tile, small, where
from cifar10.analysis.report import Gallery, Number, Numbers, Part, Picture, Report, Section, Table, Text, Tile
from cifar10.data.class_names import printable
from cifar10.data.collection import Collection
from cifar10.wording import counted

_SAMPLES = 12  # images of a class in the grid
_SAMPLE_ROWS = 5  # of images without labels
_MOST_ROWS = 100  # of the grid
_MOST_FILES = 500  # in the table of unreadable files
_ODD_SHOWN = 24  # of a kind


def explore_report(findings: Findings, most: int, origin: Sequence[tuple[str, str]]) -> Report:
    """Return the report; a gallery has at most `most` tiles."""
    collection = findings.collection
    sizes = ", ".join(f"{len(split):,} {name}" for name, split in collection.splits.items())
    sizes = f" ({sizes})" if len(collection.splits) > 1 else ""
    side = collection.image_size
    subtitle = f"{counted(len(collection), 'image')}{sizes}, looked at in {side} x {side} pixels"
    if collection.class_names:
        subtitle += f" in {len(collection.class_names)} classes"
    sections = [
        Section("At a glance", list(_glance(findings))),
        Section("Classes", list(_classes(findings))),
        Section("The same picture twice", list(duplicate_parts(findings, most))),
        Section("Suspected labels", list(_labels(findings, most))),
        Section("Odd images", list(_odd(findings))),
        Section("Files that cannot be read", list(_unreadable(collection))),
        Section("Pixels", list(_pixels(findings))),
        Section("Samples", list(_samples(findings))),
    ]
    name = printable(collection.name)
    return Report(f"What is in {name}", subtitle, [each for each in sections if each.parts], origin)


def _glance(findings: Findings) -> Iterator[Part]:
    names, _ = findings.oddities
    entries = [Number("images", f"{len(findings.collection):,}")]
    if findings.collection.class_names:
        split, of_class = next(iter(findings.counts.items()))
        least, largest = f"{of_class.min():,}", f"{of_class.max():,}"
        note = f"{least if least == largest else f'{least} to {largest}'} images each, {split}"
        entries.append(Number("classes", f"{len(of_class):,}", note))
    copies = copy_counts(findings.collection, findings.copies)
    entries.append(Number("exact copies", f"{copies.spare:,}", "images with the pixels of an earlier one"))
    if findings.pairs is not None:
        likely = findings.pairs.take(findings.pairs.is_likely)
        note = "images that likely show the picture of an earlier one"
        entries.append(Number("near-duplicates", f"{len(np.unique(likely.second)):,}", note))
        if len(findings.collection.splits) > 1:
            num_across = len(np.unique(likely.second[is_across(findings.collection, likely)]))
            entries.append(Number("of them across splits", f"{num_across:,}", "what is tested was also learned"))
    entries.append(Number("odd images", f"{int((names != '').sum()):,}", "dark, bright, blurred, noisy or uniform"))
    if findings.issues is not None:
        entries.append(
            Number("suspected labels", f"{int(findings.issues.is_suspected.sum()):,}", "by confident learning")
        )
    if findings.collection.unreadable:
        entries.append(Number("unreadable files", f"{len(findings.collection.unreadable):,}"))
    yield Numbers(entries)


def _classes(findings: Findings) -> Iterator[Part]:
    names = findings.collection.class_names
    if not names:
        return
    yield Picture(class_balance(findings.counts, names), "Number of images of each class in each split")
    rows: list[list[str | int]] = [
        [name, *(int(counts[label]) for counts in findings.counts.values())] for label, name in enumerate(names)
    ]
    yield Table(["class", *findings.counts], rows, "Images of each class. A click on a column sorts it.")


def _pixels(findings: Findings) -> Iterator[Part]:
    levels = np.arange(256) / 255
    rows: list[list[str | float]] = []
    for split, counts in findings.histograms.items():
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        mean = shares @ levels
        deviation = np.sqrt((shares @ levels**2 - mean**2).clip(min=0))
        rows.append([split, *(f"{value:.4f}" for value in (*mean, *deviation))])
    if findings.constants is not None:
        mean, deviation = findings.constants
        rows.append(["published, training", *(f"{value:.4f}" for value in (*mean, *deviation))])
    head = ["split", *(f"{what}, {channel}" for what in ("mean", "deviation") for channel in ("red", "green", "blue"))]
    caption = "Mean and standard deviation of the pixels, scaled to [0, 1]: what networks are normalised by."
    if findings.constants is not None:
        caption += " The first row should match the last one."
    yield Table(head, rows, caption)
    yield Picture(
        channel_histograms(findings.histograms), "How often each level occurs in red, green and blue, by split"
    )
    collection = findings.collection
    figure = appearance_distributions(findings.appearance, collection.split_ids, collection.split_names)
    caption = "Splits should look alike." if len(collection.splits) > 1 else ""
    yield Picture(figure, "Distributions of brightness, contrast, colourfulness and sharpness", caption)


def _samples(findings: Findings) -> Iterator[Part]:
    collection, generator = findings.collection, np.random.default_rng(0)
    if names := collection.class_names[:_MOST_ROWS]:
        members = [np.flatnonzero(collection.labels == label) for label in range(len(names))]
        chosen = [generator.permutation(images)[:_SAMPLES] for images in members]
    else:
        names = ("",) * _SAMPLE_ROWS
        order = generator.permutation(len(collection))[: _SAMPLES * _SAMPLE_ROWS]
        chosen = [order[start : start + _SAMPLES] for start in range(0, _SAMPLES * _SAMPLE_ROWS, _SAMPLES)]
    rows = [[collection.pixels(image) for image in images.tolist()] for images in chosen if len(images)]
    kept = [name for name, images in zip(names, chosen, strict=True) if len(images)]
    are_all = sum(map(len, rows)) == len(collection)
    yield Picture(sample_grid(rows, kept), "Images of each class", "All images." if are_all else "Drawn at random.")
    title = "Mean image of each class" if collection.class_names else "Mean image"
    tiles = [
        Tile([small(mean)], name) for mean, name in zip(findings.means, collection.class_names or ["all"], strict=True)
    ]
    yield Gallery(tiles, f"{title}: what its images have in common, such as a bright sky or an object in the centre.")


def _odd(findings: Findings) -> Iterator[Part]:
    collection, (names, degrees) = findings.collection, findings.oddities
    if not (names != "").any():
        return
    yield Text(
        "Images that are uniform, or whose mean level or fine detail is far from that of the others: more than four "
        "standard deviations from the median. Too dark or too bright is also a mean level below 25 or above 235 of "
        "255. Nothing need be wrong with them: smooth water and sky have little detail, and so count as blurred."
    )
    for oddity in ODDITIES:
        members = np.flatnonzero(names == oddity)
        if len(members):
            ordered = members[np.argsort(-degrees[members], kind="stable")][:_ODD_SHOWN]
            shown = f", the first {len(ordered)}" if len(ordered) < len(members) else ""
            yield Gallery(
                [image_tile(collection, image) for image in ordered.tolist()], f"{oddity}: {len(members):,}{shown}"
            )


def _labels(findings: Findings, most: int) -> Iterator[Part]:
    collection, issues = findings.collection, findings.issues
    if issues is None:
        return
    yield Text(
        "Images whose label a network that was trained without them finds improbable, the most suspect first. Many are "
        "merely hard. The file suspected_labels.csv has all images."
    )
    ranking = issues.ranking()
    for number, split in enumerate(collection.split_names):
        members = ranking[collection.split_ids[ranking] == number]
        suspected = int(issues.is_suspected[members].sum())
        tiles = []
        for image in members[: most // len(collection.splits)].tolist():
            suggestion = collection.class_names[int(issues.suggested[image])]
            lines = [
                f"network: {suggestion} {issues.suggested_probability[image]:.0%}, "
                f"{collection.class_of(image)} {issues.own_probability[image]:.0%}",
                where(collection, image),
            ]
            tiles.append(Tile([small(collection.pixels(image))], f"{collection.class_of(image)}?", lines))
        yield Gallery(tiles, f"{split}: {suspected:,} of {len(members):,} labels suspected; the first {len(tiles):,}.")


def _unreadable(collection: Collection) -> Iterator[Part]:
    if collection.unreadable:
        rows = [[file, reason] for file, reason in collection.unreadable[:_MOST_FILES]]
        left_out = f" The first {_MOST_FILES:,}." if len(collection.unreadable) > _MOST_FILES else ""
        yield Table(["file", "reason"], rows, f"{counted(len(collection.unreadable), 'file')}.{left_out}")
