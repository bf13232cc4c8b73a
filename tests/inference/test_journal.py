"""An interrupted run continues with every image exactly once, whatever has stopped it and wherever it was."""

import contextlib
import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cifar10.errors import UsageError, UserError
from cifar10.images.named_image import NamedImage, unreadable
from cifar10.inference.destination import choose_destination, partial_path, refuse_unfinished
from cifar10.inference.journal import open_journal
from cifar10.inference.prediction import GroupResult, ImageResult, Prediction
from tests.malformed import encode, picture

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ("airplane", "cat")
FINGERPRINT = {"weights_digest": "abc", "top_k": "1"}
NAMES = ["cat/1.png", "new\nline.png", os.fsdecode(b"latin-\xe9.png"), "=x.png", "bad.png"]


def rows() -> list[ImageResult]:
    good = [ImageResult(name, (Prediction("cat", 1, 0.1 + 0.2),), label="cat") for name in NAMES[:-1]]
    good[1] = replace(good[1], group=GroupResult("pet", {"pet": 0.1 + 0.2, "neither": 0.7}))
    return [*good, ImageResult(NAMES[-1], (), error="damaged: x")]


def images(names: list[str]) -> Iterator[NamedImage]:
    return (unreadable(name, "not read here") for name in names)


def interrupted(path: Path, kept: list[ImageResult]) -> Path:
    """Write the journal of a run that has been stopped; return its path."""
    with contextlib.suppress(KeyboardInterrupt), open_journal(path, CLASSES, FINGERPRINT, resume=False) as journal:
        journal.write(kept)
        raise KeyboardInterrupt
    return partial_path(path)


def test_rows_are_kept_and_read_back_as_they_were(tmp_path: Path) -> None:
    interrupted(tmp_path / "r.csv", rows())
    left = images([*NAMES, "more.png"])
    with open_journal(tmp_path / "r.csv", CLASSES, FINGERPRINT, resume=True) as journal:
        assert [row for part in journal.resumed(left) for row in part] == rows()
        assert [image.name for image in left] == ["more.png"]
        journal.write(rows()[:1])
        assert [row for part in journal.rows() for row in part] == [*rows(), rows()[0]]


def test_whatever_is_torn_off_the_end_whole_rows_are_kept(tmp_path: Path) -> None:
    whole = interrupted(tmp_path / "r.csv", rows()).read_bytes()
    ends = [position + 1 for position, byte in enumerate(whole) if byte == ord("\n")]
    for length in [*random.Random(0).sample(range(len(whole)), 60), 0, ends[0], len(whole) - 1]:
        for garbage in (b"", b"\0" * 700, b"[1, 2\n")[: 3 if length >= ends[0] else 2]:
            partial_path(tmp_path / "r.csv").write_bytes(whole[:length] + garbage)
            num_kept = max(sum(end <= length for end in ends) - 1, 0)
            left = images(NAMES)
            with open_journal(tmp_path / "r.csv", CLASSES, FINGERPRINT, resume=True) as journal:
                assert [row for part in journal.resumed(left) for row in part] == rows()[:num_kept]
                journal.write(rows()[num_kept:])
                assert [row for part in journal.rows() for row in part] == rows()
            assert [image.name for image in left] == NAMES[num_kept:]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"[1, 0.3", b"[2, 0.3"),
        (b"[1, 0.3", b"[-1, 0.3"),
        (b"[1, 0.3", b"[1.5, 0.3"),
        (b"[1, 0.3", b"[true, NaN"),
        (b"[[1, 0.30000000000000004]]", b'[[1, "0.3"]]'),
        (b"[[1, 0.30000000000000004]]", b"null"),
        (b"[[1, 0.30000000000000004]]", b"[" * 5000),
        (b'"cat/1.png"', b"1"),
        (b'"cat/1.png"', b"null"),
        (b', "cat", ', b", 3, "),
        (b"\n[", b"\n{"),
    ],
)
@pytest.mark.parametrize("number", [0, 3])
def test_from_a_damaged_line_on_rows_are_computed_again(
    old: bytes, new: bytes, number: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = [replace(rows()[0], path=name) for name in NAMES]
    kept[number] = rows()[0]
    partial = interrupted(tmp_path / "r.csv", kept)
    lines = partial.read_bytes().splitlines(keepends=True)
    damaged = (b"\n" + lines[number + 1]).replace(old, new, 1)[1:]
    assert damaged != lines[number + 1]
    partial.write_bytes(b"".join([*lines[: number + 1], damaged, *lines[number + 2 :]]))
    left = images([row.path for row in kept])
    with open_journal(tmp_path / "r.csv", CLASSES, FINGERPRINT, resume=True) as journal:
        assert [row for part in journal.resumed(left) for row in part] == kept[:number]
        journal.write(kept[number:])
        assert [row for part in journal.rows() for row in part] == kept
    assert [image.name for image in left] == [row.path for row in kept[number:]]
    assert f"the line after {number} rows is damaged" in caplog.text
    assert partial.exists()


@pytest.mark.parametrize(
    "content", [b"my notes\n", b"my notes", b"\xff" * 5000, b'{"a": 1}\n', b'{"format": "1", "weig\n[1]\n', b"[1]\n"]
)
def test_a_file_that_is_none_of_ours_is_not_touched(content: bytes, tmp_path: Path) -> None:
    partial_path(tmp_path / "r.csv").write_bytes(content)
    with (
        pytest.raises(UserError, match="holds no rows of an interrupted run"),
        open_journal(tmp_path / "r.csv", CLASSES, FINGERPRINT, resume=True),
    ):
        pass
    assert partial_path(tmp_path / "r.csv").read_bytes() == content


def test_rows_stay_if_the_run_ends_before_it_has_read_them(tmp_path: Path) -> None:
    partial = interrupted(tmp_path / "r.csv", rows())
    before = partial.read_bytes()
    with (
        contextlib.suppress(KeyboardInterrupt),
        open_journal(tmp_path / "r.csv", CLASSES, FINGERPRINT, resume=True),
    ):
        raise KeyboardInterrupt
    assert partial.read_bytes() == before


def test_rows_are_complete_even_if_their_file_was_deleted(tmp_path: Path) -> None:
    with open_journal(tmp_path / "r.csv", CLASSES, FINGERPRINT, resume=False) as journal:
        journal.write(rows())
        partial_path(tmp_path / "r.csv").unlink()
        assert [row for part in journal.rows() for row in part] == rows()


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(
    "make",
    [Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path.name), lambda path: path.symlink_to("/dev/zero")],
)
def test_what_is_no_file_is_told(make: Callable[[Path], object], resume: bool, tmp_path: Path) -> None:
    make(partial_path(tmp_path / "r.csv"))
    with (
        pytest.raises(UsageError, match=r"r\.csv\.partial, where rows are kept.* is no file") as refused,
        open_journal(tmp_path / "r.csv", CLASSES, FINGERPRINT, resume),
    ):
        pass
    assert "\n" not in str(refused.value)


def test_temporary_files_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    mine, others = ".r.csv.0123456789ab.tmp", [".q.csv.0123456789ab.tmp", ".r.csv.tmp", "r.csv.0123456789ab.tmp"]
    for name in (mine, *others):
        (tmp_path / name).touch()
    interrupted(tmp_path / "r.csv", rows())
    assert set(os.listdir(tmp_path)) == {*others, "r.csv.partial"}


def test_nothing_is_left_of_a_run_without_rows(tmp_path: Path) -> None:
    interrupted(tmp_path / "r.csv", [])
    assert os.listdir(tmp_path) == []


def test_rows_are_not_overwritten_unless_they_are_continued(tmp_path: Path) -> None:
    partial = interrupted(tmp_path / "r.csv", rows())
    before = partial.read_bytes()
    with (
        pytest.raises(UsageError, match=r"r\.csv\.partial; continue it with --resume, or delete"),
        open_journal(tmp_path / "r.csv", CLASSES, FINGERPRINT, resume=False),
    ):
        pass
    assert partial.read_bytes() == before


@pytest.mark.parametrize(
    ("fingerprint", "difference"),
    [
        ({**FINGERPRINT, "weights_digest": "def"}, "weights_digest was abc and is def"),
        ({**FINGERPRINT, "jpeg": "full"}, "jpeg was not given and is full"),
        ({"weights_digest": "abc"}, "top_k was 1 and is not given"),
    ],
)
def test_rows_of_another_run_are_refused_with_what_differs(
    tmp_path: Path, fingerprint: dict[str, str], difference: str
) -> None:
    partial = interrupted(tmp_path / "r.csv", rows())
    before = partial.read_bytes()
    with pytest.raises(UserError, match=difference), open_journal(tmp_path / "r.csv", CLASSES, fingerprint, True):
        pass
    assert partial.read_bytes() == before


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["cat/0.png", *NAMES], r"number 1 was cat/1\.png and is cat/0\.png"),
        (NAMES[:3], r"number 4 was =x\.png and is missing"),
        ([NAMES[0], *NAMES[2:]], r"number 2 was new\\nline\.png and is latin-\\xe9\.png"),
    ],
)
def test_images_that_have_changed_since_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    partial = interrupted(tmp_path / "r.csv", rows())
    before = partial.read_bytes()
    with (
        pytest.raises(UserError, match=message),
        open_journal(tmp_path / "r.csv", CLASSES, FINGERPRINT, resume=True) as journal,
    ):
        list(journal.resumed(images(names)))
    assert partial.read_bytes() == before


def test_two_processes_do_not_write_the_same_rows(tmp_path: Path) -> None:
    interrupted(tmp_path / "r.csv", rows())
    with open_journal(tmp_path / "r.csv", CLASSES, FINGERPRINT, resume=True) as journal:
        list(journal.resumed(images(NAMES)))
        with (
            pytest.raises(UserError, match="is being written by another process; wait for it"),
            open_journal(tmp_path / "r.csv", CLASSES, FINGERPRINT, resume=True),
        ):
            pass
        with pytest.raises(UsageError, match="is being written by another process; wait for it"):
            refuse_unfinished(tmp_path / "r.csv", resume=False)


def test_a_long_name_has_a_journal_too(tmp_path: Path) -> None:
    names = {partial_path(tmp_path / f"{'x' * 240}{number}.csv").name for number in range(3)}
    assert len(names) == 3 and all(len(name) <= 255 for name in names)


RUN = """
import sys, time
import numpy as np
from cifar10.images.preprocessing import Preprocessing
from cifar10.images.sources import open_source
from cifar10.infer import infer
from cifar10.inference.destination import choose_destination
from cifar10.inference.predictor import Predictor
from cifar10.inference.request import InferenceRequest

class Engine:
    def probabilities(self, pixels):
        time.sleep(0.05)
        strength = pixels.reshape(len(pixels), -1, 3).mean(axis=1).astype(np.float32)[:, :2]
        return strength / strength.sum(axis=1, keepdims=True)

    def describe(self):
        return {"engine": "stub"}

Predictor.from_checkpoint = lambda *_, **__: Predictor(Engine(), ("airplane", "cat"), Preprocessing(8), 4, "none")
given, output, *resume = sys.argv[1:]
infer(InferenceRequest(open_source(given), "any", choose_destination(output, None), resume=bool(resume)))
"""


def start(given: str, output: Path, *resume: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", RUN, given, str(output), *resume]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)})


def records(path: Path) -> list[Any]:
    """Return the rows of a result file, comparable between runs."""
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    if path.suffix == ".parquet":
        return list(pq.read_table(path).to_pylist())
    lines = path.read_text("utf-8").split("\n")
    return [json.loads(line) for line in lines if line] if path.suffix == ".jsonl" else lines


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "txt"])
def test_killed_again_and_again_a_run_gives_the_rows_of_one_that_was_not(tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / "in"
    for number in range(150):
        (folder / ("cat" if number % 2 else "misc")).mkdir(parents=True, exist_ok=True)
        data = encode(picture(number, 8), "PNG") if number % 7 else b"bad"
        (folder / ("cat" if number % 2 else "misc") / f"{number:03}.png").write_bytes(data)
    output = tmp_path / f"rows.{suffix}"
    partial, chance = partial_path(output), random.Random(0)
    sizes = [0]
    for attempt in range(4):
        process = start(str(folder), output, *["--resume"][:attempt])
        wanted, began = sizes[-1] + chance.randrange(200, 2500), time.monotonic()
        while (not partial.exists() or partial.stat().st_size < wanted) and time.monotonic() - began < 60:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it was done before it was killed"
        process.stderr.close()  # type: ignore[union-attr]
        assert not output.exists()
        sizes.append(partial.stat().st_size)
    assert sizes == sorted(sizes) and len(set(sizes)) == len(sizes), "no attempt has gone on"
    _, messages = start(str(folder), output, "--resume").communicate(timeout=60)
    assert b"of the interrupted run are kept" in messages and b"150 images, 22 could not be read" in messages
    once = tmp_path / f"once.{suffix}"
    _, expected = start(str(folder), once).communicate(timeout=60)
    assert records(output) == records(once)
    assert sorted(os.listdir(tmp_path)) == sorted(["in", output.name, once.name])
    accuracy = [line.partition(b"accuracy ")[2].partition(b" whose")[0] for line in (messages, expected)]
    assert accuracy[0] == accuracy[1] != b""


def test_resume_needs_a_result_file(tmp_path: Path) -> None:
    from cifar10.images.sources import open_source
    from cifar10.inference.request import InferenceRequest

    (tmp_path / "1.png").write_bytes(encode(picture(), "PNG"))
    with pytest.raises(UsageError, match="name it with --output=FILE"):
        InferenceRequest(open_source(str(tmp_path)), "any", choose_destination(None, None), resume=True)
