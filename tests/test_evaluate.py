"""`evaluate`: the scores of training again, from the checkpoint alone."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cifar10.cli.command_line import main
from cifar10.config.build import build
from cifar10.config.compose import load_config
from cifar10.config.targets import DATA
from cifar10.errors import UserError
from cifar10.evaluate import evaluate
from cifar10.images.sources import open_source
from cifar10.infer import infer
from cifar10.inference.destination import choose_destination
from cifar10.inference.request import InferenceRequest
from cifar10.runs.checkpoint_metadata import Metadata
from cifar10.runs.checkpoints import Checkpoint
from cifar10.runs.trained_data import class_ids, load_trained_data
from cifar10.system.limits import num_cpus
from cifar10.train import train
from commands import COMMANDS
from tests.tiny_run import TINY


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)


@pytest.mark.slow
def test_a_checkpoint_evaluates_to_the_scores_of_its_training(capsys: pytest.CaptureFixture[str]) -> None:
    trained = train(load_config([*TINY, "model.width=4", "run_name=a"]))
    capsys.readouterr()
    scores = evaluate("a", output="measured")
    report = json.loads(capsys.readouterr().out)
    tested = {key: value for key, value in trained.items() if key.startswith("test/")}
    assert scores == tested
    assert report["weights_digest"] == json.loads(Path("models/a/scores.json").read_text())["weights_digest"]
    assert json.loads(Path("measured/evaluation.json").read_text()) == report
    assert report["data"] == "shapes" and report["num_images"] == 30
    pairs = Path("measured/confusion.csv").read_text().splitlines()[1:]
    right = sum(pair.split(",")[0] == pair.split(",")[1] for pair in pairs)
    assert len(pairs) == 30
    assert right / len(pairs) == pytest.approx(scores["test/accuracy_tta"])
    assert Path("measured/confusion.png").stat().st_size > 0


def test_other_data_than_the_runs_own_are_pointed_out(capsys: pytest.CaptureFixture[str]) -> None:
    train(load_config([*TINY, "model.width=4", "run_name=a"]))
    raw = torch.load("models/a/best.ckpt", weights_only=True)
    raw["cifar10"]["config"]["data_loading"]["seed"] = 9
    torch.save(raw, "models/a/best.ckpt")
    evaluate("a", report=False)
    assert "these are not the data of the training run" in capsys.readouterr().err


def test_evaluate_takes_from_a_checkpoint_no_more_than_it_needs() -> None:
    scores = train(load_config([*TINY, "model.width=4", "run_name=a"]))
    raw = torch.load("models/a/best.ckpt", weights_only=True)
    raw["cifar10"]["config"]["training"]["threads"] = 65536
    torch.save({"cifar10": raw["cifar10"], "state_dict": raw["state_dict"]}, "models/a/best.ckpt")
    assert evaluate("a", report=False).items() <= scores.items()
    assert torch.get_num_threads() <= num_cpus()


def test_the_folder_of_a_run_is_not_written_to(capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path("models/a")
    folder.mkdir(parents=True)
    (folder / "best.ckpt").touch()
    assert main(COMMANDS, "", ["evaluate", "a", "--output=models/a/"]) == 2
    told = capsys.readouterr().err
    assert "--output: models/a/ holds a run, which is not changed; name another folder, such as models/a-eval" in told
    assert [file.name for file in folder.iterdir()] == ["best.ckpt"]


FOLDER = (
    *("data_loading=folder", "data_loading.root=set", "data_loading.image_size=16", "model=simple_cnn"),
    *("optimizer=adamw", "schedule=one_cycle", "training.resizing=[]", "training.epochs=1", "training.batch_size=8"),
    "tracking=none",
)


def make_set(*names: str, splits: tuple[str, ...] = ("train", "test")) -> None:
    """Write class folders of noise below `set`, each class with another mean."""
    for split, count in zip(splits, (12, 4), strict=False):
        for number, name in enumerate(names):
            random = np.random.default_rng([number, count])
            folder = Path("set", split, name)
            folder.mkdir(parents=True)
            for position in range(count):
                pixels = random.integers(20 * number, 20 * number + 40, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{position}.png")


@pytest.mark.slow
def test_today_s_data_are_matched_to_the_checkpoint_s_classes_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    make_set("blue", "green", "red")
    trained = train(load_config([*FOLDER, "run_name=a"]))
    tested = {key: value for key, value in trained.items() if key.startswith("test/")}
    capsys.readouterr()
    for name in ("red", "blue", "green"):  # first RED sorts before blue; at last only spellings differ
        for split in ("train", "test"):
            Path("set", split, name).rename(Path("set", split, name.upper()))
        assert evaluate("a", report=False) == pytest.approx(
            tested
        )  # images come in another order, so sums are rounded otherwise
    for split in ("train", "test"):
        Path("set", split, "RED").rename(Path("set", split, "amber"))
    with pytest.raises(UserError, match=r"other classes than models/a/best\.ckpt: red missing and amber added"):
        evaluate("a", report=False)
    for split in ("train", "test"):
        Path("set", split, "red").mkdir()
        for file in Path("set", split, "amber").iterdir():
            (Path("set", split, "red") / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match=r"best\.ckpt: amber added; restore"):
        evaluate("a", report=False)
    Path("models/a/scores.json").unlink()  # so that the run is not finished
    with pytest.raises(UserError, match=r"last\.ckpt: amber added; restore"):
        train(load_config(), resume="a")


@pytest.mark.slow
def test_checkpoints_from_before_numerical_order_keep_their_classes_and_their_split(
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = sorted(map(str, range(11)))  # 0, 1, 10, 2, ...
    make_set(*names, splits=("train",))
    quoted = ",".join(f'"{name}"' for name in names)
    trained = train(load_config([*FOLDER, "run_name=a", f"data_loading.classes=[{quoted}]"]))
    tested = {key: value for key, value in trained.items() if key.startswith("test/")}
    raw = torch.load("models/a/best.ckpt", weights_only=True)
    raw["cifar10"]["config"]["data_loading"]["classes"] = None
    torch.save(raw, "models/a/best.ckpt")
    capsys.readouterr()
    assert evaluate("a", output="measured") == tested
    assert "warning" not in capsys.readouterr().err
    assert json.loads(Path("measured/evaluation.json").read_text())["data_digest"] == raw["cifar10"]["data_digest"]


@pytest.mark.slow
def test_data_that_have_moved_are_named_with_where_the_path_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    make_set("blue", "green")
    trained = train(load_config([*FOLDER, "run_name=a"]))
    Path("set").rename("elsewhere")
    with pytest.raises(UserError) as caught:
        evaluate("a", report=False)
    _, told = str(caught.value).splitlines()
    assert told.startswith(f"data_loading.root=set ({Path('set').absolute()}) comes from the checkpoint models/a/best")
    line = told.partition("if the data have moved: python commands.py ")[2].replace("DIR", "elsewhere")
    capsys.readouterr()
    assert main(COMMANDS, "", shlex.split(line)) == 0
    assert json.loads(capsys.readouterr().out)["test/accuracy"] == trained["test/accuracy"]
    assert main(COMMANDS, "", ["evaluate", "a", "data_loading.image_size=32"]) == 2
    assert "only data_loading.root, data_loading.sources and data_loading.cache may be set" in capsys.readouterr().err


@pytest.mark.slow
def test_evaluate_touches_nothing_in_its_folder_but_its_own_files() -> None:
    train(load_config([*TINY, "model.width=4", "run_name=a"]))
    Path("measured").mkdir()
    for name in (".mine.tmp", ".evaluation.json.1.tmp", ".probe.1", "notes.txt"):
        Path("measured", name).write_text("mine")
    evaluate("a", output="measured")
    assert {path.name for path in Path("measured").iterdir() if path.read_bytes() == b"mine"} == {
        *(".mine.tmp", ".evaluation.json.1.tmp", ".probe.1", "notes.txt")
    }


@pytest.mark.parametrize(
    ("today", "ids"),
    [(["a", "b", "c"], [0, 1, 2]), (["c", "A", "b"], [2, 0, 1])],
)
def test_class_ids_are_those_of_the_checkpoint(today: list[str], ids: list[int]) -> None:
    assert class_ids(today, ["a", "b", "c"], "x") == ids


def test_data_that_cannot_be_loaded_in_another_order_are_relabelled() -> None:
    config = load_config([*TINY])
    today = build(DATA, config.data_loading)
    names = today.class_names[::-1]
    metadata = Metadata(
        format=1, class_names=list(names), image_size=16, data_digest="0" * 64, precision="fp32", history=[]
    )
    data = load_trained_data(Checkpoint(Path("x.ckpt"), config, metadata, {}), config.data_loading)
    assert data.class_names == names
    assert torch.equal(data.test.images[:], today.test.images[:])
    assert data.test.labels.tolist() == [9 - label for label in today.test.labels.tolist()]
    larger = metadata.model_copy(update={"image_size": 24})
    with pytest.raises(UserError, match="takes images of 24 pixels, and its data now have 16"):
        load_trained_data(Checkpoint(Path("x.ckpt"), config, larger, {}), config.data_loading)


@pytest.mark.parametrize("today", [["a", "b"], ["a", "b", "d"], ["a", "b", "c", "d"], ["a", "b", "c", "C"]])
def test_other_classes_are_refused(today: list[str]) -> None:
    with pytest.raises(UserError, match="the data have other classes than x"):
        class_ids(today, ["a", "b", "c"], "x")


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cifar10", "cifar100"])
def test_nothing_is_fetched_into_a_folder_that_only_a_checkpoint_names(
    target: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a stranger's checkpoint it may be any folder of the user's."""
    train(load_config([*TINY, "model.width=4", "run_name=a"]))
    raw = torch.load("models/a/best.ckpt", weights_only=True)
    own = load_config([f"data_loading={target}"]).data_loading
    monkeypatch.setattr("cifar10.data.archives.download_verified", lambda *arguments: pytest.fail("asked a mirror"))
    for name in ("private", "absent"):
        section = {"_target_": own.target, **own.arguments, "root": name}
        raw["cifar10"]["config"]["data_loading"] = section
        torch.save(raw, f"{name}.ckpt")
    Path("private").mkdir()
    with pytest.raises(UserError, match=r"cifar-10.* is not in private, or incomplete\ndata_loading.root=private \("):
        evaluate("private.ckpt", report=False)
    with pytest.raises(UserError, match="there is no folder absent"):
        evaluate("absent.ckpt", report=False)
    assert not any(Path("private").iterdir()) and not Path("absent").exists()
    capsys.readouterr()
    with pytest.raises(pytest.fail.Exception, match="asked a mirror"):  # who types it may have it fetched
        evaluate("private.ckpt", report=False, overrides=["data_loading.root=typed"])


def test_infer_and_evaluate_agree_where_a_class_folder_lies_within_another(capsys: pytest.CaptureFixture[str]) -> None:
    make_set("blue", "green")
    inner = Path("set/test/blue/green")
    inner.mkdir()
    Path("set/test/blue/0.png").rename(inner / "0.png")
    train(load_config([*FOLDER, "run_name=a"]))
    scores = evaluate("a", report=False)
    capsys.readouterr()
    assert main(COMMANDS, "", ["infer", "set/test", "--checkpoint_name=a"]) == 0
    assert f"accuracy {scores['test/accuracy_tta']:.2%} (" in capsys.readouterr().err
    destination = choose_destination("rows.csv", None)
    rows = infer(InferenceRequest(open_source("set/test"), "a", destination))
    assert rows.accuracy == pytest.approx(scores["test/accuracy_tta"])
    assert "blue/green/0.png" in Path("rows.csv").read_text()
