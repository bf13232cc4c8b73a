"""The section of the report of `explore` on pictures that occur more than once."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from cifar10.analysis.explore_findings import Findings, copy_counts, is_across
from cifar10.analysis.explore_tiles import place, small
from cifar10.analysis.near_duplicates import LIKELY
from cifar10.analysis.report import Gallery, Part, Text, Tile
from cifar10.data.collection import Collection
from cifar10.wording import counted

_SHOWN_FROM = 0.7  # score of pairs: twice as near to each other as to others; below are pairs that anyone tells apart


def duplicate_parts(findings: Findings, most: int) -> Iterator[Part]:
    collection = findings.collection
    if findings.copies:
        tiles = []
        for group in findings.copies[:most]:
            labels = sorted({collection.class_of(image) for image in group.tolist()})
            lines = [place(collection, image) for image in group[:6].tolist()]
            mark = f"as {' and as '.join(labels)}" if len(labels) > 1 else labels[0]
            tiles.append(Tile([small(collection.pixels(int(group[0])))], f"{len(group)} times {mark}".strip(), lines))
        yield Gallery(tiles, f"Exact copies: {_copies_in_words(collection, findings.copies)}.")
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


def _copies_in_words(collection: Collection, copies: Sequence[NDArray[np.int64]]) -> str:
    counts = copy_counts(collection, copies)
    words = f"{counts.images:,} images show {counted(len(copies), 'picture')}, pixel for pixel"
    if len(collection.splits) > 1:
        words += f"; {counts.across:,} of the pictures are in several splits"
    if collection.class_names:
        words += f"; {counts.contradictory:,} have different labels"
    return words


def _pair_gallery(findings: Findings, chosen: NDArray[np.bool_], most: int, title: str) -> Iterator[Part]:
    """Yield a gallery of the best pairs, each second image once."""
    collection, pairs = findings.collection, findings.pairs
    assert pairs is not None
    places = np.flatnonzero(chosen & (pairs.score >= _SHOWN_FROM))
    places = places[np.sort(np.unique(pairs.second[places], return_index=True)[1])]
    if not len(places):
        return
    tiles = []
    for rank in places[:most].tolist():
        second, first = int(pairs.second[rank]), int(pairs.first[rank])
        tiles.append(_pair_tile(collection, second, first, float(pairs.score[rank]), bool(pairs.is_mirrored[rank])))
    shown = f", the first {len(tiles):,}" if len(tiles) < len(places) else ""
    num_likely = int((pairs.score[places] >= LIKELY).sum())
    likely = f" ({num_likely:,} with a score of {LIKELY:g} or more)"
    yield Gallery(tiles, f"{title}: {counted(len(places), 'image')}{likely} and the best match of each{shown}.")


def _pair_tile(collection: Collection, one: int, other: int, score: float, is_mirrored: bool) -> Tile:
    labels = [collection.class_of(one), collection.class_of(other)]
    title = labels[0] if labels[0] == labels[1] else f"{labels[0]} ≠ {labels[1]}"
    mirrored = ", mirrored" if is_mirrored else ""
    lines = [place(collection, image) for image in (one, other)]
    return Tile(
        [small(collection.pixels(image)) for image in (one, other)], title, [*lines, f"score {score:.2f}{mirrored}"]
    )
