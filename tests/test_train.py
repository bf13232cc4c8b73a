"""The walk of `train`, end to end on a few drawn shapes, with real files and the real YAML."""

import csv
import json
from pathlib import Path

import pytest
import torch

import cifar10.run
from cifar10.checkpoints import load_checkpoint
from cifar10.compose import load_config
from cifar10.errors import UserError
from cifar10.train import train
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
    assert files == kept | {"curves.png", "confusion.png"}
    with Path("models/first/history.csv").open() as file:
        history = list(csv.DictReader(file))
    assert [row["epoch"] for row in history] == ["0", "1"]
    assert float(history[-1]["train/loss"]) > 0
    assert 0 <= float(str(facts["test/accuracy"])) <= 1
    out, err = capsys.readouterr()
    assert out.startswith("test accuracy ") and out.count("\n") == 1
    assert "infer --test_dir DIR --checkpoint_name first" in err


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    first, again, other = run("a"), run("b"), run("c", "seed=1")
    assert first["weights_digest"] == again["weights_digest"] != other["weights_digest"]
    assert first["train/loss"] == again["train/loss"]


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
    record_epochs = cifar10.run.Run.record_epochs

    def note(self: cifar10.run.Run, history: list[dict[str, float]]) -> None:
        if history:
            newest = int(history[-1]["epoch"])
            assert len(load_checkpoint(Path("models/saved/last.ckpt")).history) == newest + 1
            recorded.append(newest)
        record_epochs(self, history)

    monkeypatch.setattr(cifar10.run.Run, "record_epochs", note)
    run("saved", *options, "training.epochs=3")
    assert recorded == saved_epochs
    assert len(Path("models/saved/history.csv").read_text().splitlines()) == 1 + 3


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


def test_parts_of_a_batch_add_up_to_the_batch() -> None:
    """Without batch statistics and dropout, two halves one after the other teach what the whole does."""
    options = ["optimizer=sgd", "optimizer.lr=0.01", "model.dropout=0.0", "training.epochs=1"]
    whole, halves = run("whole", *options), run("halves", *options, "training.accumulate=2")
    assert whole["weights_digest"] != halves["weights_digest"]  # batch norm sees halves
    assert float(str(halves["train/loss"])) == pytest.approx(float(str(whole["train/loss"])), rel=0.1)


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
def test_every_part_trains(options: list[str]) -> None:
    facts = run("part", *options, "training.epochs=1")
    assert torch.isfinite(torch.tensor(float(str(facts["test/loss_tta"]))))


def test_averaged_weights_are_what_is_saved_and_tested() -> None:
    """The tested scores are those of the saved weights: a fresh network with them answers the same."""
    facts = run("averaged", "training.ema_decay=0.9", "evaluation.tta=none")
    checkpoint = load_checkpoint(Path("models/averaged/best.ckpt"))
    from cifar10.build import build

    test_split = build(checkpoint.config.data_loading).test
    with torch.inference_mode():
        predicted = checkpoint.network()(test_split.images).argmax(dim=1)
    assert float((predicted == test_split.labels).float().mean()) == pytest.approx(float(str(facts["test/accuracy"])))
    raw = torch.load("models/averaged/best.ckpt", weights_only=True)
    assert not torch.equal(raw["state_dict"]["network.head.weight"], raw["current_model_state"]["network.head.weight"])


def test_a_folder_that_holds_a_run_is_not_overwritten() -> None:
    run("mine")
    before = Path("models/mine/last.ckpt").read_bytes()
    with pytest.raises(UserError, match=r"already holds a run.*--resume mine"):
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


def test_a_finished_run_resumed_is_tested_again_and_stays_the_same() -> None:
    before = run("done")
    train(load_config(TINY), resume="done")
    after = json.loads(Path("models/done/scores.json").read_text())
    assert after["weights_digest"] == before["weights_digest"]
    assert after["test/accuracy"] == before["test/accuracy"]
