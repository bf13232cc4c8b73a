"""The report of `explore`: what was found, as numbers, figures and galleries."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cifar10.analysis.appearance import ODDITIES, Appearance
from cifar10.analysis.explore_figures import (
    appearance_distributions,
    channel_histograms,
    class_balance,
    sample_grid,
)
from cifar10.analysis.label_issues import LabelIssues
from cifar10.analysis.near_duplicates import LIKELY, RankedPairs
from cifar10.analysis.report import Gallery, Number, Numbers, Part, Picture, Report, Section, Table, Text, Tile
from cifar10.data.class_names import printable
from cifar10.data.collection import Collection
from cifar10.wording import counted

_TILE = 96  # largest side of an image in a gallery, pixels
_SAMPLES = 12  # images of a class in the grid
_SAMPLE_ROWS = 5  # of images without labels
_MOST_ROWS = 100  # of the grid
_MOST_FILES = 500  # in the table of unreadable files
_ODD_SHOWN = 24  # of a kind
_SHOWN_FROM = 0.7  # score of pairs: twice as near to each other as to others; below are pairs that anyone tells apart


@dataclass(frozen=True, eq=False)
class Findings:
    """Everything that `explore` has found.

    Args:
        collection: The images.
        counts: Split -> images of each class, (K,).
        histograms: Split -> (3, 256): pixels of each level in red, green and blue.
        constants: Published mean and standard deviation of the training pixels, scaled to [0, 1]; None: there are none.
        means: Mean image of each class, (K, S, S, 3), or of all, (1, S, S, 3).
        appearance: Measures of each image.
        oddities: See `find_odd`: names and degrees.
        copies: Groups of images with the same pixels.
        pairs: Ranked near-duplicates, copies left out; None: not searched.
        issues: Of the labels; None: not judged.
        compared_by: The kinds of descriptors.
    """

    collection: Collection
    counts: dict[str, NDArray[np.int64]]
    histograms: dict[str, NDArray[np.int64]]
    constants: tuple[Sequence[float], Sequence[float]] | None
    means: NDArray[np.uint8]
    appearance: Appearance
    oddities: tuple[NDArray[np.str_], NDArray[np.float32]]
    copies: Sequence[NDArray[np.int64]]
    pairs: RankedPairs | None
    issues: LabelIssues | None
    compared_by: str


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
        Section("Pixels", list(_pixels(findings))),
        Section("Samples", list(_samples(findings))),
        Section("Brightness and sharpness", list(_appearance(findings))),
        Section("The same picture twice", list(_duplicates(findings, most))),
        Section("Suspected labels", list(_labels(findings, most))),
        Section("Files that cannot be read", list(_unreadable(collection))),
    ]
    name = printable(collection.name)
    return Report(f"What is in {name}", subtitle, [each for each in sections if each.parts], origin)


def _glance(findings: Findings) -> Iterator[Part]:
    names, _ = findings.oddities
    entries = [Number("images", f"{len(findings.collection):,}")]
    if findings.collection.class_names:
        split, of_class = next(iter(findings.counts.items()))
        note = f"{of_class.min():,} to {of_class.max():,} images each, {split}"
        entries.append(Number("classes", f"{len(of_class):,}", note))
    num_copies = sum(len(group) - 1 for group in findings.copies)
    entries.append(Number("exact copies", f"{num_copies:,}", "images whose pixels another one has too"))
    if findings.pairs is not None:
        likely = findings.pairs.take(findings.pairs.is_likely)
        entries.append(Number("near-duplicates", f"{len(np.unique(likely.second)):,}", "images, likely"))
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
    yield Picture(sample_grid(rows, kept), "Random images of each class", "Images drawn at random.")
    title = "Mean image of each class" if collection.class_names else "Mean image"
    tiles = [
        Tile([_small(mean)], name) for mean, name in zip(findings.means, collection.class_names or ["all"], strict=True)
    ]
    yield Gallery(tiles, f"{title}: what its images have in common, such as a bright sky or an object in the centre.")


def _appearance(findings: Findings) -> Iterator[Part]:
    collection, (names, degrees) = findings.collection, findings.oddities
    figure = appearance_distributions(findings.appearance, collection.split_ids, collection.split_names)
    caption = "Splits should look alike." if len(collection.splits) > 1 else ""
    yield Picture(figure, "Distributions of brightness, contrast, colourfulness and sharpness", caption)
    for oddity in ODDITIES:
        members = np.flatnonzero(names == oddity)
        if len(members):
            ordered = members[np.argsort(-degrees[members], kind="stable")][:_ODD_SHOWN]
            shown = f", the first {len(ordered)}" if len(ordered) < len(members) else ""
            yield Gallery(
                [_tile(collection, image) for image in ordered.tolist()], f"{oddity}: {len(members):,}{shown}"
            )


def _duplicates(findings: Findings, most: int) -> Iterator[Part]:
    collection = findings.collection
    if findings.copies:
        tiles = []
        for group in findings.copies[:most]:
            labels = sorted({collection.class_of(image) for image in group.tolist()})
            lines = [_place(collection, image) for image in group[:6].tolist()]
            mark = f"labels {' and '.join(labels)}" if len(labels) > 1 else labels[0]
            tiles.append(Tile([_small(collection.pixels(int(group[0])))], f"{len(group)} times {mark}".strip(), lines))
        yield Gallery(
            tiles, f"Exact copies: {counted(len(findings.copies), 'picture')} with the same pixels more than once."
        )
    if findings.pairs is None:
        yield Text("Near-duplicates were not searched for.")
        return
    if not (findings.pairs.score >= _SHOWN_FROM).any():
        yield Text("No two images look like the same picture moved, cropped, scaled, mirrored or recoloured.")
        return
    yield Text(
        "Pairs that look most like the same picture again, best first: moved, cropped, scaled, mirrored, or with other "
        f"brightness and colours. Compared by {findings.compared_by}, then aligned and compared place by place. From a "
        f"score of {LIKELY:g} on, most are the same picture; below, look yourself. Pairs below {_SHOWN_FROM:g} are in "
        "near_duplicates.csv only."
    )
    across, mirrored = is_across(collection, findings.pairs), findings.pairs.is_mirrored
    differ = collection.labels[findings.pairs.first] != collection.labels[findings.pairs.second]
    if len(collection.splits) > 1:
        title = "Across splits: an image of a later split and one of an earlier"
        yield from _pair_gallery(findings, across & ~mirrored, most, title)
        yield from _pair_gallery(findings, across & mirrored, most // 4, "Across splits, one mirrored")
    if collection.class_names:
        yield from _pair_gallery(findings, differ, most // 4, "With different labels")
    within = "Within a split" if len(collection.splits) > 1 else "Two images"
    yield from _pair_gallery(findings, ~across & ~mirrored, most // 4, within)
    yield from _pair_gallery(findings, ~across & mirrored, most // 8, f"{within}, one mirrored")


def is_across(collection: Collection, pairs: RankedPairs) -> NDArray[np.bool_]:
    """Return whether the images of each pair are in different splits, (P,)."""
    differ: NDArray[np.bool_] = collection.split_ids[pairs.first] != collection.split_ids[pairs.second]
    return differ


def _pair_gallery(findings: Findings, chosen: NDArray[np.bool_], most: int, title: str) -> Iterator[Part]:
    """Yield a gallery of the best pairs, each second image once."""
    collection, pairs = findings.collection, findings.pairs
    assert pairs is not None
    places = np.flatnonzero(chosen & (pairs.score >= _SHOWN_FROM))
    places = places[np.sort(np.unique(pairs.second[places], return_index=True)[1])]
    if not len(places):
        return
    tiles = []
    for place in places[:most].tolist():
        second, first = int(pairs.second[place]), int(pairs.first[place])
        tiles.append(_pair_tile(collection, second, first, float(pairs.score[place]), bool(pairs.is_mirrored[place])))
    shown = f", the first {len(tiles):,}" if len(tiles) < len(places) else ""
    yield Gallery(tiles, f"{title}: {counted(len(places), 'image')} and the best match of each{shown}.")


def _pair_tile(collection: Collection, one: int, other: int, score: float, is_mirrored: bool) -> Tile:
    labels = [collection.class_of(one), collection.class_of(other)]
    title = labels[0] if labels[0] == labels[1] else f"{labels[0]} ≠ {labels[1]}"
    mirrored = ", mirrored" if is_mirrored else ""
    lines = [_place(collection, image) for image in (one, other)]
    return Tile(
        [_small(collection.pixels(image)) for image in (one, other)], title, [*lines, f"score {score:.2f}{mirrored}"]
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
                _where(collection, image),
            ]
            tiles.append(Tile([_small(collection.pixels(image))], f"{collection.class_of(image)}?", lines))
        yield Gallery(tiles, f"{split}: {suspected:,} of {len(members):,} labels suspected; the first {len(tiles):,}.")


def _unreadable(collection: Collection) -> Iterator[Part]:
    if collection.unreadable:
        rows = [[file, reason] for file, reason in collection.unreadable[:_MOST_FILES]]
        left_out = f" The first {_MOST_FILES:,}." if len(collection.unreadable) > _MOST_FILES else ""
        yield Table(["file", "reason"], rows, f"{counted(len(collection.unreadable), 'file')}.{left_out}")


def _tile(collection: Collection, image: int) -> Tile:
    return Tile([_small(collection.pixels(image))], collection.class_of(image), [_place(collection, image)])


def _place(collection: Collection, image: int) -> str:
    """Return the split of an image, if there are several, and its file or position."""
    split = f"{collection.place(image)[0]}: " if len(collection.splits) > 1 else ""
    return split + _where(collection, image)


def _where(collection: Collection, image: int) -> str:
    """Return the file of an image, or its position in its split."""
    file = collection.file(image)
    return f"no. {collection.place(image)[1]}" if file is None else printable(file)


def _small(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if max(pixels.shape[:2]) <= _TILE:
        return pixels
    picture = Image.fromarray(pixels)
    picture.thumbnail((_TILE, _TILE))
    return np.asarray(picture)
