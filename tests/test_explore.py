"""Exploring finds what was planted: copies, near-duplicates across splits, wrong labels, odd and unreadable files."""

import csv
import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from cifar10.cli.command_line import main
from cifar10.config.compose import load_config
from cifar10.files import sole_writer
from cifar10.system.signals import Stopped
from cifar10.train import train
from commands import COMMANDS
from tests.pictures import brighter, moved, scene
from tests.tiny_cifar import make_tiny_cifar10
from tests.tiny_run import TINY

STRANGE = "<b>кот & 猫"


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)


def save(pixels: NDArray[np.uint8], path: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def rows(path: str) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def explore(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict[str, Any]:
    assert main(COMMANDS, "", ["explore", *words]) == code
    summary: dict[str, Any] = json.loads(capsys.readouterr().out)
    return summary


@pytest.mark.slow
def test_a_folder_of_classes(capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(12):
        save(scene(number), f"set/train/dog/{number}.png")
        save(scene(100 + number, 80), f"set/train/{STRANGE}/{number}.png")
    for number in range(4):
        save(scene(200 + number), f"set/test/dog/{number}.png")
        save(scene(300 + number), f"set/test/{STRANGE}/{number}.png")
    save(scene(3), "set/test/dog/copy.png")
    save(brighter(moved(scene(5), 4, 3), 0.8, 20), "set/test/dog/near.png")
    save(moved(scene(6)[:, ::-1], 2, 2), f"set/train/{STRANGE}/other label.png")
    save(np.full((30, 40, 3), 90, np.uint8), "set/train/dog/grey.png")
    Path("set/train/dog/broken.png").write_bytes(b"broken")
    summary = explore(
        capsys,
        *("data_loading=folder", "data_loading.root=set", "data_loading.validation_fraction=0"),
        *("data_loading.image_size=48", "--output=out/deep"),
        code=3,
    )
    assert summary["images"] == {"train": 26, "test": 10} and summary["classes"] == 2
    assert summary["exact_copies"] == 1 and summary["unreadable"] == 1 and summary["odd_images"] == {"uniform": 1}
    assert json.loads(Path("out/deep/summary.json").read_text(encoding="utf-8")) == summary
    pairs = rows("out/deep/near_duplicates.csv")
    assert {frozenset((Path(pair["first_file"]).name, Path(pair["second_file"]).name)) for pair in pairs[:2]} == {
        frozenset(("5.png", "near.png")),
        frozenset(("other label.png", "6.png")),
    }
    mirrored = next(pair for pair in pairs[:2] if "other label" in pair["first_file"] + pair["second_file"])
    assert mirrored["mirrored"] == "True" and mirrored["first_class"] != mirrored["second_class"]
    assert [Path(row["file"]).name for row in rows("out/deep/copies.csv")] == ["3.png", "copy.png"]
    assert rows("out/deep/unreadable.csv")[0]["file"] == "set/train/dog/broken.png"
    images = rows("out/deep/images.csv")
    assert len(images) == 36 and {row["class"] for row in images} == {"dog", STRANGE}
    assert [Path(row["file"]).name for row in images if row["oddity"]] == ["grey.png"]
    html = Path("out/deep/report.html").read_text(encoding="utf-8")
    assert STRANGE not in html and "&lt;b&gt;кот" in html and "broken.png" in html
    assert summary["pictures_copied_across_splits"] == 1 and summary["pictures_copied_with_different_labels"] == 0
    assert "2 images show 1 picture, pixel for pixel; 1 of the pictures are in several splits" in html
    captions = re.findall(
        r">([^<>]{1,99}): (\d+) images? \((\d) with a score of 1 or more\) and the best match of each", html
    )
    assert captions == [  # one planted pair in each; the pairs of other scenes are not shown
        ("Across splits: an image of a later split and one of an earlier", "1", "1"),
        ("With different labels", "1", "1"),
        ("Within a split, one mirrored", "1", "1"),
    ]


def test_different_photos_are_not_shown_as_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(8):
        save(scene(number), f"photos/{number}.png")
    assert explore(capsys, "--photos=photos")["near_duplicates"] == 0
    assert rows("explored/near_duplicates.csv")  # a ranking of all
    html = Path("explored/report.html").read_text(encoding="utf-8")
    assert "No two images look like the same picture" in html and "the best match of each" not in html


def test_photos_without_classes(capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(9):
        save(scene(number, 40 + 10 * number), f"photos/{'a' if number % 2 else 'b'}/{number}.png")
    Image.fromarray(scene(2, 200)).save("photos/larger.jpg", quality=70)
    Path("photos/empty.jpg").touch()
    summary = explore(capsys, "--photos=photos", code=3)
    assert summary["images"] == {"images": 10} and summary["unreadable"] == 1
    best = rows("explored/near_duplicates.csv")[0]
    assert {best["first_file"], best["second_file"]} == {"b/2.png", "larger.jpg"}
    assert "class" not in rows("explored/images.csv")[0]
    assert int(next(row["pixels"] for row in rows("explored/images.csv") if row["file"] == "larger.jpg")) == 40_000
    html = Path("explored/report.html").read_text(encoding="utf-8")
    assert "Mean image" in html and "Suspected labels" not in html


@pytest.mark.slow
def test_photos_of_which_none_can_be_read_are_refused_with_a_reason(capsys: pytest.CaptureFixture[str]) -> None:
    Path("photos").mkdir()
    Path("photos/empty.jpg").touch()
    assert main(COMMANDS, "", ["explore", "--photos=photos"]) == 1
    assert "none of the images (1) can be read, such as empty.jpg: empty file" in capsys.readouterr().err


@pytest.mark.slow
def test_what_an_earlier_exploration_has_left_is_removed(capsys: pytest.CaptureFixture[str]) -> None:
    Path("explored").mkdir()
    old = ("suspected_labels.csv", "unreadable.csv", "run.json", "mine.txt", "summary.json")
    for folder in ("explored", "elsewhere"):
        Path(folder).mkdir(exist_ok=True)
        for name in old if folder != "elsewhere" else old[:-1]:
            Path(folder, name).write_text("old")
    for number in range(3):
        save(scene(number), f"photos/{number}.png")
    explore(capsys, "--photos=photos")
    explore(capsys, "--photos=photos", "--output=elsewhere")
    assert {*old} <= {path.name for path in Path("elsewhere").iterdir()}  # which no exploration had written
    assert {path.name for path in Path("explored").iterdir()} == {
        *("mine.txt", "report.html", "summary.json", "images.csv", "copies.csv", "near_duplicates.csv")
    }


def test_two_processes_do_not_write_to_one_folder(capsys: pytest.CaptureFixture[str]) -> None:
    save(scene(1), "photos/1.png")
    with sole_writer(Path("explored")):
        assert main(COMMANDS, "", ["explore", "--photos=photos"]) == 1
    assert (
        "another process writes to explored; wait for it, or name another folder: --output" in capsys.readouterr().err
    )
    assert not list(Path("explored").iterdir())


def test_names_that_are_not_utf8_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        save(scene(number), f"photos/{number}.png")
    Path(os.fsdecode(b"photos/caf\xe9.png")).write_bytes(Path("photos/0.png").read_bytes())
    Path(os.fsdecode(b"photos/na\xefve.png")).touch()
    explore(capsys, "--photos=photos", code=3)
    assert "caf\\xe9.png" in [row["file"] for row in rows("explored/images.csv")]
    assert {row["file"] for row in rows("explored/copies.csv")} == {"0.png", "caf\\xe9.png"}
    assert [row["file"] for row in rows("explored/unreadable.csv")] == ["na\\xefve.png"]


@pytest.mark.slow
def test_published_data_keep_their_order_and_name_their_constants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_tiny_cifar10(tmp_path / "data", monkeypatch)
    summary = explore(capsys, "data_loading.root=data")
    assert summary["images"] == {"train": 100, "test": 20}  # no image is held out
    html = Path("explored/report.html").read_text(encoding="utf-8")
    assert "published, training" in html and "0.4914" in html


@pytest.mark.slow
def test_wrong_labels_by_short_trainings(capsys: pytest.CaptureFixture[str]) -> None:
    summary = explore(
        capsys,
        *("--labels", "data_loading=shapes", "data_loading.train_size=120", "data_loading.validation_size=20"),
        *("data_loading.test_size=40", "data_loading.image_size=16", "model=simple_cnn", "training.epochs=1"),
        *("training.resizing=[]", "training.batch_size=30", "optimizer=adamw", "schedule=one_cycle"),
    )
    assert set(summary["suspected_labels"]) == {"train", "validation", "test"}
    ranked = rows("explored/suspected_labels.csv")
    suspicion = [float(row["suspicion"]) for row in ranked]
    assert len(ranked) == 180 and suspicion == sorted(suspicion, reverse=True)
    assert all(row["suggested"] != row["class"] for row in ranked if float(row["suspicion"]) > 0)
    assert "the most suspect first" in Path("explored/report.html").read_text(encoding="utf-8")


def test_too_few_images_of_a_class_cannot_be_judged(capsys: pytest.CaptureFixture[str]) -> None:
    for name, count in (("train/a", 6), ("train/b", 2), ("test/a", 1)):
        for number in range(count):
            save(scene(number), f"set/{name}/{number}.png")
    words = ["explore", "--labels", "data_loading=folder", "data_loading.root=set"]
    assert main(COMMANDS, "", words) == 1
    assert "--labels needs 4 images of each class, and b has 2" in capsys.readouterr().err


@pytest.mark.slow
def test_numbers_and_files_are_logged_if_asked(capsys: pytest.CaptureFixture[str]) -> None:
    import mlflow

    for number in range(3):
        save(scene(number), f"photos/{number}.png")
    uri = f"sqlite:///{Path.cwd()}/own.db"  # no thread that an earlier test left behind writes there
    explore(capsys, "data_loading=shapes", "data_loading.train_size=20", "data_loading.validation_size=0",
            "data_loading.test_size=10", "--track", f"tracking.uri={uri}")  # fmt: skip
    client = mlflow.MlflowClient(tracking_uri=uri)
    [experiment] = [each for each in client.search_experiments() if each.name == "cifar10"]
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED" and run.data.metrics["explore/classes"] == 10
    names = {Path(each.path).name for each in client.list_artifacts(run.info.run_id, "explore")}
    assert {"report.html", "summary.json", "images.csv", "near_duplicates.csv"} <= names


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--photos=photos", "--labels"], "--labels: the images of --photos have no classes"),
        (["--photos=photos", "data_loading=cifar100"], "data_loading=cifar100: the images of --photos"),
        (["--photos=phots"], "did you mean photos?"),
        (["--output=notes.txt"], "is a file; name a folder"),
        (["--checkpoint_name=nope"], "there is no checkpoint nope"),
        (["data_loading=cifar11"], "did you mean cifar10"),
        (["data_loading=shapes", "--track", "tracking=none"], "--track and tracking=none contradict each other"),
        (["--most=0"], "must be a whole number, 1 or more"),
    ],
)
def test_wrong_words_are_refused_before_anything_is_read(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save(scene(0), "photos/1.png")
    Path("notes.txt").write_text("")
    assert main(COMMANDS, "", ["explore", *words]) == 2
    assert message in capsys.readouterr().err
    assert not Path("explored").exists()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> str:
    train(load_config([*TINY, "run_name=own"]))
    capsys.readouterr()
    return "models/own/best.ckpt"


SHAPES = (
    *("data_loading=shapes", "data_loading.image_size=16", "data_loading.train_size=60"),
    *("data_loading.validation_size=20", "data_loading.test_size=30"),
)


@pytest.mark.slow
def test_a_network_of_your_own_compares_images_too(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    explore(capsys, *SHAPES, "--output=plain")
    explore(capsys, *SHAPES, f"--checkpoint_name={run}", "--output=embedded")
    plain, embedded = (rows(f"{folder}/near_duplicates.csv") for folder in ("plain", "embedded"))
    assert [pair["score"] for pair in plain] != [pair["score"] for pair in embedded]
    assert f"embeddings of {run}" in Path("embedded/report.html").read_text(encoding="utf-8")
    words = [word.replace("size=16", "size=24") for word in SHAPES]
    assert main(COMMANDS, "", ["explore", *words, f"--checkpoint_name={run}"]) == 1
    assert "set data_loading.image_size=16" in capsys.readouterr().err


def test_a_store_that_is_away_is_told_before_anything_is_explored(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert main(COMMANDS, "", ["explore", *SHAPES, "--track"]) == 1
    said = capsys.readouterr()
    assert said.out == "" and re.search("--track: no MLflow server .*; start it, or leave out --track", said.err)
    assert not Path("explored").exists()


@pytest.mark.slow
def test_a_signal_while_files_are_logged_says_that_they_are_complete(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: Any) -> None:
        raise Stopped(signal.SIGTERM)

    monkeypatch.setattr("cifar10.explore._track", stop)
    assert main(COMMANDS, "", ["explore", *SHAPES, "--track"]) == 128 + signal.SIGTERM
    assert capsys.readouterr().err.endswith("was recorded in MLflow; it is complete in explored\n")
    assert Path("explored/report.html").exists()


@pytest.mark.slow
def test_labels_are_judged_by_a_linear_probe(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("experiment=probe", f"weights={run}", "model=simple_cnn", "probe.cache=null", "probe.strengths=[0.01]")
    summary = explore(capsys, *words, *SHAPES, "--labels")
    assert sum(summary["suspected_labels"].values()) < 110
    assert len(rows("explored/suspected_labels.csv")) == 110
