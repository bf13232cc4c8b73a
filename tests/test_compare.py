"""`compare`: real runs of tiny networks, side by side."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cifar10.analysis.comparison import ComparedRun, Comparison, TestAnswers, TestImages, differing, sides_of
from cifar10.analysis.comparison_report import ComparisonPage
from cifar10.analysis.comparison_words import plain_table, verdicts
from cifar10.cli.command_line import main
from cifar10.compare import compare
from cifar10.config.compose import load_config
from cifar10.errors import UsageError
from cifar10.evaluate import evaluate
from cifar10.runs.described_run import describe_run
from cifar10.train import train
from commands import COMMANDS
from tests.tiny_run import TINY

LONGER = "training.epochs=4"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs: two seeds of one recipe, `a1` and `a2`, two of a longer one, and one of other classes."""
    place = tmp_path_factory.mktemp("compare")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr("cifar10.train.save_figures", lambda *arguments: None)
        torch.set_num_threads(1)
        for seed in (1, 2):
            train(load_config([*TINY, f"seed={seed}", f"run_name=a{seed}"]))
            train(load_config([*TINY, f"seed={seed}", f"run_name=b{seed}", LONGER]))
        train(load_config([*TINY, "seed=1", "run_name=other", "data_loading.test_size=40"]))
    return place


@pytest.fixture
def in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.chdir(folder)


@pytest.mark.usefixtures("in_folder")
def test_runs_are_compared_by_settings_curves_classes_and_answers(capsys: pytest.CaptureFixture[str]) -> None:
    found = compare(["a1", "a2", "b1", "b2"], Path("compared"))
    told = capsys.readouterr().out
    assert [side.title for side in found.sides] == ["a (2 seeds)", "b (2 seeds)"]
    assert found.settings == [("training.epochs", ["2", "4"])]
    assert told.splitlines()[1].split() == ["training.epochs", "2", "4"]
    assert "a (2 seeds) against b (2 seeds)" in told
    numbers = json.loads(Path("compared/report.json").read_text())
    for entry in numbers["runs"]:
        scores = json.loads(Path(f"models/{entry['name']}/scores.json").read_text())
        assert entry["accuracy"]["plain"]["value"] == pytest.approx(scores["test/accuracy"])
        assert entry["accuracy"]["tta"]["value"] == pytest.approx(scores["test/accuracy_tta"])
    assert len(numbers["networks"]) == 6 and len(numbers["recipes"]) == 1
    page = Path("compared/report.html").read_text()
    for title in ("Result", "Settings", "Learning curves", "Classes", "Flipped answers"):
        assert f"{title}</h2>" in page
    assert page.count("data:image/png") > 3 and "http://" not in page and "https://" not in page


@pytest.mark.slow
@pytest.mark.usefixtures("in_folder")
def test_the_answers_are_those_of_evaluate(capsys: pytest.CaptureFixture[str]) -> None:
    found = compare(["b1", "a1"], Path("two"))
    evaluate("b1", output="evaluated")
    lines = Path("evaluated/confusion.csv").read_text().splitlines()[1:]
    pairs = [line.split(",") for line in lines]
    assert found.images is not None and found.runs[0].answers is not None
    names = found.images.class_names
    ours = zip(found.images.labels.tolist(), found.runs[0].answers.predicted.tolist(), strict=True)
    assert sorted([names[label], names[answer]] for label, answer in ours) == sorted(pairs)


@pytest.mark.slow
@pytest.mark.usefixtures("in_folder")
def test_runs_with_other_test_images_are_compared_by_settings_and_curves_only(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = compare(["a1", "other"], Path("apart"))
    told = capsys.readouterr().out
    assert found.images is None and not found.pairs
    assert "The answers of no two runs can be compared" in told
    assert "other has no answers to compare: no other run has the same test images and classes" in told
    assert "data_loading.test_size" in told
    page = Path("apart/report.html").read_text()
    assert "Learning curves</h2>" in page and "Flipped answers</h2>" not in page
    three = compare(["other", "a1", "a2"], Path("apart"))
    assert [run.answers is None for run in three.runs] == [True, False, False]
    assert "its test images or classes are others than those of a1" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("in_folder")
def test_the_root_of_moved_data_is_for_the_runs_that_have_one(capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "val", "test"):
        for name in ("a", "b"):
            Path("photos", split, name).mkdir(parents=True)
            for number in range(4):
                pixels = np.full((16, 16, 3), 9 * number + len(split) + 100 * (name == "a"), np.uint8)
                Image.fromarray(pixels).save(Path("photos", split, name, f"{number}.png"))
    data = ("data_loading=folder", "data_loading.root=photos", "data_loading.image_size=16")
    settings = [word for word in TINY if not word.startswith("data_loading")]
    train(load_config([*settings, *data, "run_name=folder"]))
    Path("photos").rename("moved")
    compare(["a1", "folder"], Path("lost"))
    advice = "there is no folder photos; if they have moved, add data_loading.root=DIR"
    assert f"folder has no answers to compare: its data cannot be loaded: {advice}" in capsys.readouterr().out
    compare(["a1", "folder"], Path("found"), ["data_loading.root=moved"])
    assert "cannot be loaded" not in capsys.readouterr().out
    with pytest.raises(UsageError, match=r"data_loading\.root: the data of none of these runs have this setting"):
        compare(["a1", "a2"], Path("none"), ["data_loading.root=moved"])


@pytest.mark.slow
@pytest.mark.usefixtures("in_folder")
def test_classes_in_another_order_are_matched_by_name() -> None:
    whole = compare(["a1", "b1"], Path("order"))
    raw = torch.load("models/a1/best.ckpt", weights_only=True)
    num_classes = len(raw["cifar10"]["class_names"])
    raw["cifar10"]["class_names"].reverse()
    head = [name for name, value in raw["state_dict"].items() if value.ndim and len(value) == num_classes]
    for name in head[-2:]:  # weight and bias
        raw["state_dict"][name] = raw["state_dict"][name].flip(0)
    Path("models/turned").mkdir()
    torch.save(raw, "models/turned/best.ckpt")
    found = compare(["b1", "turned"], Path("order"))
    assert found.images is not None
    assert found.is_right(found.runs[1]).tolist() == whole.is_right(whole.runs[0]).tolist()


# -- the command line --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_folder")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["compare"], "needs two runs or more, and none is named"),
        (["compare", "a1"], "needs two runs or more, and only a1 is named"),
        (["compare", "a1", "b1", "a1"], "a1 is named twice"),
        (["compare", "a1", "models/a1"], "a1 and models/a1 are the same run"),
        (["compare", "a1", "b3"], "there is no checkpoint b3"),
        (["compare", "a1", "b1", "seed=3"], "the configuration of a checkpoint cannot be changed"),
        (["compare", "a1", "b1", "output=x"], "did you mean --output=x?"),
        (["compare", "a1", "b1", "--output=models/a1"], "holds a run, which is not changed"),
        (["compare", *(f"run{number}" for number in range(51))], "51 runs are too many"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_wrong_lines_are_refused_in_one_line(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(COMMANDS, "", words) == 2
    assert told in capsys.readouterr().err


# -- MLflow ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tracked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Two runs that only MLflow has: name -> id."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cifar10.train.save_figures", lambda *arguments: None)
    torch.set_num_threads(1)
    store = [word for word in TINY if not word.startswith("tracking")]
    ids = {}
    for name, words in {"gone": (), "longer": (LONGER,)}.items():
        train(load_config([*store, "tracking.system_metrics=false", *words, f"run_name={name}"]))
        ids[name] = Path(f"models/{name}/run_id").read_text().strip()
        Path(f"models/{name}").rename(tmp_path / name)
    return ids


def test_runs_are_read_from_mlflow_if_no_folder_is_left(
    tracked: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = compare(list(tracked.values()), Path("compared"))
    assert [run.name for run in found.runs] == ["gone", "longer"]
    assert [len(run.history) for run in found.runs] == [2, 4]
    assert found.images is not None and len(found.pairs) == 1
    own = describe_run("longer/last.ckpt").history
    for ours, theirs in zip(found.runs[1].history, own, strict=True):
        assert ours["train/loss"] == pytest.approx(theirs["train/loss"])
    for checkpoint in Path("mlruns").rglob("*.ckpt"):  # then the record alone
        checkpoint.unlink()
    found = compare(list(tracked.values()), Path("compared"))
    assert found.settings == [("training.epochs", ["2", "4"])]
    assert [len(run.history) for run in found.runs] == [2, 4]
    assert found.images is None and "its network is not at hand" in found.runs[0].problem


# -- the analysis ------------------------------------------------------------------------------------------------------


def run_of(name: str, recipe: str, seed: int, accuracy: float, **changes: Any) -> ComparedRun:
    """Return a run that recognises this share of 1,000 images of two classes."""
    random = np.random.default_rng([seed, len(recipe)])
    labels = np.arange(1000) % 2
    predicted = np.where(random.random(1000) < accuracy, labels, 1 - labels)
    answers = TestAnswers(predicted, random.random(1000).astype(np.float32), predicted, "none")
    made = ComparedRun(
        name=name,
        seed=seed,
        recipe=recipe,
        settings={"seed": str(seed), "model": recipe},
        origin={},
        history=[{"epoch": 0, "train/loss": 1.0, "train/accuracy": accuracy}],
        scores={},
        weights=name,
        answers=answers,
    )
    return dataclasses.replace(made, **changes)


def comparison(*runs: ComparedRun) -> Comparison:
    return Comparison(runs, TestImages(np.arange(1000) % 2, ("cat", "dog"), "pets"))


def test_seeds_of_one_recipe_are_no_difference_and_another_recipe_is() -> None:
    same = [run_of(f"s-{seed}", "speed", seed, 0.9) for seed in (1, 2, 3)]
    other = [run_of(f"c-{seed}", "cnn", seed, 0.6) for seed in (1, 2, 3)]
    told = " ".join(verdicts(comparison(*same)))
    assert "No difference beyond chance in any of 3 pairs" in told and "seed only" in told
    assert "no difference beyond chance" in " ".join(verdicts(comparison(*same[:2])))
    told = " ".join(verdicts(comparison(*same, *other)))
    assert "s (3 seeds) against c (3 seeds)" in told and "different: s is better" in told
    told = " ".join(verdicts(comparison(same[0], other[0])))
    assert "different, s-1 is better by more than chance" in told and "several seeds each" in told


def test_an_unlucky_seed_is_not_called_another_recipe() -> None:
    runs = run_of("s-1", "speed", 1, 0.9), run_of("s-2", "speed", 2, 0.5)
    told = " ".join(verdicts(comparison(*runs)))
    assert "that is the chance of the seed, and no difference between recipes" in told


def test_copies_of_a_network_count_once() -> None:
    copied = run_of("copy", "speed", 1, 0.9, weights="s-1")
    others = [run_of(f"c-{seed}", "cnn", seed, 0.6) for seed in (1, 2)]
    found = comparison(run_of("s-1", "speed", 1, 0.9), copied, *others)
    assert found.differences[0].num_seeds == 1
    assert "s-1 and copy are the same network, weight by weight" in " ".join(verdicts(found))


def test_sides_are_named_after_what_their_runs_share() -> None:
    runs = [run_of(f"speedrun-1{n}", "speed", n, 0.9) for n in (3, 4)] + [run_of("x", "cnn", 0, 0.5)]
    assert [side.name for side in sides_of(runs)] == ["speedrun", "x"]
    alike = [run_of("a1", "speed", 1, 0.9), run_of("a2", "cnn", 1, 0.9), run_of("a3", "speed", 2, 0.9)]
    assert [side.name for side in sides_of([*alike, run_of("a4", "cnn", 2, 0.9)])] == ["a1", "a2"]
    assert [side.name for side in sides_of(runs[:2])] == ["speedrun-13", "speedrun-14"]


def test_settings_that_differ_are_aligned_also_where_one_lacks_them() -> None:
    rows = differing([{"lr": "1", "same": "x"}, {"lr": "2", "same": "x", "new": "y"}])
    assert rows == [("lr", ["1", "2"]), ("new", [None, "y"])]
    lines = plain_table(comparison(run_of("a", "speed", 1, 0.9), run_of("b", "cnn", 2, 0.6)))
    assert lines[1].split() == ["model", "speed", "cnn"] and lines[2].split() == ["seed", "1", "2"]


def test_many_sides_are_lines_not_columns() -> None:
    runs = [run_of(f"r{number}", "x" * number, number, 0.9) for number in range(1, 9)]
    lines = plain_table(comparison(*runs))
    assert len(lines) == 9 and lines[0].split() == ["seed", "accuracy", "accuracy,", "one", "view", "model"]
    assert lines[8].split()[:2] == ["r8", "8"] and lines[8].endswith("xxxxxxxx")


def test_flips_are_the_images_that_only_one_recognises_and_the_clearest_come_first() -> None:
    runs = [run_of(f"s{n}", "speed", n, 0.9) for n in (1, 2)] + [run_of(f"c{n}", "cnn", n, 0.6) for n in (3, 4)]
    found = comparison(*runs)
    flips = found.flips(*found.sides)
    first, second = found.is_right(runs[0]), found.is_right(runs[2])
    assert set(flips.only_first) == set(np.flatnonzero(first & ~second))
    assert set(flips.only_second) == set(np.flatnonzero(second & ~first))
    ours, theirs = (np.sum([found.is_right(run) for run in part], axis=0) for part in (runs[:2], runs[2:]))
    agreement = np.asarray(ours - theirs)
    assert (np.diff(agreement[flips.only_first]) <= 0).all() and (np.diff(agreement[flips.only_second]) >= 0).all()


def test_strange_names_stay_text() -> None:
    runs = [run_of("<script>$x^$\x1b[31m", "speed", 1, 0.9), run_of("猫\n", "cnn", 2, 0.6)]
    labels = np.arange(1000) % 2
    found = Comparison(runs, TestImages(labels, ("<b>cat\x07", "собака"), "pets"))
    page = ComparisonPage(found, lambda position: np.zeros((8, 8, 3), np.uint8)).report().html()
    assert "<script>$x" not in page and "<b>cat" not in page and "\x07" not in page
    assert "\x1b" not in "\n".join([*plain_table(found), *verdicts(found)])


def test_the_same_run_cannot_be_on_both_sides(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(UsageError, match="are the same run"):
        compare(["a1", "models/a1/best.ckpt"], Path("same"))
