"""A linear probe leaves what a training run leaves, and the network runs over each image once."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cifar10.analysis import embeddings
from cifar10.config.compose import load_config
from cifar10.config.schema import Config
from cifar10.errors import CheckpointError, UsageError
from cifar10.evaluate import evaluate
from cifar10.inference.predictor import Predictor
from cifar10.probe import probe
from cifar10.runs.checkpoints import load_checkpoint
from cifar10.train import train
from tests.data.test_folder import fill
from tests.tiny_run import TINY

PROBE = (
    *("experiment=probe", "data_loading=shapes", "data_loading.image_size=32", "data_loading.train_size=200"),
    *("data_loading.validation_size=50", "data_loading.test_size=100", "tracking=none"),
    "model=simple_cnn",
)


def config(folder: Path, *words: str) -> Config:
    return load_config([*PROBE, f"models_dir={folder}/models", f"probe.cache={folder}/cache", *words])


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run `first`: a probe of a network with random weights, whose features are no use but some."""
    folder = tmp_path_factory.mktemp("probe")
    torch.set_num_threads(1)
    probe(config(folder, "run_name=first"))
    return folder


@pytest.fixture
def num_embedded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that are embedded."""
    sizes: list[int] = []
    original = vars(embeddings)["embed"]

    def counting(network: nn.Module, images: torch.Tensor, num_classes: int) -> torch.Tensor:
        sizes.append(len(images))
        vectors: torch.Tensor = original(network, images, num_classes)
        return vectors

    monkeypatch.setattr(embeddings, "embed", counting)
    return sizes


def scores_of(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "scores.json").read_text()))


def test_the_run_folder_is_that_of_a_training_run(probed: Path) -> None:
    run = probed / "models" / "first"
    names = {path.name for path in run.glob("[!.]*")}
    assert {"best.ckpt", "last.ckpt", "config.yaml", "scores.json", "history.csv", "confusion.png"} <= names
    scores = scores_of(run)
    assert scores["train/accuracy"] > 0.2 and 0 <= scores["val/accuracy"] <= 1  # features of random weights


def test_its_checkpoint_is_evaluated_and_used_as_any(probed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = probed / "models" / "first"
    scores = evaluate(str(run / "best.ckpt"), report=False)
    assert scores["test/accuracy"] == scores_of(run)["test/accuracy"]
    predictor = Predictor.from_checkpoint(run / "best.ckpt")
    assert predictor.predict([bytes_of_a_picture()])[0].class_name in predictor.class_names


def bytes_of_a_picture() -> bytes:
    from tests.malformed import encode, picture

    return encode(picture(size=50), "PNG")


def test_only_the_head_differs_from_the_network_it_started_from(probed: Path) -> None:
    torch.manual_seed(0)
    weights = load_checkpoint(probed / "models" / "first" / "best.ckpt").weights
    probe(config(probed, "run_name=other", "probe.strengths=[1.0e-3]"))
    other = load_checkpoint(probed / "models" / "other" / "best.ckpt").weights
    assert {name for name in weights if not torch.equal(weights[name], other[name])} == {
        "head.weight",
        "head.bias",
    }


@pytest.mark.slow
def test_embeddings_are_computed_once_for_each_image_and_network(probed: Path, num_embedded: list[int]) -> None:
    probe(config(probed, "run_name=again", "probe.strengths=[0.1,1.0]"))
    assert sum(num_embedded) == 0
    probe(config(probed, "run_name=more", "data_loading.train_size=230"))
    first = sum(num_embedded)
    assert 0 < first <= 280
    probe(config(probed, "run_name=reseeded", "seed=1"))  # other random weights
    assert sum(num_embedded) - first == 250


@pytest.mark.slow
def test_without_a_cache_nothing_is_kept(tmp_path: Path, num_embedded: list[int]) -> None:
    for name in ("first", "second"):
        probe(load_config([*PROBE, f"models_dir={tmp_path}", "probe.cache=null", f"run_name={name}"]))
    assert sum(num_embedded) == 500 and not list(tmp_path.rglob("*.npz"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "new"),
    [(["model=simple_cnn"], {"head.weight", "head.bias"}), (["model=speed", "model.widths=[8,8,8]"], {"head.weight"})],
)
def test_a_network_of_your_own_is_probed_on_other_classes(model: list[str], new: set[str], tmp_path: Path) -> None:
    train(load_config([*TINY, *model, f"models_dir={tmp_path}/models", "run_name=own"]))
    fill(tmp_path / "photos", {"a": 20, "b": 20, "c": 20})
    weights = f"weights={tmp_path}/models/own/best.ckpt"
    words = ["data_loading=folder", f"data_loading.root={tmp_path}/photos", "data_loading.image_size=16", weights]
    words += [*model, f"models_dir={tmp_path}/models", "tracking=none", "run_name=probed"]
    probe(load_config(["experiment=probe", "probe.cache=null", *words]))
    own, probed = (load_checkpoint(tmp_path / "models" / name / "best.ckpt") for name in ("own", "probed"))
    changed = {name for name, x in own.weights.items() if not torch.equal(x, probed.weights[name])}
    assert probed.class_names == ("a", "b", "c") and changed == new
    with pytest.raises(UsageError, match=r"to replace its last layer: training.freeze_until=0.2, or experiment=probe"):
        train(load_config(["experiment=demo", *words[:-1], "run_name=refused"]))


def test_a_probe_cannot_be_resumed(probed: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be resumed"):
        train(load_config([f"models_dir={probed}/models", "tracking=none"]), resume="first")


def test_several_processes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"runs in one process: set training.devices=1"):
        probe(config(tmp_path, "training.devices=2"))
