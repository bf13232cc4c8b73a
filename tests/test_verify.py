"""`verify` finds each row of a result file that no longer holds, and says why."""

import csv
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from cifar10.cli.command_line import main
from cifar10.config.compose import load_config
from cifar10.errors import UserError
from cifar10.export import export
from cifar10.images.preprocessing import Preprocessing
from cifar10.images.sources import open_source
from cifar10.infer import infer
from cifar10.inference.destination import choose_destination
from cifar10.inference.predictor import Predictor
from cifar10.inference.receipt_files import sample_rows
from cifar10.inference.receipts import RECEIPT_COLUMNS
from cifar10.inference.request import InferenceRequest
from cifar10.train import train
from cifar10.verify import verify
from commands import COMMANDS
from tests.malformed import encode, picture
from tests.tiny_run import TINY

CLASSES = ("red", "green", "blue")
SIZE = 8
FORMATS = ("csv", "jsonl", "parquet")
DIGEST = "ab" * 32


class Strength:
    """Probabilities in proportion to the strength of each colour, and a little more for class 0."""

    def __init__(self) -> None:
        self.more = 0.0
        self.precision = "fp32"

    def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        strength = pixels.reshape(len(pixels), -1, 3).mean(axis=1, dtype=np.float32)
        found = strength / strength.sum(axis=1, keepdims=True)
        return (found + np.array([self.more, 0, -self.more])).astype(np.float32)  # type: ignore[no-any-return]

    def describe(self) -> dict[str, str]:
        return {"engine": "torch 0.0", "precision": self.precision, "device": "cpu"}


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Strength:
    """Work in an empty folder with the file net.ckpt, which is loaded as a stub with the weights `DIGEST`."""
    stub = Strength()

    def from_checkpoint(
        file: Any, device: str = "auto", batch_size: int | None = None, tta: Any = None, **options: Any
    ) -> Predictor:
        digest = DIGEST if Path(file).name == "net.ckpt" else "cd" * 32
        return Predictor(
            stub,
            CLASSES,
            Preprocessing(SIZE),
            batch_size or 4,
            "none",
            {"checkpoint": str(file), "weights_digest": digest},
        )

    monkeypatch.setattr(Predictor, "from_checkpoint", from_checkpoint)
    monkeypatch.chdir(tmp_path)
    for name in ("net.ckpt", "other.ckpt"):
        (tmp_path / name).touch()
    return stub


def write_images(folder: Path, count: int = 6) -> None:
    folder.mkdir()
    for number in range(count):
        pixels = picture(number, SIZE) // 2
        pixels[:, :, number % 3] += 100
        (folder / f"{number}.png").write_bytes(encode(pixels, "PNG"))
    (folder / "bad.png").write_bytes(b"no image")


def infer_with_receipts(output: str, top_k: int = 1, source: str = "photos") -> Path:
    destination = choose_destination(output, None)
    infer(InferenceRequest(open_source(source), Path("net.ckpt"), destination, top_k=top_k, receipts=True))
    return Path(output)


def result(capsys: pytest.CaptureFixture[str], file: Path, **options: Any) -> dict[str, int]:
    """Return verdict -> number of rows, as printed."""
    capsys.readouterr()
    holds = verify(file, **options)
    counts = {line[:25].strip(): int(line[25:33]) for line in capsys.readouterr().out.splitlines()[1:]}
    assert holds == (set(counts) == {"holds"})
    return counts


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("top_k", [1, 3])
@pytest.mark.parametrize("suffix", FORMATS)
def test_rows_hold_in_every_format_until_an_image_is_changed_or_missing(
    suffix: str, top_k: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "photos")
    file = infer_with_receipts(f"rows.{suffix}", top_k)
    assert result(capsys, file) == {"holds": 7}
    (tmp_path / "photos/0.png").unlink()
    shutil.copy("photos/2.png", "photos/1.png")
    (tmp_path / "photos/bad.png").write_bytes(b"other")
    assert result(capsys, file) == {"holds": 4, "image missing": 1, "image changed": 2}


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("change", ["byte order mark", "Windows line ends", "semicolons", "tabs", "twice"])
def test_rows_that_a_spreadsheet_or_a_shell_has_written_again_hold(
    change: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "photos")
    file = infer_with_receipts("rows.csv", 3)
    text = file.read_text(encoding="utf-8")
    rows = list(csv.reader(text.splitlines()))
    for delimiter in {"semicolons": ";", "tabs": "\t"}.get(change, ""):
        with file.open("w", newline="", encoding="utf-8") as opened:
            csv.writer(opened, delimiter=delimiter).writerows(rows)
    changed = {"byte order mark": f"\ufeff{text}", "Windows line ends": text.replace("\n", "\r\n"), "twice": 2 * text}
    if change in changed:
        file.write_bytes(changed[change].encode())
    assert result(capsys, file) == {"holds": 14 if change == "twice" else 7}


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("change", [{"class_name": "forged"}, {"class_id": 2}, {"probability": 0.9}])
@pytest.mark.parametrize("suffix", FORMATS)
def test_a_forged_class_is_found_in_every_format(
    suffix: str, change: dict[str, Any], place: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "photos")
    file = infer_with_receipts(f"rows.{suffix}", 2)
    if suffix == "csv":
        table = pd.read_csv(file, keep_default_na=False)
        for key, value in change.items():
            table[f"{key}_2" if place else key] = table[f"{key}_2" if place else key].astype(object)
            table.loc[table["error"] == "", f"{key}_2" if place else key] = value
        table.to_csv(file, index=False)
    else:
        rows = pq.read_table(file).to_pylist() if suffix == "parquet" else records(file)
        for row in rows:
            if row["error"] is None:
                row["top"][place].update(change)
                row.update({} if place else change)
        if suffix == "parquet":
            pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(file)), file)
        else:
            file.write_text("\n".join(map(json.dumps, rows)))
    found = result(capsys, file)
    assert found.keys() == {"holds", "prediction changed"} and found["prediction changed"] >= 3


@pytest.mark.usefixtures("engine")
def test_a_row_that_no_image_can_have_given_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "photos")
    file = infer_with_receipts("rows.jsonl")
    good, bad = next(row for row in records(file) if not row["error"]), next(r for r in records(file) if r["error"])
    for row, reason in (
        (good | {"error": "damaged"}, "a class and an error"),
        (good | {"image_sha256": None}, "a class, and no SHA-256"),
        (good | {"class_name": None}, "a class without a name"),
        (bad | {"error": None}, "neither a class nor an error"),
        (bad | {"top": good["top"]}, "further classes without a first"),
        (good | {"top": "cat"}, "top is not a list"),
    ):
        file.write_text(json.dumps(row))
        with pytest.raises(UserError, match=reason):
            sample_rows(file, 1)


def records(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_changed_prediction_is_found_beyond_the_tolerance_of_the_precision(
    engine: Strength, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "photos")
    file = infer_with_receipts("rows.csv")
    engine.more = 5e-5
    assert result(capsys, file) == {"holds": 7}
    engine.more = 2e-4
    assert result(capsys, file) == {"holds": 3, "prediction changed": 4}  # green has no more and no less
    engine.precision = "bf16"
    assert result(capsys, file) == {"holds": 7}
    engine.more = 0.4
    assert result(capsys, file)["prediction changed"] == 6


@pytest.mark.usefixtures("engine")
def test_the_checkpoint_is_found_by_its_path_or_its_digest_or_not_at_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "photos")
    file = infer_with_receipts("rows.jsonl")
    assert result(capsys, file, checkpoint_name="other.ckpt") == {"model missing or changed": 7}
    run = tmp_path / "models" / "run"
    run.mkdir(parents=True)
    Path("net.ckpt").rename(run / "net.ckpt")
    assert result(capsys, file) == {"model missing or changed": 7}
    (run / "scores.json").write_text(json.dumps({"weights_digest": DIGEST}))
    (run / "best.ckpt").symlink_to("net.ckpt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cifar10.verify.BEST", "net.ckpt")  # the stub knows it by this name
        assert result(capsys, file) == {"holds": 7}


@pytest.mark.usefixtures("engine")
def test_moved_images_are_found_where_they_are_said_to_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "photos")
    file = infer_with_receipts("rows.parquet")
    Path("photos").rename("elsewhere")
    assert result(capsys, file) == {"image missing": 7}
    assert result(capsys, file, test_dir="elsewhere") == {"holds": 7}


@pytest.mark.usefixtures("engine")
def test_images_of_an_archive_and_of_a_list_are_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "photos")
    with zipfile.ZipFile("photos.zip", "w") as archive:
        for file in sorted(Path("photos").iterdir()):
            archive.write(file, f"in/{file.name}")
    Path("list.txt").write_text("\n".join(f"photos/{number}.png" for number in (3, 1, 2)))
    for source, count in {"photos.zip": 7, "list.txt": 3}.items():
        assert result(capsys, infer_with_receipts(f"{source}.csv", source=source)) == {"holds": count}
    Path("photos/1.png").unlink()
    assert result(capsys, Path("list.txt.csv")) == {"holds": 2, "image missing": 1}
    with zipfile.ZipFile("photos.zip", "w") as archive:
        archive.write("photos/0.png", "in/1.png")
    assert result(capsys, Path("photos.zip.csv")) == {"image changed": 1, "image missing": 6}


@pytest.mark.usefixtures("engine")
def test_odd_names_are_found_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photos").mkdir()
    for name in (b"=cmd.png", b"-x.png", "кот.png".encode(), b"a\xe9.png", b"new\nline.png", b'q"uote,.png'):
        (tmp_path / "photos" / Path(name.decode("utf-8", "surrogateescape"))).write_bytes(
            encode(picture(1, SIZE), "PNG")
        )
    for suffix in FORMATS:
        assert result(capsys, infer_with_receipts(f"rows.{suffix}")) == {"holds": 6}


@pytest.mark.usefixtures("engine")
def test_the_sample_is_random_but_the_same_each_time(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 30)
    file = infer_with_receipts("rows.csv")
    first, total = sample_rows(file, 10)
    again, _ = sample_rows(file, 10)
    assert total == 31 and len(first) == 10 and first == again
    paths = [row.path for row in first]
    assert paths != sorted(path.name for path in Path("photos").iterdir())[:10] and paths == sorted(paths)
    drawn = {row.path for seed in range(40) for row in sample_rows(file, 10, seed)[0]}
    assert len(drawn) == 31  # every row can be drawn


@pytest.fixture
def intact(engine: Strength, tmp_path: Path) -> dict[str, bytes]:
    """Return suffix -> the content of a result file."""
    write_images(tmp_path / "photos")
    return {suffix: infer_with_receipts(f"rows.{suffix}").read_bytes() for suffix in FORMATS}


def damaged(intact: dict[str, bytes]) -> dict[str, bytes]:
    """Return name -> the content of a file that must be refused."""
    csv, jsonl, parquet = (intact[suffix] for suffix in FORMATS)
    row = json.loads(jsonl.splitlines()[0])
    changed: dict[str, dict[str, Any]] = {
        "digest": {"weights_digest": "../../etc/passwd"},
        "settings": {"settings": "[" * 100_000},
        "list": {"settings": '{"tta": [1]}'},
        "probability": {"probability": float("nan")},
        "class": {"class_id": -1},
        "half": {"class_id": None},
        "null": {"path": None},
        "nul": {"path": "a\0b"},
    }
    return {
        "torn.csv": csv[: csv.rindex(b"settings") + 200],
        "torn_in_a_cell.csv": csv[:-30],
        "torn.jsonl": jsonl[:-30],
        "torn.parquet": parquet[:-30],
        "flipped.parquet": parquet[: len(parquet) // 2] + bytes(len(parquet) - len(parquet) // 2 - 8) + parquet[-8:],
        "latin.csv": csv.replace(b"bad.png", b"b\xe9d.png"),
        "long.csv": csv + b"x" * 3_000_000,
        "long.jsonl": b'{"path": "' + b"x" * 3_000_000,
        "deep.jsonl": b'{"a":' * 100_000,
        "binary.csv": bytes(range(256)) * 100,
        "text.csv": b"just a text\nof two lines\n",
        **{f"{name}.jsonl": json.dumps({**row, **change}).encode() for name, change in changed.items()},
    }


def test_a_damaged_or_hostile_file_is_refused_in_one_line(
    intact: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    for name, content in damaged(intact).items():
        Path(name).write_bytes(content)
        capsys.readouterr()
        assert main(COMMANDS, "", ["verify", name]) == 1, name
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1, (name, captured.err)
        assert captured.err.startswith(f"error: {name}") and len(captured.err) < 400, captured.err


def test_rows_without_receipts_are_told_how_to_get_them(intact: dict[str, bytes]) -> None:
    lines = [json.loads(line) for line in intact["jsonl"].splitlines()]
    bare = [{key: row[key] for key in row if key not in RECEIPT_COLUMNS} for row in lines]
    Path("bare.jsonl").write_text("\n".join(map(json.dumps, bare)))
    pq.write_table(pa.Table.from_pylist(bare), "bare.parquet")
    for name in ("bare.jsonl", "bare.parquet"):
        with pytest.raises(UserError, match="has no image_sha256 in its rows; receipts are written by infer --receip"):
            sample_rows(Path(name), 10)


@pytest.mark.parametrize("words", [["nothing.csv"], ["."], ["empty.csv"], ["rows.csv", "--checkpoint_name=nothing"]])
def test_mistakes_are_told_before_any_work(
    words: list[str], intact: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty.csv").touch()
    assert main(COMMANDS, "", ["verify", *words]) == 2
    assert main(COMMANDS, "", ["infer", "photos", "--checkpoint_name=net.ckpt", "--receipts"]) == 2
    assert "choose --format=csv" in capsys.readouterr().err


@pytest.mark.slow
def test_predictions_of_a_trained_network_hold_with_both_engines_and_after_a_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    train(load_config([*TINY, "model=simple_cnn", "model.width=8", "run_name=run"]))
    export("run", ["onnx"])
    write_images(tmp_path / "photos", 20)
    for engine in ("torch", "onnx"):
        words = ["infer", "photos", "--checkpoint_name=run", f"--engine={engine}", "--receipts"]
        assert main(COMMANDS, "", [*words, f"--output={engine}.csv"]) == 3
        assert main(COMMANDS, "", ["verify", f"{engine}.csv"]) == 0
    Path("models/run").rename("models/renamed")
    for engine in ("torch", "onnx"):
        assert main(COMMANDS, "", ["verify", f"{engine}.csv", "--sample=5"]) == 0
    assert "models/renamed" in capsys.readouterr().err
