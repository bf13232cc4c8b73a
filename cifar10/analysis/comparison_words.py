"""A comparison in words: what differs, and whether it is more than chance."""

import statistics
from collections.abc import Sequence

from cifar10.analysis.comparison import ComparedRun, Comparison, Side, distinct
from cifar10.analysis.network_differences import NetworkPair
from cifar10.analysis.paired_differences import Difference
from cifar10.data.class_names import printable
from cifar10.wording import counted

_MOST_SENTENCES = 12
_MOST_NAMED = 3  # pairs
_MOST_COLUMNS = 6  # of sides on a terminal
_LONGEST_CELL = 32  # characters of a value in the table on a terminal
_LEAST_SHOWN = 1e-12


def verdicts(found: Comparison) -> list[str]:
    """Return the result, a sentence or two for each difference, the most general first."""
    lines = [] if found.images is not None else ["The answers of no two runs can be compared; see below for why."]
    lines += [f"{printable(run.name)} has no answers to compare: {printable(run.problem)}" for run in _mute(found)]
    if found.images is None:
        return lines
    lines += _same_weights(found)
    if found.is_one_recipe:
        return [*lines, *_of_one_recipe(found)]
    sides = {side.name: side for side in found.answering_sides}
    for each in found.differences[:_MOST_SENTENCES]:
        lines.append(_of_recipes(each, sides[each.first], sides[each.second], found))
    if len(found.differences) > _MOST_SENTENCES:
        lines.append(f"{len(found.differences) - _MOST_SENTENCES:,} more differences are in the report.")
    return [*lines, *(line for side in sides.values() for line in _within(found, side))]


def _mute(found: Comparison) -> list[ComparedRun]:
    return [run for run in found.runs if run.answers is None]


def _same_weights(found: Comparison) -> list[str]:
    groups: dict[str, list[str]] = {}
    for run in found.answering:
        if run.weights is not None:
            groups.setdefault(run.weights, []).append(printable(run.name))
    return [f"{' and '.join(names)} are the same network, weight by weight." for names in groups.values() if names[1:]]


def _of_one_recipe(found: Comparison) -> list[str]:
    lines = ["All runs share settings and data, and differ by their seed only."]
    values = [found.accuracy(run).value for run in distinct(found.answering)]
    if len(values) > 1:
        lines.append(f"Accuracy {_mean_and_spread(values)}.")
    lines.append(about_pair(found.pairs[0]) if len(found.pairs) == 1 else _about_pairs(found.pairs))
    if any(pair.is_beyond_chance for pair in found.pairs):
        lines.append("The recipe is the same, so that is the chance of the seed, and no difference between recipes.")
    return lines


def _within(found: Comparison, side: Side) -> list[str]:
    """Return a sentence on the spread between the seeds of a side, if it has several."""
    values = [found.accuracy(run).value for run in side.answering]
    return [f"{printable(side.name)}: accuracy {_mean_and_spread(values)}."] if len(values) > 1 else []


def _mean_and_spread(values: Sequence[float]) -> str:
    spread = 100 * statistics.stdev(values)
    return f"{statistics.mean(values):.2%} on average over {len(values)} seeds, standard deviation {spread:.2f} points"


def _of_recipes(difference: Difference, first: Side, second: Side, found: Comparison) -> str:
    names = f"{printable(first.title)} against {printable(second.title)}"
    points, interval = 100 * difference.interval.value, points_of(difference)
    if difference.num_seeds == 1:
        pair = next(
            (
                pair
                for pair in found.pairs
                if (pair.first, pair.second) == (first.answering[0].name, second.answering[0].name)
            ),
            None,
        )
        more = (
            "With one seed on a side, this is about these networks; it takes several seeds each to judge the recipes."
        )
        if pair is None:
            return f"{names}: {points:+.2f} points ({interval}). {more}"
        return f"{about_pair(pair)} {more}"
    if difference.is_beyond_chance:
        better = first if points > 0 else second
        verdict = f"different: {printable(better.name)} is better, by more than the chance of seeds and images"
    else:
        verdict = "no difference beyond the chance of seeds and images"
    seeds = f"95 %, {difference.num_seeds} pairs of seeds"
    return f"{names}: {points:+.2f} points of accuracy ({interval}, {seeds}): {verdict}."


def points_of(difference: Difference) -> str:
    """Return the interval of a difference in points."""
    return f"{100 * difference.interval.low:+.2f} to {100 * difference.interval.high:+.2f}"


def about_pair(pair: NetworkPair) -> str:
    """Return what is known about two networks."""
    first, second = printable(pair.first), printable(pair.second)
    points = 100 * (pair.only_first - pair.only_second) / pair.num_images
    only = f"{counted(pair.only_first, 'image')} recognised by {first} only, {pair.only_second:,} by {second} only"
    counts = f"{first} against {second}: {points:+.2f} points of accuracy; {only}"
    if not pair.is_beyond_chance:
        return f"{counts}: no difference beyond chance (McNemar's exact test, {p_text(pair)})."
    better = first if points > 0 else second
    return f"{counts}: different, {better} is better by more than chance (McNemar's exact test, {p_text(pair)})."


def _about_pairs(pairs: Sequence[NetworkPair]) -> str:
    beyond = [pair for pair in pairs if pair.is_beyond_chance]
    if not beyond:
        least = min(pairs, key=lambda pair: pair.p_value)
        return (
            f"No difference beyond chance in any of {len(pairs)} pairs (McNemar's exact test, least {p_text(least)})."
        )
    named = "; ".join(f"{printable(pair.first)} and {printable(pair.second)}" for pair in beyond[:_MOST_NAMED])
    more = f" and {len(beyond) - _MOST_NAMED} more" if len(beyond) > _MOST_NAMED else ""
    count = f"{len(beyond)} of {len(pairs)} pairs of networks differ by more than chance (McNemar's exact test)"
    return f"{count}: {named}{more}."


def p_text(pair: NetworkPair) -> str:
    """Return the p-value, such as `p = 0.031`."""
    return f"p < {_LEAST_SHOWN:g}" if pair.p_value < _LEAST_SHOWN else f"p = {pair.p_value:.2g}"


def plain_table(found: Comparison) -> list[str]:
    """Return the settings that differ and the accuracies as lines of aligned columns, one column for each side.

    If there are many sides, each is a line, with the first of the settings.
    """
    rows: list[list[str]] = [["", *(printable(side.title) for side in found.sides)]]
    rows += [[key, *("-" if value is None else printable(value) for value in values)] for key, values in found.settings]
    rows.append(["seed", *(", ".join(_seed(run) for run in side.runs) for side in found.sides)])
    if found.images is not None:
        for plain, name in ((False, "accuracy"), (True, "accuracy, one view")):
            rows.append([name, *(_accuracies(found, side, plain) for side in found.sides)])
    if len(found.sides) > _MOST_COLUMNS:
        num_results = 3 if found.images is not None else 1
        rows = [rows[0], *rows[-num_results:], *rows[1:-num_results][:_MOST_COLUMNS]]
        rows = [list(row) for row in zip(*rows, strict=True)]
    cut = [[_cut(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cut, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cut]


def _seed(run: ComparedRun) -> str:
    return "-" if run.seed < 0 else str(run.seed)


def _accuracies(found: Comparison, side: Side, plain: bool) -> str:
    runs = side.answering
    if not runs:
        return "-"
    accuracies = [found.accuracy(run, plain) for run in runs]
    if len(accuracies) == 1:
        low, high = accuracies[0].interval
        return f"{accuracies[0].value:.2%} ({low:.2%} to {high:.2%})"
    values = [accuracy.value for accuracy in accuracies]
    return f"{statistics.mean(values):.2%} (sd {100 * statistics.stdev(values):.2f} points)"


def _cut(cell: str) -> str:
    return cell if len(cell) <= _LONGEST_CELL else f"{cell[: _LONGEST_CELL - 1]}…"
