"""`train`, end to end on a few drawn shapes, with real files and the real YAML."""

import csv
import json
import math
import os
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cifar10.model
import cifar10.runs.run
import cifar10.train
import cifar10.training.metrics
from cifar10.config.build import build
from cifar10.config.compose import load_config
from cifar10.config.schema import Component, Config
from cifar10.config.targets import DATA
from cifar10.errors import UsageError, UserError
from cifar10.runs.checkpoints import load_checkpoint
from cifar10.train import train
from cifar10.training.fitting import make_network
from tests.tiny_run import TINY


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)


def run(name: str, *overrides: str) -> dict[str, object]:
    model = [] if any(override.startswith("model=") for override in overrides) else ["model.width=4"]
    train(load_config([*TINY, f"run_name={name}", *model, *overrides]))
    return dict(json.loads(Path(f"models/{name}/scores.json").read_text()))


def test_a_run_leaves_scores_history_figures_and_both_checkpoints(capsys: pytest.CaptureFixture[str]) -> None:
    facts = run("first")
    files = {file.name for file in Path("models/first").iterdir()}
    kept = {"best.ckpt", "last.ckpt", "scores.json", "history.csv", "config.yaml", "run.json"}
    assert files == kept | {"curves.png", "confusion.png", ".lock"}
    with Path("models/first/history.csv").open() as file:
        history = list(csv.DictReader(file))
    assert [row["epoch"] for row in history] == ["0", "1"]
    assert float(history[-1]["train/loss"]) > 0
    assert 0 <= float(str(facts["test/accuracy"])) <= 1
    out, err = capsys.readouterr()
    assert out.startswith("test accuracy ") and out.count("\n") == 1
    assert "infer --test_dir=DIR --checkpoint_name=first" in err


def test_a_component_of_another_kind_is_refused_before_the_data_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cifar10.train._load_data", lambda *_: pytest.fail("the data are loaded"))
    schedule = Component.model_validate({"_target_": "cifar10.optimizers.schedules.Schedule"})
    with pytest.raises(UsageError, match=r"^schedule\._target_: .* may not be used here"):
        train(load_config(TINY).model_copy(update={"schedule": schedule}))
    assert not Path("models").exists()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    first, again, other = run("a"), run("b"), run("c", "seed=1")
    assert first["weights_digest"] == again["weights_digest"] != other["weights_digest"]
    assert first["train/loss"] == again["train/loss"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "saved_epochs"),
    [
        (["training.monitor=null", "training.save_every_seconds=3600"], [2]),
        (["training.monitor=null", "training.save_every_seconds=1e-9", "training.chunk_seconds=60"], [0, 1, 2]),
        (["training.monitor=null", "training.save_every_seconds=null"], [0, 1, 2]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and isinstance(value[0], str) else "",
)
def test_an_epoch_is_saved_when_it_is_time_and_the_last_one_always(
    options: list[str], saved_epochs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded: list[int] = []
    record_epochs = cifar10.runs.run.Run.record_epochs

    def note(self: cifar10.runs.run.Run, history: list[dict[str, float]]) -> None:
        if history:
            newest = int(history[-1]["epoch"])
            assert len(load_checkpoint(Path("models/saved/last.ckpt")).history) == newest + 1
            recorded.append(newest)
        record_epochs(self, history)

    monkeypatch.setattr(cifar10.runs.run.Run, "record_epochs", note)
    run("saved", *options, "training.epochs=3")
    assert recorded == saved_epochs
    assert len(Path("models/saved/history.csv").read_text().splitlines()) == 1 + 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        [],
        ["training.accumulate=2", "training.gradient_clip=0.1"],
        ["training.precision=bf16", "model=speed", "model.widths=[8,8,8]", "optimizer=muon", "schedule=linear"],
    ],
    ids=" ".join,
)
def test_chunks_of_any_length_teach_bitwise_what_lightnings_own_loop_does(options: list[str]) -> None:
    stepwise, short, long = (
        run(
            f"chunk{seconds}",
            *options,
            "model.dropout=0.2" if not options else "seed=0",
            f"training.chunk_seconds={seconds}",
        )
        for seconds in (0, 1e-9, 60)
    )
    assert stepwise["weights_digest"] == short["weights_digest"] == long["weights_digest"]
    histories = [Path(f"models/chunk{seconds}/history.csv").read_text() for seconds in ("0", "1e-09", "60")]
    assert len({_without_seconds(history) for history in histories}) == 1


def _without_seconds(history: str) -> str:
    rows = list(csv.DictReader(history.splitlines()))
    assert rows[-1]["step"] == "6"
    return str([{key: value for key, value in row.items() if key != "seconds"} for row in rows])


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["model=speed", "model.widths=[8,8,8]", "optimizer=muon", "schedule=linear"],
        ["model=resnet18", "model.width=4", "optimizer=sgd", "schedule=cosine"],
        ["optimizer=adam", "schedule=constant", "training.gradient_clip=0.5"],
        ["augmentation=strong", "training.label_smoothing=0.1", "training.early_stopping=1"],
        ["augmentation.mixup=0.2", "training.precision=bf16", "evaluation.tta=none"],
        ["augmentation.cutmix=1.0", "training.ema_decay=0.5"],
        ["training.monitor=null", "data_loading.validation_size=0", "tracking.tensorboard=true"],
    ],
    ids=" ".join,
)
def test_with_each_part_every_weight_is_trained(options: list[str]) -> None:
    facts = run("part", *options, "training.epochs=2")
    assert math.isfinite(float(str(facts["test/loss_tta"])))
    checkpoint = load_checkpoint(Path("models/part/last.ckpt"))
    data = build(DATA, checkpoint.config.data_loading)
    untrained = [
        name
        for name, parameter in make_network(checkpoint.config, data).named_parameters()
        if parameter.requires_grad and torch.equal(parameter.detach(), checkpoint.weights[name])
    ]
    assert untrained == []


def test_averaged_weights_are_what_is_saved_and_tested() -> None:
    """The tested scores are those of the saved weights: a fresh network with them answers the same."""
    facts = run("averaged", "training.ema_decay=0.9", "evaluation.tta=none")
    checkpoint = load_checkpoint(Path("models/averaged/best.ckpt"))
    test_split = build(DATA, checkpoint.config.data_loading).test
    with torch.inference_mode():
        predicted = checkpoint.network()(test_split.images).argmax(dim=1)
    assert float((predicted == test_split.labels).float().mean()) == pytest.approx(float(str(facts["test/accuracy"])))
    raw = torch.load("models/averaged/best.ckpt", weights_only=True)
    assert not torch.equal(raw["state_dict"]["network.head.weight"], raw["current_model_state"]["network.head.weight"])


def test_a_folder_that_holds_a_run_is_not_overwritten() -> None:
    run("mine")
    before = Path("models/mine/last.ckpt").read_bytes()
    with pytest.raises(UserError, match=r"already holds a run.*--resume=mine"):
        run("mine")
    assert Path("models/mine/last.ckpt").read_bytes() == before


def test_a_monitor_without_validation_images_is_refused() -> None:
    with pytest.raises(UserError, match="needs validation images"):
        run("blind", "data_loading.validation_size=0")
    assert not Path("models").exists()


def test_resuming_on_other_data_is_refused() -> None:
    run("a", "training.epochs=1")
    raw = torch.load("models/a/last.ckpt", weights_only=True)
    raw["cifar10"]["config"]["data_loading"]["seed"] = 9
    torch.save(raw, "models/a/last.ckpt")
    with pytest.raises(UserError, match="the data are not those"):
        train(load_config(TINY), resume="a")


def test_a_finished_run_resumed_says_so_and_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    before = run("done")
    files = snapshot(Path("models/done"))
    capsys.readouterr()
    scores = train(load_config(TINY), resume="done")
    assert scores["test/accuracy"] == before["test/accuracy"]
    assert snapshot(Path("models/done")) == files
    assert "models/done is finished after 2 epochs; nothing was changed" in capsys.readouterr().err


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return content and time of change of each file."""
    return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir()}


CONSTANT = ("schedule=constant", "optimizer.lr=0.001")


@pytest.mark.slow
def test_a_finished_run_goes_on_to_more_epochs_and_ends_where_a_longer_run_ends() -> None:
    whole = run("whole", *CONSTANT, "training.epochs=4", "training.monitor=null")
    run("longer", *CONSTANT, "training.epochs=2", "training.monitor=null")
    train(load_config(TINY), resume="longer", changes=["training.epochs=4"])
    assert facts_of("longer")["weights_digest"] == whole["weights_digest"]
    assert len(Path("models/longer/history.csv").read_text().splitlines()) == 1 + 4


def facts_of(name: str) -> dict[str, Any]:
    return dict(json.loads(Path(f"models/{name}/scores.json").read_text()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "epochs", "complaint"),
    [
        (
            (),
            5,
            r"extended to 5 epochs.* weights=models/a/last.ckpt data_loading=shapes .*model=simple_cnn .*epochs=5",
        ),
        (("schedule=constant", "schedule.warmup=0.1"), 5, r"cannot be extended to 5 epochs"),
        (CONSTANT, 1, r"training.epochs=1: models/a/last.ckpt has 2 epochs behind it"),
    ],
)
def test_another_number_of_epochs_is_refused_where_the_steps_done_would_have_been_others(
    options: tuple[str, ...], epochs: int, complaint: str
) -> None:
    run("a", *options)
    files = snapshot(Path("models/a"))
    with pytest.raises(UserError, match=complaint):
        train(load_config(TINY), resume="a", changes=[f"training.epochs={epochs}"])
    assert snapshot(Path("models/a")) == files


def test_a_run_starts_from_the_weights_of_another(capsys: pytest.CaptureFixture[str]) -> None:
    first = run("first", "training.monitor=null")
    rate = ("optimizer.lr=1e-30", "optimizer.weight_decay=0", "training.monitor=null")
    run("second", "weights=first", *rate)
    assert f"starts from models/first/best.ckpt, weights {str(first['weights_digest'])[:12]}" in capsys.readouterr().err
    states = [load_checkpoint(Path(f"models/{name}/best.ckpt")).weights for name in ("first", "second")]
    assert load_checkpoint(Path("models/second/best.ckpt")).metadata.initial_weights == first["weights_digest"]
    for name in states[0]:
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(states[0][name], states[1][name])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("model.width=8",), "are of another network than SimpleCNN"),
        (("weights=nothing",), "there is no checkpoint nothing"),
    ],
)
def test_weights_that_do_not_fit_are_refused_before_a_folder_is_made(options: tuple[str, ...], complaint: str) -> None:
    run("first")
    with pytest.raises(UserError, match=complaint):
        train(load_config([*TINY, "weights=first", "run_name=second", "model.width=4", *options]))
    assert not Path("models/second").exists()


@pytest.mark.slow
def test_a_checkpoint_that_was_copied_elsewhere_goes_on_in_a_new_folder(capsys: pytest.CaptureFixture[str]) -> None:
    train(load_config([*LONGER, "run_name=whole"]))
    cut_after_first_epoch(load_config([*LONGER, "run_name=cut"]))
    Path("elsewhere").mkdir()
    Path("elsewhere/last.ckpt").write_bytes(Path("models/cut/last.ckpt").read_bytes())
    for name, content in {"notes.txt": "mine", "history.csv": "mine, too", ".x.tmp": "and this"}.items():
        Path("elsewhere", name).write_text(content)
    files = snapshot(Path("elsewhere"))
    train(load_config(TINY), resume="elsewhere/last.ckpt")
    assert snapshot(Path("elsewhere")) == files
    new = next(folder for folder in Path("models").iterdir() if folder.name.startswith("shapes-"))
    assert facts_of(new.name)["weights_digest"] == facts_of("whole")["weights_digest"]
    assert f"it continues in {new}" in capsys.readouterr().err


@pytest.mark.slow
def test_a_copied_checkpoint_whose_training_has_ended_is_refused_and_nothing_is_made() -> None:
    train(load_config([*TINY, "run_name=whole"]))
    Path("copied.ckpt").write_bytes(Path("models/whole/last.ckpt").read_bytes())
    with pytest.raises(UsageError, match=r"copied\.ckpt has all its 2 epochs, so .*to test it: .*copied\.ckpt$"):
        train(load_config(TINY), resume="copied.ckpt")
    assert os.listdir("models") == ["whole"]
    Path("best.ckpt").write_bytes(Path("models/whole/best.ckpt").read_bytes())
    assert "test/accuracy" in train(load_config(TINY), resume="copied.ckpt")


class CutError(Exception):
    """Ends a run after its first epoch, as a power cut would."""


def cut_after_first_epoch(config: Config, **more: Any) -> None:
    """Train until the end of the first epoch, which is saved."""
    record_epochs = cifar10.runs.run.Run.record_epochs

    def record_and_stop(self: cifar10.runs.run.Run, history: list[dict[str, float]]) -> None:
        record_epochs(self, history)
        if history:
            raise CutError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cifar10.runs.run.Run, "record_epochs", record_and_stop)
        with pytest.raises(CutError):
            train(config, **more)


LONGER = [*TINY, "model.width=4", "training.epochs=3", "training.monitor=null", "training.save_every_seconds=null"]


def test_resume_auto_begins_a_run_and_then_goes_on_with_it(capsys: pytest.CaptureFixture[str]) -> None:
    job = load_config([*LONGER, "run_name=job"])
    cut_after_first_epoch(job, resume="auto")
    train(job, resume="auto")
    assert len(Path("models/job/history.csv").read_text().splitlines()) == 1 + 3
    files = snapshot(Path("models/job"))
    train(job, resume="auto")
    assert snapshot(Path("models/job")) == files
    assert "is finished" in capsys.readouterr().err


def test_a_run_that_was_moved_behind_a_link_is_still_that_run() -> None:
    job = load_config([*LONGER, "run_name=job"])
    cut_after_first_epoch(job)
    Path("models/job").rename("moved")
    Path("models/job").symlink_to("../moved")
    train(job, resume="auto")
    assert os.listdir("models") == ["job"]
    assert len(Path("moved/history.csv").read_text().splitlines()) == 1 + 3


def test_what_another_process_has_done_since_the_checkpoint_was_read_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    job = load_config([*LONGER, "run_name=job"])
    cut_after_first_epoch(job)
    load_data, files = cifar10.train._load_data, []

    def be_overtaken(*arguments: Any) -> Any:
        monkeypatch.setattr(cifar10.train, "_load_data", load_data)
        train(job, resume="auto")
        files.append(snapshot(Path("models/job")))
        return load_data(*arguments)

    monkeypatch.setattr(cifar10.train, "_load_data", be_overtaken)
    with pytest.raises(UsageError, match="another process has just trained in"):
        train(job, resume="auto")
    assert [snapshot(Path("models/job"))] == files


def test_resume_auto_refuses_other_settings_and_names_them() -> None:
    job = [*LONGER, "run_name=job", "training.epochs=1"]
    train(load_config(job), resume="auto")
    with pytest.raises(UserError, match=r"was begun with optimizer.lr=0.01, not 0.02"):
        train(load_config([*job, "optimizer.lr=0.02"]), resume="auto")


def contents(folder: Path) -> dict[str, bytes]:
    """Return what each file holds; but for `run.json`, which notes every attempt."""
    return {name: content for name, (content, _) in snapshot(folder).items() if name != "run.json"}


def drop(*keys: str) -> Any:
    def change(raw: dict[str, Any]) -> None:
        for key in keys:
            del raw[key]

    return change


def put(key: str, value: Any) -> Any:
    return lambda raw: raw.update({key: value})


def shrink_momentum(raw: dict[str, Any]) -> None:
    for state in raw["optimizer_states"][0]["state"].values():
        state["exp_avg"] = torch.zeros(2)


BROKEN_STATES = {
    "no optimizer": drop("optimizer_states"),
    "no state of the optimizer": put("optimizer_states", []),
    "an optimizer that is a number": put("optimizer_states", [3]),
    "momentum of another shape": shrink_momentum,
    "no schedule": drop("lr_schedulers"),
    "no position": drop("loops"),
    "a position that is a list": put("loops", [1, 2]),
    "no sums": drop("cifar10_tally"),
    "sums that are strings": put("cifar10_tally", ["a", "b", "c"]),
    "sums of a process that lack one": put("cifar10_tallies", [[1.0, 2.0]]),
    "no epoch": drop("epoch", "global_step"),
    "callbacks that are a list": put("callbacks", [1]),
    "no best score": put("callbacks", {"SaveCheckpoints": {}}),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", BROKEN_STATES)
def test_a_training_state_that_is_not_whole_is_refused_in_one_line(kind: str) -> None:
    cut_after_first_epoch(load_config([*LONGER, "run_name=cut"]))
    raw = torch.load("models/cut/last.ckpt", weights_only=True)
    BROKEN_STATES[kind](raw)
    torch.save(raw, "models/cut/last.ckpt")
    before = contents(Path("models/cut"))
    with pytest.raises(UserError, match=r"models/cut/last\.ckpt.*") as refusal:
        train(load_config(TINY), resume="cut")
    assert len(str(refusal.value).splitlines()) == 1
    assert contents(Path("models/cut")) == before


@pytest.mark.slow
def test_a_damaged_last_checkpoint_is_told_and_the_best_one_resumed(capsys: pytest.CaptureFixture[str]) -> None:
    train(load_config([*LONGER, "run_name=whole"]))
    cut_after_first_epoch(load_config([*LONGER, "run_name=cut"]))
    Path("models/cut/last.ckpt").unlink()  # it may be a link to the best one
    Path("models/cut/last.ckpt").write_bytes(b"PK")
    train(load_config(TINY), resume="cut")
    assert re.search(
        r"warning: models/cut/last\.ckpt is .*; the run goes on from models/cut/best\.ckpt, after 1 epoch\n",
        capsys.readouterr().err,
    )
    whole, cut = (load_checkpoint(Path(f"models/{name}/last.ckpt")) for name in ("whole", "cut"))
    assert cut.weights_digest == whole.weights_digest


def test_the_time_of_a_run_is_not_counted_twice() -> None:
    started = time.monotonic()
    facts = run("timed")
    assert 0 < float(str(facts["wall_seconds"])) <= time.monotonic() - started
    assert 0 < float(str(facts["cpu_seconds"])) <= 2 * (time.monotonic() - started)


@pytest.mark.slow
def test_time_is_counted_over_all_processes_of_a_run() -> None:
    cut_after_first_epoch(load_config([*LONGER, "run_name=cut"]))
    raw = torch.load("models/cut/last.ckpt", weights_only=True)
    raw["callbacks"]["SaveCheckpoints"] |= {"wall_seconds": 5000.0, "cpu_seconds": 4000.0}
    torch.save(raw, "models/cut/last.ckpt")
    train(load_config(TINY), resume="cut")
    assert 5000 < facts_of("cut")["wall_seconds"] < 5600
    assert 4000 < facts_of("cut")["cpu_seconds"] < 4600


DIVERGING = ("optimizer=sgd", "schedule=constant", "optimizer.lr=0.1", "optimizer.weight_decay=80")


@pytest.mark.parametrize("options", [("training.chunk_seconds=60",), ("training.chunk_seconds=0",)])
def test_a_run_that_diverges_stops_at_once_and_keeps_the_last_good_state(
    options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"the (loss is|weights are) not finite at step \d+, in epoch \d+") as stop:
        run("lost", *DIVERGING, "optimizer.momentum=0.0", "optimizer.nesterov=false", "training.epochs=300", *options)
    assert stop.value.exit_code == 1
    assert "lower optimizer.lr (now 0.1)" in capsys.readouterr().err
    for name in ("last.ckpt", "best.ckpt"):
        checkpoint = load_checkpoint(Path("models/lost", name))
        assert all(tensor.isfinite().all() for tensor in checkpoint.weights.values())
    assert not Path("models/lost/scores.json").exists()


def test_an_epoch_whose_score_is_no_number_is_never_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    means = cifar10.training.metrics.RunningMetrics.means
    seen: list[float] = []

    def spoilt(self: Any, strategy: Any = None) -> dict[str, float]:
        scores = means(self, strategy)
        if self.is_validation:
            seen.append(scores["loss"])
            scores["loss"] = float("nan") if len(seen) > 1 else scores["loss"]
        return scores

    monkeypatch.setattr(cifar10.training.metrics.RunningMetrics, "is_validation", False, raising=False)
    start = cifar10.model.Classifier.on_fit_start

    def marked(self: Any) -> None:
        start(self)
        self._validation_metrics.sums.is_validation = True

    monkeypatch.setattr(cifar10.model.Classifier, "on_fit_start", marked)
    monkeypatch.setattr(cifar10.training.metrics.RunningMetrics, "means", spoilt)
    run("spoilt", "training.epochs=3")
    assert len(load_checkpoint(Path("models/spoilt/best.ckpt")).history) == 1
    assert facts_of("spoilt")["val/loss"] is None
    rows = list(csv.DictReader(Path("models/spoilt/history.csv").read_text().splitlines()))
    assert [row["val/loss"] == "" for row in rows] == [False, True, True]


class FixedNet(torch.nn.Module):
    """Takes images of one size only."""

    def __init__(self, num_classes: int, image_size: int) -> None:
        super().__init__()
        self.head = torch.nn.Linear(3 * image_size**2, num_classes)

    def calibrate(self, images: torch.Tensor) -> None: ...

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(images.float().flatten(1) / 255)
        return logits


FixedNet.__module__ = "cifar10.networks.simple_cnn"


def test_a_network_of_one_image_size_is_found_before_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cifar10.networks.simple_cnn.FixedNet", FixedNet, raising=False)
    words = [*TINY, "~model.width", "~model.dropout", "model._target_=cifar10.networks.simple_cnn.FixedNet"]
    resized = "training.resizing=[{until: 0.5, scale: 0.75}]"
    with pytest.raises(UserError, match=r"would need images of 12 pixels: .*; set training.resizing=\[\]"):
        train(load_config([*words, "run_name=fixed", resized]))
    assert not Path("models").exists()
    train(load_config([*words, "run_name=fixed"]))


def test_a_torchvision_classifier_trains_and_its_checkpoint_answers() -> None:
    from cifar10.inference.predictor import Predictor

    words = [*TINY, "~model.width", "~model.dropout", "model._target_=torchvision.models.squeezenet1_1"]
    train(load_config([*words, "run_name=published", "training.epochs=1", "data_loading.image_size=32"]))
    predictor = Predictor.from_checkpoint("published")
    probabilities = predictor.probabilities(np.zeros((2, 32, 32, 3), np.uint8))
    assert probabilities.shape == (2, 10)
