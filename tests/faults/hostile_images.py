"""I1, I3: folders of malformed, strange and vanishing files, read by the real `infer`."""

import csv
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from PIL import Image

from tests.faults.experiment import Experiment, Trial, sample
from tests.faults.program import PROGRAM, run_program, wrong_ending
from tests.hostile_folder import SKIPPED, STRANGE_NAMES, add_skipped, write_hostile_folder
from tests.malformed import CHECKSUM, MISSING, encode, malformed_images, picture
from tests.tiny_onnx import write_colour_model

FORMATS = ("jsonl", "csv", "parquet")
_MODEL = "model.onnx"
_FILES_IN_A_FOLDER = 1000
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_GONE = "^cannot be read: No such file or directory$"

Row = dict[str, Any]


def read_rows(file: Path) -> list[Row]:
    """Return the rows of a file of results, without the `./` of paths in CSV; raise ValueError if it is malformed."""
    if file.suffix == ".parquet":
        import pyarrow.parquet as pq

        rows = pq.read_table(file).to_pylist()
    else:
        with file.open(encoding="utf-8", newline="") as lines:
            is_csv = file.suffix == ".csv"
            rows = list(csv.DictReader(lines)) if is_csv else [json.loads(line) for line in lines]
    if file.suffix == ".csv" and any(str(cell).startswith(_FORMULA) for row in rows for cell in row.values()):
        raise ValueError("a cell is a formula")
    return [row | {"path": row["path"].removeprefix("./"), "error": row["error"] or ""} for row in rows]


def in_results(name: str) -> str:
    """Return how the results write the name of a file."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def wrong_row(rows: Sequence[Row], name: str, reason: str) -> str:
    """Return why `rows` do not have one row for a file, with a class or with an error that matches `reason`; or ""."""
    own = [row for row in rows if row["path"] == in_results(name)]
    if len(own) != 1:
        return f"{name!r} has {len(own)} rows"
    [row] = own
    if not reason:
        return "" if row["class_name"] and not row["error"] else f"{name!r} is good, and has the row {row}"
    return "" if re.search(reason, row["error"]) and not row["class_name"] else f"{name!r}: {row['error']!r}: {reason}"


def classify_hostile_folders(number: int, folder: Path) -> Iterator[Trial]:
    """Write `number` files in folders, a fifth of them malformed, and classify each folder in the next format."""
    write_colour_model(folder / _MODEL)
    at_once = min(_FILES_IN_A_FOLDER, max(1, number // len(FORMATS)))
    for seed, first in enumerate(range(0, number, at_once)):
        files = min(at_once, number - first)
        expected = write_hostile_folder(folder / "in", seed, files, max(1, files // 5))
        output = f"rows_{seed}.{FORMATS[seed % len(FORMATS)]}"
        done = run_program(folder, "infer", "--test_dir=in", f"--checkpoint_name={_MODEL}", f"--output={output}")
        whole = wrong_ending(done.returncode, done.stderr, expected=3)
        rows = [] if whole else read_rows(folder / output)
        failed = sum(bool(reason) for reason in expected.values())
        if not whole and f"{len(rows):,} images, {failed:,} could not be read" not in done.stderr:
            whole = f"the summary does not count {failed} of {len(rows)}: {done.stderr[-200:]}"
        if len(rows) != len(expected):
            whole = whole or f"{len(rows)} rows for {len(expected)} files"
        for name, reason in expected.items():
            yield Trial(f"{output}, {name[:60]!a}", whole or wrong_row(rows, name, reason))
        shutil.rmtree(folder / "in")


def classify_with_pillow_alone(number: int, folder: Path) -> Iterator[Trial]:
    """Decode malformed files as Pillow does without further checks."""
    kinds = [kind for kind in malformed_images() if kind.reason in (MISSING, CHECKSUM)]
    for kind in kinds[:number]:
        (folder / kind.name).write_bytes(kind.data)
        row = {"path": kind.name, "class_name": "any", "error": ""}
        try:
            Image.open(folder / kind.name).convert("RGB")
        except Exception as error:  # Pillow raises nearly anything
            row |= {"class_name": "", "error": f"damaged: {error}"}
        yield Trial(kind.name, wrong_row([row], kind.name, "^damaged: "))


HOSTILE_FOLDER = Experiment(
    row="I1",
    name="hostile_folder",
    claim="each file has one row, each malformed one its reason; exit code 3",
    run=classify_hostile_folders,
    short=300,
    full=12_000,
    control=classify_with_pillow_alone,
)


def _delete(place: Path) -> None:
    (place / "z.png").unlink()


def _delete_folder(place: Path) -> None:
    shutil.rmtree(place / "z")


def _replace_by_pipe(place: Path) -> None:
    _delete(place)
    os.mkfifo(place / "z.png")


def _replace_by_folder(place: Path) -> None:
    _delete(place)
    (place / "z.png").mkdir()


def _replace_by_text(place: Path) -> None:
    (place / "z.png").write_text("no picture any more")


def _replace_by_link_to_nothing(place: Path) -> None:
    _delete(place)
    (place / "z.png").symlink_to("nothing")


def _lock(place: Path) -> None:
    (place / "z.png").chmod(0)


IN_MID_RUN: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "deleted in mid-run": (_delete, "z.png", _GONE),
    "folder deleted in mid-run": (_delete_folder, "z", _GONE),
    "replaced by a pipe in mid-run": (_replace_by_pipe, "z.png", "^not a regular file$"),
    "replaced by a folder in mid-run": (_replace_by_folder, "z.png", "^a folder$"),
    "replaced by text in mid-run": (_replace_by_text, "z.png", "^not a PNG, JPEG"),
    "replaced by a dangling link in mid-run": (_replace_by_link_to_nothing, "z.png", _GONE),
    "made unreadable in mid-run": (_lock, "z.png", "^cannot be read: Permission denied$"),
}
"""Fault -> what makes it, and the row that follows: its name and reason."""
_WITHOUT_PRIVILEGES = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
"""In front of a program that may not read everything although root starts it."""


_NUMBERS = range(len(STRANGE_NAMES))
_SPECIAL_KINDS = [
    [f"{kind}, {suffix}" for kind in [*SKIPPED, "unreadable", "unreadable folder"] for suffix in FORMATS],
    [f"{kind}, {suffix}" for kind in IN_MID_RUN for suffix in FORMATS[:2]],
    [f"{kind} {n}, {suffix}" for kind in ("name", "folder") for n in _NUMBERS for suffix in FORMATS],
]


def special_kinds(number: int | None = None) -> list[str]:
    """Return that many kinds, of few a third of each sort; all of them without a number."""
    every = [kind for kinds in _SPECIAL_KINDS for kind in kinds]
    if number is None or number > 3 * min(map(len, _SPECIAL_KINDS)):
        return sample(every, len(every) if number is None else number)
    return [kind for index, kinds in enumerate(_SPECIAL_KINDS) for kind in sample(kinds, (number + index) // 3)]


def classify_special_files(number: int, folder: Path) -> Iterator[Trial]:
    write_colour_model(folder / _MODEL)
    for kind in special_kinds(number):
        fault, _, suffix = kind.rpartition(", ")
        place = folder / "in"
        for name in ("a.png", "b.png", "z.png", "z/1.png"):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(encode(picture(size=8), "PNG"))
        (folder / "outside").mkdir(exist_ok=True)
        shutil.copy(place / "a.png", folder / "outside")
        make_and_classify = _in_mid_run if fault in IN_MID_RUN else _at_rest
        yield make_and_classify(folder, fault, suffix)
        shutil.rmtree(place)


def _at_rest(folder: Path, fault: str, suffix: str) -> Trial:
    """Return the trial of a file that is there before the program starts; `z.png` and others stay good."""
    place, shown = folder / "in", fault
    expected = {"a.png": "", "b.png": "", "z.png": "", "z/1.png": ""}
    skipped = SKIPPED.get(fault, "")
    with ExitStack() as stack:
        if fault in SKIPPED:
            add_skipped(fault, place, folder / "outside" / "a.png", stack)
        elif fault.startswith("unreadable"):
            name = "z.png" if fault == "unreadable" else "z"
            (place / name).chmod(0)
            del expected["z/1.png" if name == "z" else name]
            expected[name] = "^cannot be read: Permission denied$"
        else:
            kind, _, strange = fault.partition(" ")
            strange = STRANGE_NAMES[int(strange)]
            name = strange if kind == "name" else f"{strange.removesuffix('.png')}/1.png"
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(place / "a.png", place / name)
            expected[name], shown = "", f"{kind} {name[:60]!a}"
        output = folder / f"rows.{suffix}"
        words = ["infer", "--test_dir=in", f"--checkpoint_name={_MODEL}", f"--output={output.name}"]
        done = run_program(folder, *words, before=_WITHOUT_PRIVILEGES)
    (place / "z").chmod(0o700)  # so that it can be removed
    problem = wrong_ending(done.returncode, done.stderr, expected=3 if any(expected.values()) else 0)
    if not problem and skipped and skipped not in done.stderr:
        problem = f"{skipped!r} is not told: {done.stderr}"
    problem = problem or _wrong_rows(output, expected)
    output.unlink(missing_ok=True)
    return Trial(f"{shown}, {suffix}", problem)


def _wrong_rows(output: Path, expected: dict[str, str]) -> str:
    try:
        rows = read_rows(output)
    except (ValueError, csv.Error) as error:
        return f"the results cannot be read: {error}"
    if len(rows) != len(expected):
        return f"{len(rows)} rows for {len(expected)} files"
    return next((problem for name, reason in expected.items() if (problem := wrong_row(rows, name, reason))), "")


def _in_mid_run(folder: Path, fault: str, suffix: str) -> Trial:
    """Return the trial of a change while the program waits, because nobody reads its rows."""
    place, (change, name, reason) = folder / "in", IN_MID_RUN[fault]
    first = [f"n{number:0200}.png" for number in range(1000)]  # more rows than a pipe holds
    for good in first:
        shutil.copy(place / "a.png", place / good)
    expected = dict.fromkeys(["a.png", "b.png", *first, "z.png", "z/1.png"], "")
    del expected["z/1.png" if name == "z" else name]
    expected[name] = reason
    words = ["infer", "--test_dir=in", f"--checkpoint_name={_MODEL}", f"--format={suffix}", "--batch_size=4"]
    output = folder / f"rows.{suffix}"
    with subprocess.Popen(
        [*_WITHOUT_PRIVILEGES, *PROGRAM, *words],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        start = os.read(process.stdout.fileno(), 1)
        change(place)
        rest, stderr = process.communicate(timeout=120)
    output.write_bytes(start + rest)
    problem = wrong_ending(process.returncode, stderr.decode(errors="backslashreplace"), expected=3)
    problem = problem or _wrong_rows(output, expected)
    output.unlink()
    return Trial(f"{fault}, {suffix}", problem)


def _obstacle() -> str:
    return "" if not _WITHOUT_PRIVILEGES or shutil.which("setpriv") else "needs setpriv, or another user than root"


SPECIAL_FILES = Experiment(
    row="I3",
    name="special_files",
    claim="the file is skipped and counted, or has a row with its reason; the results can be read in every format",
    run=classify_special_files,
    short=12,
    full=len(special_kinds()),
    obstacle=_obstacle,
)
