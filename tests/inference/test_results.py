"""Every format says the same of every row, survives strange names, and never leaves half a file."""

import csv
import io
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cifar10.cli.command_line import main
from cifar10.errors import UsageError, UserError
from cifar10.files import atomic_write
from cifar10.inference.destination import Destination, choose_destination
from cifar10.inference.prediction import GroupResult, ImageResult, Prediction
from cifar10.inference.results import open_results
from commands import COMMANDS

CLASSES = ("airplane", "cat", "=evil")
NAMES = [
    "cat/1.png",
    "two words, and a comma.png",
    "new\nline.png",
    "carriage\rreturn.png",
    'quote".png',
    "\N{CAT}.png",
    "\u043a\u043e\u0442.png",
    "esc\x1b[31m.png",
    os.fsdecode(b"latin-\xe9.png"),
    "=1+1.png",
    "-n.png",
    "@x.png",
]


def rows() -> list[ImageResult]:
    good = [
        ImageResult(
            name, (Prediction("cat", 1, 0.75), Prediction("airplane", 0, 0.125)), label="cat" if number % 2 else None
        )
        for number, name in enumerate(NAMES)
    ]
    return [*good, ImageResult("bad.png", (), label="airplane", error='damaged: a, "b"')]


def written(path: Path, top_k: int = 2) -> Path:
    with open_results(choose_destination(str(path), None), CLASSES, top_k, {"weights_digest": "abc"}) as writer:
        writer.write(rows()[:5])
        writer.write(rows()[5:])
    return path


def expected_paths() -> list[str]:
    return [name.replace("\udce9", "\\xe9") for name in NAMES] + ["bad.png"]


def test_json_lines_say_everything(tmp_path: Path) -> None:
    records = [json.loads(line) for line in written(tmp_path / "r.jsonl").read_text("utf-8").split("\n")[:-1]]
    assert [record["path"] for record in records] == expected_paths()
    assert records[1] == {
        "path": NAMES[1],
        "class_name": "cat",
        "class_id": 1,
        "probability": 0.75,
        "label": "cat",
        "error": None,
        "top": [
            {"class_name": "cat", "class_id": 1, "probability": 0.75},
            {"class_name": "airplane", "class_id": 0, "probability": 0.125},
        ],
    }
    assert records[-1]["class_name"] is None and records[-1]["error"] == 'damaged: a, "b"' and records[-1]["top"] == []


def test_csv_is_parsed_back_row_by_row(tmp_path: Path) -> None:
    with written(tmp_path / "r.csv").open(encoding="utf-8", newline="") as file:
        records = list(csv.DictReader(file))
    assert [record["path"].removeprefix("./") for record in records] == expected_paths()
    assert records[0] == {
        "path": "cat/1.png",
        "class_name": "cat",
        "class_id": "1",
        "probability": "0.750000",
        "label": "",
        "error": "",
        "class_name_2": "airplane",
        "class_id_2": "0",
        "probability_2": "0.125000",
    }
    assert records[-1]["probability_2"] == records[-1]["class_id"] == "" and records[-1]["error"] == 'damaged: a, "b"'


def test_no_cell_of_csv_is_a_formula(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    with open_results(choose_destination(str(path), None), CLASSES, 1, {}) as writer:
        writer.write(
            [
                ImageResult(name, (Prediction("=evil", 2, 0.5),), label="=evil")
                for name in ("=cmd|x.png", "+1", "-1", "@x")
            ]
        )
    with path.open(encoding="utf-8", newline="") as file:
        cells = [cell for line in csv.reader(file) for cell in line]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert "./=cmd|x.png" in cells


def test_parquet_says_the_same_as_json_lines_and_where_it_comes_from(tmp_path: Path) -> None:
    table = pq.read_table(written(tmp_path / "r.parquet"))
    lines = written(tmp_path / "r.jsonl").read_text("utf-8").split("\n")[:-1]
    assert table.to_pylist() == [json.loads(line) for line in lines]
    assert table.schema.metadata[b"cifar10.weights_digest"] == b"abc"


def test_parquet_is_written_in_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cifar10.inference.results._ROW_GROUP", 10)
    path = tmp_path / "r.parquet"
    with open_results(choose_destination(str(path), None), CLASSES, 2, {}) as writer:
        for _ in range(7):
            writer.write(rows()[:4])
    assert pq.ParquetFile(path).num_row_groups == 3 and pq.read_metadata(path).num_rows == 28


def test_parquet_of_nothing_is_a_parquet_file(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    with open_results(choose_destination(str(path), None), CLASSES, 1, {}):
        pass
    assert pq.read_metadata(path).num_rows == 0


def test_a_table_has_one_line_a_row_and_aligned_columns(capsys: pytest.CaptureFixture[str]) -> None:
    with open_results(Destination(None, "table"), CLASSES, 2, {}) as writer:
        writer.write(rows())
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(rows())
    assert lines[1] == "cat       0.7500  airplane  0.1250  cat/1.png"
    assert lines[-1] == '-              -  -              -  bad.png  (damaged: a, "b")'
    assert all(line.startswith("cat       0.7500  airplane  0.1250  ") for line in lines[1:-1])
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("name", ["table", "csv", "jsonl"])
def test_text_goes_to_stdout_as_it_comes(name: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stdout", stream)
    with open_results(Destination(None, name), CLASSES, 1, {}) as writer:
        writer.write([ImageResult("1.png", (Prediction("cat", 1, 0.5),))])
        assert "1.png" in stream.getvalue()


def test_a_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    for suffix in ("csv", "jsonl", "parquet", "txt"):
        path = tmp_path / f"r.{suffix}"
        with open_results(choose_destination(str(path), None), CLASSES, 2, {}) as writer:
            writer.write(rows())
            assert not path.exists()
        assert path.exists()


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_the_folder_as_it_was(tmp_path: Path, suffix: str, error: type[BaseException]) -> None:
    path = tmp_path / f"r.{suffix}"
    path.write_text("from before")

    def fail() -> None:
        with open_results(choose_destination(str(path), None), CLASSES, 2, {}) as writer:
            writer.write(rows())
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "from before"
    assert os.listdir(tmp_path) == [path.name]


def test_a_full_disk_is_said_in_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"r\.csv could not be written \(No space left on device; .* MB are free"),
        atomic_write(tmp_path / "r.csv"),
    ):
        raise OSError(28, "No space left on device")
    assert os.listdir(tmp_path) == []


def test_a_link_stays_a_link_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to("real.csv")
    written(tmp_path / "link.csv")
    assert (tmp_path / "link.csv").is_symlink() and "cat/1.png" in (tmp_path / "real.csv").read_text()


def test_files_get_the_permissions_that_any_new_file_gets(tmp_path: Path) -> None:
    (tmp_path / "any").touch()
    assert written(tmp_path / "r.csv").stat().st_mode == (tmp_path / "any").stat().st_mode


@pytest.mark.parametrize(
    ("output", "output_format", "expected"),
    [
        (None, None, "table"),
        (None, "csv", "csv"),
        ("a.csv", None, "csv"),
        ("a.CSV", None, "csv"),
        ("a.ndjson", None, "jsonl"),
        ("a.parquet", None, "parquet"),
        ("a.txt", None, "table"),
        ("a.csv", "jsonl", "jsonl"),
        ("a", "parquet", "parquet"),
    ],
)
def test_the_format_is_the_one_named_else_that_of_the_suffix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str | None, output_format: str | None, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert choose_destination(output, output_format).format == expected
    assert os.listdir(tmp_path) == []


STREAM = """
import sys
from cifar10.files import atomic_write
from cifar10.inference.destination import choose_destination
from cifar10.inference.prediction import ImageResult, Prediction
from cifar10.inference.results import open_results
with open_results(choose_destination(sys.argv[1], sys.argv[2]), ["cat"], 1, {}) as writer:
    writer.write([ImageResult("1.png", (Prediction("cat", 0, 0.5),))])
print("said", file=sys.stderr)
"""


def streamed(tmp_path: Path, output: str, output_format: str) -> "subprocess.CompletedProcess[bytes]":
    """Write a row to `output` in a process whose stdout and stderr are a pipe and a file that has a line already."""
    log = tmp_path / "log"
    log.write_text("before\n")
    with log.open("ab") as stderr:
        return subprocess.run(
            [sys.executable, "-c", STREAM, output, output_format],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            check=True,
        )


@pytest.mark.parametrize("output", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/dev/../dev/stdout"])
def test_names_of_stdout_are_stdout(tmp_path: Path, output: str) -> None:
    assert streamed(tmp_path, output, "csv").stdout.splitlines()[1] == b"1.png,cat,0,0.500000,,"
    assert (tmp_path / "log").read_text() == "before\nsaid\n"


def test_parquet_goes_through_a_pipe_if_stdout_is_named_for_it(tmp_path: Path) -> None:
    table = pq.read_table(io.BytesIO(streamed(tmp_path, "/dev/stdout", "parquet").stdout))
    assert table.column("path").to_pylist() == ["1.png"]


def test_rows_written_to_stderr_leave_a_file_behind_it_as_it_was(tmp_path: Path) -> None:
    assert streamed(tmp_path, "/dev/stderr", "jsonl").stdout == b""
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[0] == "before" and json.loads(lines[1])["path"] == "1.png" and lines[2] == "said"


def test_a_named_pipe_is_written_to_as_rows_come(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    written(pipe, top_k=1)
    reader.join(timeout=30)
    assert "cat/1.png" in read[0] and os.listdir(tmp_path) == ["pipe.csv"]


def test_a_pipe_whose_reader_has_gone_is_said_in_one_line(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)

    def write() -> None:
        with open_results(choose_destination(str(pipe), None), CLASSES, 1, {}) as writer:
            os.close(reader)
            writer.write(rows())

    with pytest.raises(UserError, match=r"pipe\.csv could not be written: Broken pipe"):
        write()


def test_devices_take_rows(tmp_path: Path) -> None:
    written(Path(os.devnull))
    if Path("/dev/full").exists():
        with pytest.raises(UserError, match="/dev/full could not be written: No space left on device"):
            written(Path("/dev/full"))


@pytest.mark.parametrize(
    ("output", "output_format", "reason"),
    [
        (None, "parquet", "name a file"),
        (None, "xml", "choose table, csv"),
        ("a.xml", None, "names no format"),
        ("folder.csv", None, "is a folder"),
        ("missing/a.csv", None, "there is no folder"),
        ("socket.csv", None, "is a socket or a disk"),
        ("/dev/fd/999", "csv", "this stream is not open"),
        ("/dev/stdin", "csv", "open for reading only"),
        ("/proc/a.csv", None, "cannot be written"),
        ("x" * 300 + ".csv", None, "cannot be written"),
    ],
)
def test_an_output_that_cannot_be_is_misuse_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str | None, output_format: str | None, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.csv").mkdir()
    with socket.socket(socket.AF_UNIX) as server, open(os.devnull) as stdin:
        server.bind("socket.csv")
        monkeypatch.setattr("cifar10.inference.destination._OWN_STREAMS", {"stdin": stdin.fileno()})
        with pytest.raises(UsageError, match=reason):
            choose_destination(output, output_format)
    assert sorted(os.listdir(tmp_path)) == ["folder.csv", "socket.csv"]


@pytest.mark.parametrize("output", ["list.txt", "./list.txt", "link.csv", "hard.csv"])
def test_what_a_command_reads_is_not_replaced(output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("list.txt").write_text("a.png\n")
    Path("link.csv").symlink_to("list.txt")
    Path("hard.csv").hardlink_to("list.txt")
    with pytest.raises(UsageError, match="is read by this command, and would be replaced"):
        choose_destination(output, None, [None, "best", "list.txt"])
    assert choose_destination("new.txt", None, [None, "best", "list.txt"]).path == tmp_path / "new.txt"
    for words in ("infer", "batch", "similar list.txt"):
        line = [*words.split(), "--test_dir=list.txt", f"--output={output}", "--format=csv"]
        assert main(COMMANDS, "", line) == 2
    assert Path("list.txt").read_text() == "a.png\n"


def grouped(path: Path) -> Path:
    group = GroupResult("cat", {"cat": 0.75, "big dog": 0.125, "neither": 0.125})
    good = ImageResult("1.png", (Prediction("cat", 1, 0.75),), group=group)
    bad = ImageResult("2.png", (), error="empty file")
    with open_results(choose_destination(str(path), None), CLASSES, 1, {}, groups=list(group.probabilities)) as writer:
        writer.write([good, bad])
    return path


def test_groups_are_columns_in_every_format(tmp_path: Path) -> None:
    names = {"group": "cat", "group_cat": 0.75, "group_big dog": 0.125, "group_neither": 0.125}
    good, bad = csv.DictReader(io.StringIO(grouped(tmp_path / "a.csv").read_text()))
    assert [good[name] for name in names] == ["cat", "0.750000", "0.125000", "0.125000"]
    assert all(bad[name] == "" for name in names) and bad["error"] == "empty file"
    good, bad = (json.loads(line) for line in grouped(tmp_path / "a.jsonl").read_text().splitlines())
    assert (good["group"], good["groups"]) == ("cat", {"cat": 0.75, "big dog": 0.125, "neither": 0.125})
    assert (bad["group"], bad["groups"]) == (None, None)
    good, bad = pq.read_table(grouped(tmp_path / "a.parquet")).to_pylist()
    assert {name: good[name] for name in names} == names
    assert all(bad[name] is None for name in names)
    header, first, second = grouped(tmp_path / "a.txt").read_text().splitlines()
    assert header.split() == ["group", "cat", "big", "dog", "neither", "class", "prob.", "path"]
    assert first.split() == ["cat", "0.7500", "0.1250", "0.1250", "cat", "0.7500", "1.png"]
    assert second.split() == ["-", "-", "-", "-", "-", "-", "2.png", "(empty", "file)"]
    assert first.index("1.png") == second.index("2.png") == header.index("path")


def test_without_groups_nothing_is_added(tmp_path: Path) -> None:
    for suffix in ("csv", "jsonl", "parquet", "txt"):
        content = written(tmp_path / f"a.{suffix}").read_bytes()
        assert b"group" not in content
