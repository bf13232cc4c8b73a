"""Entry point of `feedback`: the corrections of visitors -> a table, and class folders to train on."""

import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from cifar10.data.class_names import printable
from cifar10.errors import UsageError
from cifar10.serving.correction_export import export_corrections
from cifar10.serving.corrections import Correction, CorrectionStore
from cifar10.wording import counted

_SHORTEST = 8  # characters of a SHA-256 that name an image


def feedback(store: Path, output: Path | None = None, withdraw: str | None = None, details: bool = False) -> None:
    """Print the corrections as a table, after the changes that are asked for.

    Args:
        store: A `CorrectionStore`.
        output: Write the images into class folders below this folder.
        withdraw: SHA-256 of an image, or its beginning: its correction is not to be used.
        details: One line for each correction instead of one for each class.

    Raises:
        UsageError: No correction, or several, begin with `withdraw`.
        UserError: The store cannot be read, or the folder not written.
    """
    corrections = CorrectionStore(store)
    if withdraw is not None:
        [sha256] = _named(withdraw, corrections.corrections())
        corrections.withdraw(sha256)
        print(f"withdrawn: {sha256}", file=sys.stderr)
    exported = None if output is None else export_corrections(corrections, output)
    known = corrections.corrections()
    if not known:
        print(f"{store} has no corrections yet; visitors of the web page make them", file=sys.stderr)
        return
    print("\n".join(_details(known) if details else _counts(known)), flush=True)
    print(f"{counted(len(known), 'correction')} in {store}", file=sys.stderr)
    if exported is not None:
        print(f"{output}: {exported.describe()}", file=sys.stderr)


def _named(beginning: str, corrections: Sequence[Correction]) -> list[str]:
    """Return the one SHA-256 that begins so."""
    found = [each.sha256 for each in corrections if each.sha256.startswith(beginning.lower())]
    if len(beginning) < _SHORTEST or len(found) > 1:
        raise UsageError(f"--withdraw={beginning}: give more of the SHA-256, {_SHORTEST} characters or all 64")
    if not found:
        raise UsageError(f"--withdraw={beginning}: no corrected image has this SHA-256; see feedback --details")
    return found


def _counts(corrections: Sequence[Correction]) -> list[str]:
    """Return a table with a row for each class that labels were corrected to."""
    by_class: dict[str, list[Correction]] = defaultdict(list)
    for each in corrections:
        by_class[each.corrected_class].append(each)
    rows = [["class", "corrections", "new", "exported", "withdrawn", "most often taken for"]]
    for name in sorted(by_class):
        states = Counter(each.state for each in by_class[name])
        [(taken_for, number)] = Counter(each.predicted_class for each in by_class[name]).most_common(1)
        numbers = [len(by_class[name]), states["new"], states["exported"], states["withdrawn"]]
        rows.append([printable(name), *(f"{value:,}" for value in numbers), f"{printable(taken_for)} ({number:,})"])
    return _aligned(rows, left=(0, 5))


def _details(corrections: Sequence[Correction]) -> list[str]:
    """Return a table with a row for each correction, the oldest first."""
    rows = [["sha256", "time (UTC)", "from", "state", "predicted", "prob.", "corrected"]]
    for each in corrections:
        moment = datetime.fromtimestamp(each.time, UTC)
        classes = [printable(each.predicted_class), f"{each.probability:.4f}", printable(each.corrected_class)]
        rows.append([each.sha256[:16], f"{moment:%Y-%m-%d %H:%M:%S}", each.source, each.state, *classes])
    return _aligned(rows, left=(0, 1, 2, 3, 4, 6))


def _aligned(rows: Sequence[Sequence[str]], left: Sequence[int]) -> list[str]:
    """Return rows as lines with columns of equal width, those in `left` aligned at the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if number in left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
