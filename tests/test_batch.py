"""`batch` writes the rows of `infer`, whatever holds the images and wherever Ray runs."""

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from cifar10.batch import _files_of
from cifar10.cli.command_line import main
from cifar10.config.compose import load_config
from cifar10.errors import UserError
from cifar10.export import export
from cifar10.images.parquet_images import find_parquet
from cifar10.images.preprocessing import Preprocessing
from cifar10.inference.predictor import Predictor
from cifar10.inference.ray_worker import ImageClassifier, Work, facts_of, results_of
from cifar10.inference.result_parts import PartFolder, open_parts
from cifar10.system.limits import CPUS
from cifar10.train import train
from commands import COMMANDS
from tests.conftest import ROOT, SHARED_DATA
from tests.malformed import encode, malformed_images, picture
from tests.tiny_run import TINY

CLASSES = ("red", "green", "blue")
SIZE = 8
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra ray")


class StrongestColour:
    """Probabilities in proportion to the strength of each colour."""

    def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        strength = pixels.reshape(len(pixels), -1, 3).mean(axis=1, dtype=np.float32)
        return strength / strength.sum(axis=1, keepdims=True)  # type: ignore[no-any-return]

    def describe(self) -> dict[str, str]:
        return {"engine": "stub"}


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Predictor:
    """Let workers load a stub, and restore the variable that they set."""
    predictor = Predictor(StrongestColour(), CLASSES, Preprocessing(SIZE), 4, "none", {"checkpoint": "temporary"})
    monkeypatch.setattr(Predictor, "from_checkpoint", lambda *arguments, **options: predictor)
    monkeypatch.setenv(CPUS, "1")
    return predictor


def write_images(folder: Path, count: int = 9) -> list[str]:
    """Write images of three classes and two that are damaged; return the names in the order of `infer`."""
    for number in range(count):
        (folder / CLASSES[number % 3]).mkdir(parents=True, exist_ok=True)
        pixels = picture(number, SIZE + number) // 2
        pixels[:, :, number % 3] += 100
        (folder / CLASSES[number % 3] / f"{number}.png").write_bytes(encode(pixels, "PNG"))
    for item in malformed_images()[:2]:
        (folder / item.name).write_bytes(item.data)
    (folder / "кот=\udce9.png").write_bytes(encode(picture(1, SIZE), "PNG"))
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))


def work(root: Path, **options: Any) -> Work:
    return Work("models/run/best.ckpt", {"best.ckpt": b""}, str(root), **{"top_k": 2, "num_cpus": 1, **options})


def test_a_worker_gives_each_image_of_a_batch_the_result_of_the_predictor(stub: Predictor, tmp_path: Path) -> None:
    names = write_images(tmp_path)
    worker = ImageClassifier(work(tmp_path))
    by_path = pa.table({"path": pa.array([os.fsencode(name) for name in names], pa.binary())})
    data = [(tmp_path / name).read_bytes() for name in names]
    utf8 = [name.encode("utf-8", "replace").decode() for name in names]
    tables = [worker(by_path), worker(pa.table({"path": utf8, "bytes": data})), worker(pa.table({"bytes": data}))]
    expected = stub.predict([tmp_path / name for name in names], top_k=2)
    for number, table in enumerate(tables):
        facts = facts_of(table)
        assert facts.class_names == CLASSES and facts.provenance["checkpoint"] == "models/run/best.ckpt"
        found = results_of(table, facts)
        assert [(row.top, row.error) for row in found] == [(row.top, row.error) for row in expected]
        assert [row.path for row in found] == [names, utf8, [""] * len(names)][number]
        assert [row.sha256 for row in found] == [None] * len(names)
    labels = [row.label for row in results_of(tables[0], facts_of(tables[0]))]
    assert labels == [Path(name).parts[0] if "/" in name else None for name in names]
    with_receipts = ImageClassifier(work(tmp_path, receipts=True))(by_path)
    digests = [row.sha256 for row in results_of(with_receipts, facts_of(with_receipts))]
    assert digests == [hashlib.sha256(encoded).hexdigest() for encoded in data]


@pytest.mark.usefixtures("stub")
def test_an_error_of_a_worker_is_reported_by_the_driver(tmp_path: Path) -> None:
    table = ImageClassifier(work(tmp_path, top_k=4))(pa.table({"bytes": [b"", b""]}))
    with pytest.raises(UserError, match=r"top_k=4 is more than the 3 classes of models/run/best\.ckpt") as refused:
        facts_of(table)
    assert refused.value.exit_code == 2


@pytest.mark.usefixtures("stub")
def test_a_folder_of_parts_appears_when_it_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cifar10.inference.result_parts._PART_ROWS", 5)
    names = write_images(tmp_path / "in")
    table = ImageClassifier(work(tmp_path / "in"))(pa.table({"path": [os.fsencode(name) for name in names]}))
    rows = results_of(table, facts_of(table))
    with open_parts(PartFolder(tmp_path / "out", "csv"), CLASSES, 1, {}) as writer:
        for start in range(0, len(rows), 3):
            writer.write(rows[start : start + 3])
        assert not (tmp_path / "out").exists()
    parts = sorted((tmp_path / "out").iterdir())
    assert [part.name for part in parts] == ["part-00000.csv", "part-00001.csv"]
    assert sum(part.read_text().count("\n") - 1 for part in parts) == len(rows) == 12
    with pytest.raises(KeyError), open_parts(PartFolder(tmp_path / "other", "csv"), CLASSES, 1, {}):
        raise KeyError
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_parquet_files_of_images_are_recognised(tmp_path: Path) -> None:
    assert find_parquet(str(tmp_path)) is None
    for impossible in ("x" * 300, f"{'x' * 300}.parquet", "a\0b", "a\0b.parquet"):
        assert find_parquet(impossible) is None
    for name in ("b", "a"):
        pq.write_table(pa.table({"path": ["x.png"], "bytes": [b"1"], "other": [1]}), tmp_path / f"{name}.parquet")
    found = find_parquet(str(tmp_path))
    assert found is not None
    assert [file.name for file in found.files] == ["a.parquet", "b.parquet"]
    assert found.columns == ("path", "bytes") and found.num_rows == 2 and found.root == tmp_path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no parquet", "is not a Parquet file"),
        (pa.table({"image": [b"1"]}), "has no column path or bytes, but image"),
        (pa.table({"bytes": ["text"]}), "its column bytes is string; it must be binary"),
        (pa.table({"path": [b"1"]}), "its column path is binary; it must be string"),
    ],
)
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is missed first")
def test_other_parquet_files_are_refused_before_any_work(
    content: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "images.parquet"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        pq.write_table(content, file)
    assert main(COMMANDS, "", ["batch", str(file), f"--output={tmp_path / 'out'}"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "exit_code", "message"),
    [
        (["--output=full"], 2, "full is there already and not an empty folder"),
        (["--output=nowhere/out"], 2, "there is no folder"),
        (["--output=-"], 2, "batch writes a file or a folder; for standard output, use infer"),
        (["--output=out.xlsx"], 2, "its suffix names no format; for a folder of that name, write out.xlsx/"),
        (["--output=out", "--address=http://head"], 2, "must be ray://HOST:PORT, HOST:PORT of a head node, or auto"),
        (["--output=out", "--address=127.0.0.1:9"], 1, "no Ray cluster listens at 127.0.0.1:9"),
        (["--output=out", "--workers=0"], 2, "1 or more"),
        (["--output=out", "--format=table"], 2, "must be one of parquet, csv, jsonl"),
        (
            ["--output=out", "--test_dir=images.zip"],
            2,
            "batch reads folders and Parquet files; for images.zip, use infer",
        ),
        ([], 2, "batch needs OUTPUT"),
    ],
)
@needs_ray
def test_mistakes_are_told(
    words: list[str],
    exit_code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "full")
    (tmp_path / "net.ckpt").touch()
    shutil.make_archive("images", "zip", "full", "red")
    images = [] if any(word.startswith("--test_dir") for word in words) else ["full"]
    assert main(COMMANDS, "", ["batch", *images, "--checkpoint_name=net.ckpt", *words]) == exit_code
    assert message in capsys.readouterr().err


def test_without_ray_the_line_to_type_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "in")
    (tmp_path / "net.ckpt").touch()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(COMMANDS, "", ["batch", "in", "out", "--checkpoint_name=net.ckpt"]) == 1
    assert "python -m pip install 'ray[client,data]>=2.60'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a trained run, exported to ONNX, and with images in `in`."""
    folder = tmp_path_factory.mktemp("batch")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train(load_config([*TINY, "model=simple_cnn", "model.width=8", "run_name=run", "training.precision=fp32"]))
        export("run", ["onnx"])
    write_images(folder / "in", count=300)
    return folder


def run(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, str(ROOT / "commands.py"), *words, "--checkpoint_name=run"]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False, timeout=200)


def require_rows_of_infer(folder: Path, images: str, output: str, *words: str, source: str | None = None) -> None:
    """Compare what `batch` writes for `source`, by default `images`, with what `infer` writes for `images`."""
    suffix = Path(output).suffix
    shared = [word for word in words if not word.startswith("--address")]
    inferred = run(folder, "infer", images, f"--output=inferred{suffix}", *shared)
    computed = run(folder, "batch", source or images, output, *words)
    assert computed.returncode == inferred.returncode, computed.stderr
    assert computed.stdout == "" and computed.stderr.count("\n") < 25, computed.stderr
    for word in ("Ray", "ray", "WARNING", "deprecat"):
        assert word not in computed.stderr
    if suffix == ".parquet":
        expected, found = pq.read_table(folder / f"inferred{suffix}"), pq.read_table(folder / output)
        assert found.equals(expected) and found.schema.metadata == expected.schema.metadata
    else:
        assert (folder / output).read_bytes() == (folder / f"inferred{suffix}").read_bytes()


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_the_rows_of_a_folder_are_those_of_infer(trained: Path, engine: str) -> None:
    suffix = {"torch": "parquet", "onnx": "csv"}[engine]
    require_rows_of_infer(trained, "in", f"rows.{suffix}", "--top_k=3", f"--engine={engine}", "--receipts")
    verified = run(trained, "verify", f"rows.{suffix}")
    assert verified.returncode == 0, verified.stderr


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_photos_in_parquet_files_give_the_rows_of_infer(trained: Path) -> None:
    """With the photos of ../shared where they are, else with generated images."""
    photos = SHARED_DATA / "photos" if (SHARED_DATA / "photos").is_dir() else trained / "in" / "red"
    files = sorted(path for suffix in ("jpg", "png") for path in photos.glob(f"*.{suffix}"))
    (trained / "shards").mkdir(exist_ok=True)
    for number in range(3):
        part = files[number * len(files) // 3 : (number + 1) * len(files) // 3]
        names = [file.relative_to(photos).as_posix() for file in part]
        table = pa.table({"path": names, "bytes": [file.read_bytes() for file in part]})
        pq.write_table(table, trained / "shards" / f"{number}.parquet")
    require_rows_of_infer(trained, str(photos), "photos.jsonl", "--engine=onnx", source="shards")


def free_port() -> int:
    """Return a port that no program uses; never one from 10002 to 19999, which Ray gives to its workers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    assert port not in range(10_002, 20_000)
    return port


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Start a cluster of Ray with one node; yield its address and that for Ray's client."""
    ports = [free_port(), free_port()]
    program = str(Path(sys.executable).parent / "ray")
    words = ["start", "--head", "--block", f"--port={ports[0]}", f"--ray-client-server-port={ports[1]}", "--num-cpus=2"]
    quiet = ["--include-dashboard=false", "--disable-usage-stats", "--object-store-memory=100000000"]
    with (tmp_path / "ray.log").open("wb") as log:
        head = subprocess.Popen([program, *words, *quiet], stdout=log, stderr=log, cwd=tmp_path, start_new_session=True)
    try:
        until = time.monotonic() + 60
        while "will now block" not in (tmp_path / "ray.log").read_text():
            assert head.poll() is None and time.monotonic() < until, (tmp_path / "ray.log").read_text()
            time.sleep(0.5)
        yield f"127.0.0.1:{ports[0]}", f"ray://127.0.0.1:{ports[1]}"
    finally:
        head.send_signal(signal.SIGTERM)  # it stops the processes of the node
        head.wait(60)


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cluster_computes_the_rows_of_infer_by_both_kinds_of_address(trained: Path, cluster: tuple[str, str]) -> None:
    for number, address in enumerate(cluster):
        require_rows_of_infer(trained, "in", f"cluster{number}.csv", "--engine=onnx", f"--address={address}")


def test_a_worker_gets_the_checkpoint_and_what_was_exported_of_it(tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    names = ["best.ckpt", "export/model.onnx", "export/native_int8.json", "export/model.pt2"]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    assert list(_files_of(tmp_path / "best.ckpt", engine="native_int8")) == names[:3]
    assert list(_files_of(tmp_path / "best.ckpt", engine=None)) == names[:1]
