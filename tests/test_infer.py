"""`infer` gives each file one row, in order, whatever is in the folder and whatever happens on the way."""

import csv
import json
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cifar10.errors import UsageError, UserError
from cifar10.images import parallel
from cifar10.images.decode import ImageError
from cifar10.images.named_image import NamedImage, unreadable
from cifar10.images.parallel import DecodedImage, decode_batches, decode_files
from cifar10.images.preprocessing import Preprocessing
from cifar10.images.sources import open_source
from cifar10.infer import Summary, infer
from cifar10.inference.destination import choose_destination
from cifar10.inference.predictor import Predictor
from cifar10.inference.request import InferenceRequest
from tests.malformed import encode, malformed_images, picture

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow's remarks, which `infer` silences outside of tests

CLASSES = ("airplane", "automobile", "cat")
SIZE = 8


class StubEngine:
    """Predicts the class of an image's strongest colour; `before` is called ahead of each batch."""

    def __init__(self, before: Callable[[int], None] = lambda call: None) -> None:
        self.before = before
        self.batch_sizes: list[int] = []

    def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.before(len(self.batch_sizes))
        self.batch_sizes.append(len(pixels))
        strength = pixels.reshape(len(pixels), -1, 3).mean(axis=1).astype(np.float32)  # (B, 3)
        probabilities: NDArray[np.float32] = strength / strength.sum(axis=1, keepdims=True)
        return probabilities

    def describe(self) -> dict[str, str]:
        return {"engine": "stub"}


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> StubEngine:
    """Let `infer` use a stub instead of a checkpoint, four images at a time."""
    stub = StubEngine()

    def from_checkpoint(checkpoint: str, **options: Any) -> Predictor:
        return Predictor(
            stub, CLASSES, Preprocessing(SIZE), options["batch_size"] or 4, "none", {"weights_digest": "abc"}
        )

    monkeypatch.setattr(Predictor, "from_checkpoint", from_checkpoint)
    return stub


def classify(
    test_dir: Path | str, output: Path | str | None = None, output_format: str | None = None, **settings: Any
) -> Summary:
    """Call `infer` for a folder, file or glob."""
    destination = choose_destination(None if output is None else str(output), output_format)
    settings = {"checkpoint": "any", **settings}
    return infer(InferenceRequest(open_source(str(test_dir)), destination=destination, **settings))


def coloured(channel: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return a picture that the stub takes for class `channel`."""
    pixels = picture(seed, SIZE) // 2
    pixels[:, :, channel] += 100
    return pixels


def write(path: Path, channel: int = 0, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(coloured(channel, seed), "PNG"))


def rows_of(folder: Path, tmp_path: Path, **options: Any) -> list[dict[str, Any]]:
    output = tmp_path / "rows.jsonl"
    classify(folder, output, **options)
    return [json.loads(line) for line in output.read_text("utf-8").splitlines()]


def test_bad_files_are_rows_with_their_reason_and_leave_their_neighbours_alone(
    tmp_path: Path, engine: StubEngine
) -> None:
    mixed, clean = tmp_path / "mixed", tmp_path / "clean"
    malformed = {item.name: item for item in malformed_images()}
    mixed.mkdir()
    for number, item in enumerate(malformed.values()):
        (mixed / item.name).write_bytes(item.data)
        for folder in (mixed, clean):
            write(folder / f"{item.name[:-4]}_after.png", number % 3, seed=number)
            if number % 3 == 0:
                write(folder / f"{item.name[:-4]}_and_another.png", number // 3 % 3, seed=1000 + number)
    rows = rows_of(mixed, tmp_path)
    assert [row["path"] for row in rows] == sorted(os.listdir(mixed))
    for row in rows:
        if row["path"] in malformed:
            assert re.search(malformed[row["path"]].reason, row["error"])
            assert row["class_name"] is None and row["probability"] is None and row["top"] == []
    assert [row for row in rows if row["path"] not in malformed] == rows_of(clean, tmp_path)


def test_a_good_image_is_answered_as_if_it_were_alone(tmp_path: Path, engine: StubEngine) -> None:
    for number in range(10):
        write(tmp_path / "in" / f"{number}.png", number % 3, seed=number)
        (tmp_path / "in" / f"{number}.bad.png").write_bytes(b"bad")
    for row in rows_of(tmp_path / "in", tmp_path):
        [alone] = rows_of(tmp_path / "in" / row["path"], tmp_path)
        assert alone == row


def test_batches_are_full_of_readable_images_as_in_the_test_pass(tmp_path: Path, engine: StubEngine) -> None:
    for number in range(10):
        write(tmp_path / "in" / f"{number}.png")
        (tmp_path / "in" / f"{number}.bad.png").write_bytes(b"bad")
    summary = classify(tmp_path / "in")
    assert engine.batch_sizes == [4, 4, 2]
    assert summary == Summary(num_images=20, num_failed=10, accuracy=None)


def test_nothing_but_bad_files_streams_too(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []

    def items() -> Iterator[DecodedImage]:
        for number in count():
            taken.append(number)
            yield DecodedImage(unreadable(str(number), "bad"), ImageError("bad"), 0)

    monkeypatch.setattr(parallel, "decode_images", lambda *arguments, **options: items())
    parts = list(islice(decode_batches([], SIZE, batch_size=5), 3))
    assert [len(part) for part in parts] == [20, 20, 20] and len(taken) == 60


def test_decoding_runs_a_bounded_way_ahead_and_keeps_the_order(tmp_path: Path) -> None:
    for number in range(30):
        write(tmp_path / f"{number:02}.png", seed=number)
    taken: list[Path] = []

    def paths() -> Iterator[Path]:
        for path in sorted(tmp_path.iterdir()):
            taken.append(path)
            yield path

    for number, (path, pixels) in enumerate(decode_files(paths(), SIZE, look_ahead=6), 1):
        assert len(taken) <= number + 6
        assert path == taken[number - 1]
        np.testing.assert_array_equal(pixels, coloured(0, seed=number - 1))


def test_two_batches_are_in_memory_at_most(tmp_path: Path, engine: StubEngine) -> None:
    for number in range(60):
        write(tmp_path / f"{number:02}.png", seed=number)
    taken: list[NamedImage] = []

    def remembered(images: Iterator[NamedImage]) -> Iterator[NamedImage]:
        for image in images:
            taken.append(image)
            yield image

    held: list[int] = []
    engine.before = lambda call: held.append(len(taken) - 4 * call)
    source = open_source(str(tmp_path))
    source.images = remembered(source.images)
    infer(InferenceRequest(source, "any", choose_destination(None, None)))
    assert len(held) == 15 and max(held) <= 2 * 4


def test_files_that_vanish_on_the_way_are_rows(tmp_path: Path, engine: StubEngine) -> None:
    folder = tmp_path / "in"
    for number in range(40):
        write(folder / f"{number:02}.png", seed=number)
    engine.before = lambda call: (folder / "35.png").unlink(missing_ok=True)
    rows = rows_of(folder, tmp_path)
    assert len(rows) == 40
    assert [(row["path"], row["error"]) for row in rows if row["error"]] == [
        ("35.png", "cannot be read: No such file or directory")
    ]


def test_pipes_sockets_devices_and_links_neither_hang_nor_leak(
    tmp_path: Path, engine: StubEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    write(folder / "1.png")
    write(tmp_path / "secret.png")
    monkeypatch.chdir(folder)
    os.mkfifo("pipe.png")
    Path("null.png").symlink_to("/dev/null")
    Path("secret.png").symlink_to(tmp_path / "secret.png")
    Path("loop").symlink_to(".")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
        rows = rows_of(folder, tmp_path)
    assert [row["path"] for row in rows] == ["1.png"]
    assert "passed over: 2 link out of the folder, 2 not a regular file, 1 link to a folder" in capsys.readouterr().err


def test_strange_names_come_through_every_format(tmp_path: Path, engine: StubEngine) -> None:
    names = ["new\nline.png", 'quote".png', "\N{CAT}.png", "\u043a\u043e\u0442.png", "=x.png", os.fsdecode(b"\xe9.png")]
    for name in names:
        write(tmp_path / "in" / name)
    rows = rows_of(tmp_path / "in", tmp_path)
    assert [row["path"] for row in rows] == [name.replace("\udce9", "\\xe9") for name in sorted(names)]
    classify(tmp_path / "in", tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(encoding="utf-8", newline="") as file:
        assert [line["path"].removeprefix("./") for line in csv.DictReader(file)] == [row["path"] for row in rows]


def test_folders_named_as_classes_give_accuracy_and_a_report_on_stderr(
    tmp_path: Path, engine: StubEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, (folder, channel) in enumerate(
        [("plane", 0), ("plane", 2), ("Automobile", 1), ("cat", 2), ("misc", 0)]
    ):
        write(tmp_path / folder / f"{number}.png", channel)
    (tmp_path / "cat" / "broken.png").write_bytes(b"broken")
    summary = classify(tmp_path)
    assert summary == Summary(num_images=6, num_failed=1, accuracy=0.75)
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 1 + 6
    assert "airplane taken for cat 1x" in shown.err and "accuracy 75.00% (3 of 4 whose folder is a class)" in shown.err
    rows = rows_of(tmp_path, tmp_path)
    assert [row["label"] for row in rows] == ["automobile", "cat", "cat", None, "airplane", "airplane"]


@pytest.mark.parametrize(
    ("folders", "warned"),
    [(["ring", "plus"], True), (["ring", "cat"], False), (["deep/plane/ring"], False), (["."], False)],
)
def test_sub_folders_of_which_none_is_a_class_are_warned_of(
    tmp_path: Path, engine: StubEngine, capsys: pytest.CaptureFixture[str], folders: list[str], warned: bool
) -> None:
    for folder in folders:
        write(tmp_path / folder / "1.png")
    classify(tmp_path)
    expected = (
        "warning: none of the sub-folders (plus, ring) is a class of this checkpoint (airplane, automobile, cat); "
        "was another checkpoint meant?"
    )
    assert (expected in capsys.readouterr().err.splitlines()) == warned


def test_top_k_names_the_most_probable_classes_in_order(tmp_path: Path, engine: StubEngine) -> None:
    write(tmp_path / "in" / "1.png", channel=1)
    [row] = rows_of(tmp_path / "in", tmp_path, top_k=3)
    probabilities = [guess["probability"] for guess in row["top"]]
    assert probabilities == sorted(probabilities, reverse=True) and sum(probabilities) == pytest.approx(1, abs=1e-5)
    assert {guess["class_id"]: guess["class_name"] for guess in row["top"]} == dict(enumerate(CLASSES))
    assert row["top"][0] == {key: row[key] for key in ("class_name", "class_id", "probability")}


def test_an_answer_that_is_not_a_number_is_a_failed_row(
    tmp_path: Path, engine: StubEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "in" / "1.png")
    monkeypatch.setattr(engine, "probabilities", lambda pixels: np.full((len(pixels), 3), np.nan, np.float32))
    [row] = rows_of(tmp_path / "in", tmp_path)
    assert row["error"] == "the network's output is not a number" and row["top"] == []


def test_parquet_says_which_weights_answered(tmp_path: Path, engine: StubEngine) -> None:
    import pyarrow.parquet as pq

    write(tmp_path / "in" / "1.png")
    classify(tmp_path / "in", tmp_path / "rows.parquet")
    assert pq.read_schema(tmp_path / "rows.parquet").metadata[b"cifar10.weights_digest"] == b"abc"


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_run_leaves_its_rows_and_no_output(
    tmp_path: Path, engine: StubEngine, error: type[BaseException]
) -> None:
    for number in range(20):
        write(tmp_path / "in" / f"{number}.png")

    def fail(call: int) -> None:
        if call == 2:
            raise error

    engine.before = fail
    with pytest.raises(error):
        classify(tmp_path / "in", tmp_path / "rows.csv")
    assert sorted(os.listdir(tmp_path)) == ["in", "rows.csv.partial"]


def test_sigterm_cleans_up_and_exits_with_143(tmp_path: Path, engine: StubEngine) -> None:
    for number in range(20):
        write(tmp_path / "in" / f"{number}.png")
    before = signal.getsignal(signal.SIGTERM)
    engine.before = lambda call: signal.raise_signal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught:
        classify(tmp_path / "in", tmp_path / "rows.csv")
    assert caught.value.code == 143
    assert os.listdir(tmp_path) == ["in"] and signal.getsignal(signal.SIGTERM) == before


def test_the_walk_leaves_no_threads_behind(tmp_path: Path, engine: StubEngine) -> None:
    import threading

    for number in range(20):
        write(tmp_path / "in" / f"{number}.png")
    classify(tmp_path / "in", tmp_path / "rows.csv")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"top_k": 0}, UsageError, "must be 1 or more"),
        ({"top_k": 4}, UsageError, "top_k=4 is more than the 3 classes"),
        ({"output": "missing/rows.csv"}, UsageError, "there is no folder"),
        ({"output": "in"}, UsageError, "names no format|is a folder"),
        ({"output_format": "parquet"}, UsageError, "name a file"),
        ({"test_dir": "missing"}, UserError, "there is no folder or file 'missing'"),
        ({"test_dir": "empty"}, UserError, r"no images in 'empty': looked for \*\.png.*passed over: 1 not named"),
        ({"test_dir": "in/*.jpg"}, UserError, r"no images in 'in/\*\.jpg'"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_written(
    tmp_path: Path,
    engine: StubEngine,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: dict[str, Any],
    error: type[UserError],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("in/1.png"))
    Path("empty").mkdir()
    Path("empty/notes.txt").touch()
    with pytest.raises(error, match=message) as caught:
        classify(**{"test_dir": "in", **arguments})
    assert type(caught.value) is error and len(str(caught.value).splitlines()) == 1
    assert capsys.readouterr().out == "" and sorted(os.listdir()) == ["empty", "in"] and engine.batch_sizes == []


def test_a_real_checkpoint_scores_on_png_files_what_it_scores_on_the_tensors(tmp_path: Path) -> None:
    from cifar10.config.compose import load_config
    from cifar10.inference.tta import predict_probabilities
    from cifar10.networks.simple_cnn import SimpleCNN
    from cifar10.runs.checkpoint_metadata import FORMAT

    torch.manual_seed(0)
    network = SimpleCNN(width=8, dropout=0.1, num_classes=3, image_size=16).eval()
    overrides = ["data_loading=shapes", "model=simple_cnn", "model.width=8", "evaluation.batch_size=8"]
    identity = {
        "format": FORMAT,
        "class_names": list(CLASSES),
        "image_size": 16,
        "data_digest": "d" * 64,
        "precision": "fp32",
        "history": [],
        "config": load_config(overrides).plain(),
    }
    weights = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"cifar10": identity, "state_dict": weights}, tmp_path / "tiny.ckpt")
    images = np.stack([picture(seed, 16) for seed in range(24)])  # (24, 16, 16, 3)
    labels = np.repeat(np.arange(3), 8)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        (tmp_path / "in" / CLASSES[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "in" / CLASSES[label] / f"{number:02}.png")

    @torch.inference_mode()
    def probabilities(images: Tensor) -> Tensor:
        return network(images).softmax(dim=1)  # type: ignore[no-any-return]

    expected = np.concatenate(
        [
            predict_probabilities(probabilities, torch.from_numpy(part).permute(0, 3, 1, 2), "mirror_translate")
            for part in np.split(images, 3)
        ]
    )
    checkpoint = tmp_path / "tiny.ckpt"
    summary = classify(tmp_path / "in", tmp_path / "rows.jsonl", checkpoint=checkpoint, device="cpu")
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["class_id"] for row in rows] == expected.argmax(axis=1).tolist()
    np.testing.assert_allclose([row["probability"] for row in rows], expected.max(axis=1), atol=1e-6)
    assert summary.accuracy == (expected.argmax(axis=1) == labels).mean()
