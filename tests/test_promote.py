"""`promote`: an alias moves to a network that holds, and stays where it is in every other case.

Two networks are trained on generated images, and exported, evaluated and registered as by hand.
"""

import http.server
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import cifar10
from cifar10.cli.command_line import main
from cifar10.config.compose import load_config
from cifar10.inference.description import KEY
from cifar10.inference.seal import sealed
from cifar10.runs.aliases import Alias
from cifar10.runs.registry import RegisteredName
from cifar10.train import train
from commands import COMMANDS
from tests.malformed import encode, picture
from tests.runs.mlflow_server import mlflow_server
from tests.runs.test_registry import answered, serving
from tests.tiny_run import TINY

ROOT = Path(__file__).resolve().parents[1]
CHAMPION = RegisteredName("shapes", "champion")
SMALL = (
    *(word for word in TINY if not word.startswith(("data_loading.t", "training.epochs"))),
    *("data_loading.test_size=300", "model=simple_cnn", "model.width=16", "training.precision=fp32"),
)
GOOD = ("data_loading.train_size=1500", "training.epochs=6", "run_name=good")
WORSE = ("data_loading.train_size=800", "training.epochs=3", "run_name=worse")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a good and a worse network, of which the good one is champion in the store `registry`."""
    folder = tmp_path_factory.mktemp("promoted")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", "sqlite:///registry/mlflow.db")
        torch.set_num_threads(1)
        for words in (GOOD, WORSE):
            train(load_config([*SMALL, *words]))
        assert main(COMMANDS, "", ["promote", "good"]) == 0
        assert main(COMMANDS, "", ["export", "--checkpoint_name=worse"]) == 0
        assert main(COMMANDS, "", ["evaluate", "worse"]) == 0
    return folder


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of that folder, which is the current one."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///registry/mlflow.db")
    return tmp_path


def promote(*words: str) -> int:
    return main(COMMANDS, "", ["promote", *words])


def champion() -> str | None:
    return Alias.open_for_reading(CHAMPION).version()


def version(number: int) -> Any:
    client = Alias.open_for_reading(CHAMPION).client
    assert client is not None
    return client.get_model_version("shapes", str(number))


def num_versions() -> int:
    client = Alias.open_for_reading(CHAMPION).client
    assert client is not None
    return len(client.search_model_versions("name='shapes'"))


def change_checkpoint(name: str, **entries: Any) -> None:
    """Change class names or settings of the data in a checkpoint."""
    path = Path("models", name, "best.ckpt")
    raw = torch.load(path, weights_only=True)
    raw["cifar10"]["config"]["data_loading"].update(entries.pop("data_loading", {}))
    raw["cifar10"].update(entries)
    torch.save(raw, path)


def change_weight(file: Path, with_golden: bool = True) -> None:
    """Change one number in the largest weight of an ONNX file; without golden images, only a comparison shows it."""
    model = onnx.load(file)
    [entry] = [entry for entry in model.metadata_props if entry.key == KEY]
    if not with_golden:
        entry.value = json.dumps({**json.loads(entry.value), "golden": None})
    largest = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = np.frombuffer(largest.raw_data, np.float32).copy()
    values[len(values) // 2] += 3 * values.std()
    largest.raw_data = values.tobytes()
    file.write_bytes(sealed(model.SerializeToString()))


# -- the alias moves ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_first_network_becomes_champion_with_its_card_and_measurements(here: Path) -> None:
    assert champion() == "1"
    found, tags = version(1), version(1).tags
    assert tags["promotion"] == "all checks hold"
    assert tags["promotion.parity"].startswith("holds: 300 images: no class differs")
    assert tags["promotion.latency"].startswith("measured: ")
    assert tags["weights_digest"] == json.loads(Path("models/good/scores.json").read_text())["weights_digest"]
    card = Path("models/good/MODEL_CARD.md").read_text()
    assert found.description.startswith("# good\n") and found.description[:400] in card
    [logged] = here.glob("registry/artifacts/**/MODEL_CARD.md")
    assert logged.read_text() == card
    beside = {str(file.relative_to(logged.parent)) for file in logged.parent.rglob("*") if file.is_file()}
    assert beside >= {"best.ckpt", "export/model.onnx", "evaluation/report.json", "promotion.json", "scores.json"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_lines_of_a_card_classify_as_infer_does(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [card] = here.glob("registry/artifacts/**/MODEL_CARD.md")
    (card.parent / "photo.jpg").write_bytes(encode(picture(2, 40), "JPEG"))
    expected = cifar10.load("good", engine="onnx", tta="none").predict(card.parent / "photo.jpg")
    [block] = re.findall(r"^```python\n(.*?)^```", card.read_text(), re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(card.parent)
    capsys.readouterr()
    exec(compile(block, "MODEL_CARD.md", "exec"), {})
    assert capsys.readouterr().out == f"{expected.class_id}\n"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("here")
def test_a_better_network_replaces_the_champion_and_its_version_is_reused(capsys: pytest.CaptureFixture[str]) -> None:
    assert promote("worse", "--alias=rival") == 0
    assert promote("good", "--alias=rival", "promotion.latency_factor=1000") == 0
    told = capsys.readouterr().out
    assert "rival        is version 1 of shapes, until now version 2" in told
    assert "registered   before as models:/shapes/1; described anew" in told
    assert num_versions() == 2
    assert version(1).tags["promotion.compared_with"] == "version 2"
    assert version(1).tags["promotion.accuracy"].startswith("holds: ")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("here")
def test_an_alias_that_has_the_version_already_stays_and_nothing_is_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    capsys.readouterr()
    for name in ("good", "models:/shapes@champion", "models:/shapes/1"):
        assert promote(name) == 0
        assert "champion     is version 1 of shapes already, with the same weights" in capsys.readouterr().out
    assert num_versions() == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("here")
def test_the_card_of_the_champion_has_what_was_measured_since() -> None:
    assert "was not measured" in version(1).description
    assert main(COMMANDS, "", ["evaluate", "good", "--corruptions=fog"]) == 0
    assert promote("good", "--dry_run") == 0
    assert "| fog |" in Path("models/good/MODEL_CARD.md").read_text()
    assert "| fog |" not in version(1).description
    assert promote("good") == 0
    assert "| fog |" in version(1).description and champion() == "1"


# -- the alias stays ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("here")
def test_a_worse_network_is_registered_without_the_alias(capsys: pytest.CaptureFixture[str]) -> None:
    assert promote("worse", "promotion.latency_factor=1000") == 1
    told = capsys.readouterr()
    assert "error: not promoted, version 1 of shapes stays champion: accuracy: " in told.err
    assert "worse beyond chance (p = " in told.err
    assert "registered   models:/shapes/2" in told.out
    assert champion() == "1" and version(2).aliases == []
    assert version(2).tags["promotion"] == "refused"
    assert version(2).tags["promotion.accuracy"].startswith("fails: ")
    card = Path("models/worse/MODEL_CARD.md").read_text()
    assert "@champion" not in card  # that is another network


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("here")
def test_a_slower_network_is_refused_with_both_times(capsys: pytest.CaptureFixture[str]) -> None:
    change_checkpoint("good", program="another file with the same weights")
    assert promote("worse", "--alias=rival") == 0
    assert promote("good", "--alias=rival", "promotion.latency_factor=0.001") == 1
    told = capsys.readouterr().err
    assert "error: not promoted, version 2 of shapes stays rival: latency: " in told
    assert "times as long, more than 0.001" in told and "accuracy: " not in told


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("here")
def test_a_network_that_is_no_better_than_chance_is_refused_as_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert promote("worse", "--name=other", "promotion.floor=0.99") == 1
    assert "no version of other is champion: floor: " in capsys.readouterr().err
    assert Alias.open_for_reading(RegisteredName("other", "champion")).version() is None


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("weight", "computes other probabilities here than where it was exported"),
        ("weight without golden images", "computes something else than models/worse/best.ckpt: 300 images: "),
        ("cut", "cannot be read as an ONNX file"),
    ],
)
def test_a_broken_export_is_not_registered(fault: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = Path("models/worse/export/model.onnx")
    if fault == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    else:
        change_weight(file, with_golden=fault == "weight")
    assert promote("worse") == 1
    told = capsys.readouterr().err
    assert "error: not promoted and not registered, version 1 of shapes stays champion: " in told
    assert "model.onnx" in told and reason in told
    assert champion() == "1" and num_versions() == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("here")
def test_a_file_that_changed_after_it_was_compared_is_compared_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert promote("worse", "--dry_run") == 1
    capsys.readouterr()
    assert promote("worse", "--dry_run") == 1
    assert "has not changed" in capsys.readouterr().err
    numbers = Path("models/worse/promotion.json")
    numbers.write_text(json.dumps({**json.loads(numbers.read_text()), "parity": {"num_images": "many"}}))
    assert promote("worse", "--dry_run") == 1
    assert "has not changed" not in capsys.readouterr().err
    change_weight(Path("models/worse/export/model.onnx"), with_golden=False)
    assert promote("worse", "--dry_run") == 1
    told = capsys.readouterr().err
    assert "not promoted and not registered" in told and "computes something else" in told


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("here")
def test_other_classes_and_other_test_images_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    names = list(cifar10.load("worse").class_names)
    change_checkpoint("worse", class_names=["dot", *names[1:]])
    assert promote("worse") == 1
    assert "its classes are not those of version 1: disk missing and dot added" in capsys.readouterr().err
    change_checkpoint("worse", class_names=names[::-1])
    assert promote("worse") == 1
    assert "the same ones in another order" in capsys.readouterr().err
    change_checkpoint("worse", class_names=names, data_loading={"seed": 9})
    assert promote("worse") == 1
    told = capsys.readouterr().err
    assert "its 300 test images of shapes are not the 300 test images of shapes of version 1" in told
    assert champion() == "1" and num_versions() == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("here")
def test_the_same_test_images_from_files_are_compared_in_their_order(capsys: pytest.CaptureFixture[str]) -> None:
    names = cifar10.load("good").class_names
    drawn = [word for word in (*SMALL, "data_loading.train_size=800") if word.startswith("data_loading.")]
    assert main(COMMANDS, "", ["data", "data_loading=shapes", *drawn, "--export_images"]) == 0
    kept = [word for word in SMALL if not word.startswith("data_loading.")]
    files = ["data_loading=folder", "data_loading.root=data/shapes", f"data_loading.classes=[{','.join(names)}]"]
    train(load_config([*kept, *files, "data_loading.image_size=16", "training.epochs=3", "run_name=filed"]))
    capsys.readouterr()
    assert promote("filed", "--name=shapes", "--dry_run", "promotion.latency_factor=1000") == 1
    told = capsys.readouterr().out
    accuracy = json.loads(Path("models/good/scores.json").read_text())["test/accuracy_tta"]
    assert f"version 1 {accuracy:.2%} on the same 300 images" in told, told


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("here")
def test_a_dry_run_measures_and_registers_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert promote("worse", "--dry_run", "promotion.latency_factor=1000") == 1
    told = capsys.readouterr()
    assert "accuracy     fails" in told.out and "nothing was registered" in told.err
    assert num_versions() == 1 and champion() == "1"
    assert promote("worse", "--dry_run", "--name=other") == 0
    client = Alias.open_for_reading(CHAMPION).client
    assert client is not None and [model.name for model in client.search_registered_models()] == ["shapes"]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("here")
def test_an_alias_that_moved_meanwhile_is_not_taken_away(capsys: pytest.CaptureFixture[str]) -> None:
    assert promote("worse", "promotion.latency_factor=1000") == 1
    place = Alias.open_for_writing(CHAMPION, "cifar10", "now")
    place.move("2", before="1")
    with pytest.raises(cifar10.errors.UserError, match="compared with version 1, and version 2 has it now"):
        place.move("1", before="1")
    with pytest.raises(cifar10.errors.UserError, match="compared with no version, and version 2 has it now"):
        place.move("1", before=None)
    assert champion() == "2"


# -- the registry is not there -----------------------------------------------------------------------------------------


@pytest.fixture
def untrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.ckpt").write_bytes(b"not read")


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("http://127.0.0.1:9", "error: promote: no MLflow server responds at http://127.0.0.1:9"),
        ("mlruns", "error: promote: its address cannot be used: mlruns (from MLFLOW_TRACKING_URI) is a folder"),
        ("sqlite:////proc/none/mlflow.db", "error: promote: /proc/none cannot be written"),
        ("sqlite:///net.ckpt", "error: promote: net.ckpt is not a database of MLflow"),
    ],
)
def test_an_unusable_registry_is_told_in_one_line_before_the_checkpoint_is_read(
    uri: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert promote("net.ckpt") == 1
    told = capsys.readouterr().err
    assert message in told and len(told.splitlines()) == 1


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--alias=latest"], "--alias=latest: an alias has letters"),
        (["--name=a/b"], "--name=a/b: the name of a model has letters"),
        (["promotion.latency_factor=x"], "promotion.latency_factor: must be a number, not"),
        (["training.epochs=3"], "the configuration of a checkpoint cannot be changed"),
    ],
)
def test_a_mistake_is_a_usage_error(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert promote("net.ckpt", *words) == 2
    assert message in capsys.readouterr().err


class _ReadOnly(http.server.BaseHTTPRequestHandler):
    """Says that it is well, and forbids everything else."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 403)
        self.end_headers()

    def do_POST(self) -> None:
        self.do_GET()

    def do_PATCH(self) -> None:
        self.do_GET()

    def log_message(self, *arguments: object) -> None: ...


@pytest.fixture
def forbidding() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _ReadOnly) as service:
        threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{service.server_port}"
        service.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("here")
def test_a_registry_that_refuses_records_is_told_before_the_measurements(
    forbidding: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", forbidding)
    capsys.readouterr()
    started = time.monotonic()
    assert promote("worse") == 1
    told = capsys.readouterr()
    assert f"error: promote: MLflow at {forbidding} refused" in told.err and len(told.err.splitlines()) == 1
    assert told.out == "" and time.monotonic() - started < 20


# -- processes ---------------------------------------------------------------------------------------------------------


def start(*words: str) -> "subprocess.Popen[str]":
    command = [sys.executable, str(ROOT / "commands.py"), "promote", *words]
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=variables, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("line", ["fetching version 2", "computing them", "timing", "written to"])
def test_ctrl_c_leaves_the_alias_where_it_is(line: str) -> None:
    assert promote("worse", "--alias=rival") == 0
    Path("models/good/promotion.json").unlink()
    process = start("good", "--alias=rival", "promotion.latency_factor=1000")
    assert process.stderr is not None
    while line not in (told := process.stderr.readline()):
        assert told, "it ended"
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "stopped by Ctrl-C before the alias moved" in rest
    assert Alias.open_for_reading(RegisteredName("shapes", "rival")).version() == "2"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("here")
def test_of_two_promotions_at_once_the_alias_ends_at_one() -> None:
    processes = [start(name, "--alias=rival", "promotion.latency_factor=1000") for name in ("good", "worse")]
    told = [process.communicate(timeout=300)[1] for process in processes]
    codes = [process.returncode for process in processes]
    assert 0 in codes, told
    assert set(codes) <= {0, 1}
    assert Alias.open_for_reading(RegisteredName("shapes", "rival")).version() in ("1", "2")
    for code, text in zip(codes, told, strict=True):
        assert code == 0 or "moved meanwhile" in text or "worse beyond chance" in text, text


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_promotion_through_a_server(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    with mlflow_server(here) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        assert promote("good") == 0
        assert promote("worse", "promotion.latency_factor=1000") == 1
        assert "version 1 of shapes stays champion: accuracy: " in capsys.readouterr().err
        assert champion() == "1"
        assert version(2).description.startswith("# worse\n")
        assert cifar10.load("models:/shapes@champion").provenance["weights_digest"] == version(1).tags["weights_digest"]


# -- models:/NAME@ALIAS in other commands ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_command_takes_the_champion(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = "--checkpoint_name=models:/shapes@champion"
    assert main(COMMANDS, "", ["data", "data_loading=shapes", "--export_images"]) == 0
    images = next(path for path in here.rglob("test") if path.is_dir() and path.parent.name == "shapes")
    photos = here / "photos"
    photos.mkdir()
    for number, file in enumerate(sorted(images.rglob("*.png"))[:8]):
        shutil.copy(file, photos / f"{number}.png")
    infer = ["infer", f"--test_dir={photos}", named]
    assert main(COMMANDS, "", [*infer, "--receipts", "--output=rows.csv"]) == 0
    assert main(COMMANDS, "", ["verify", "rows.csv"]) == 0  # a run in models/ has the same weights
    assert main(COMMANDS, "", ["verify", "rows.csv", named]) == 0
    assert main(COMMANDS, "", [*infer, "--engine=onnx", "--output=onnx.csv"]) == 0
    assert main(COMMANDS, "", ["evaluate", named, "--report=false"]) == 0
    assert main(COMMANDS, "", ["evaluate", named, "--output=measured"]) == 0
    assert main(COMMANDS, "", ["export", named, "--formats=safetensors", "--output=exported"]) == 0
    assert Path("exported/model.safetensors").is_file()
    assert main(COMMANDS, "", ["benchmark", named, "--engines=torch,onnx", "--output=speed"]) == 0
    assert Path("speed/engines.json").is_file()
    capsys.readouterr()
    for command in (["evaluate"], ["export"], ["benchmark"]):
        assert main(COMMANDS, "", [*command, named]) == 2
        assert "--output=DIR" in capsys.readouterr().err
    ray = pytest.importorskip("ray")
    assert main(COMMANDS, "", ["batch", f"--test_dir={photos}", named, "--output=rows.parquet", "--workers=1"]) == 0
    ray.shutdown()
    assert Path("rows.parquet").is_file()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_mlflow_serves_the_champion_from_its_files_alone(here: Path) -> None:
    with Image.open(io.BytesIO(encode(picture(1, 40), "PNG"))) as photo:
        [expected] = cifar10.load("good", engine="onnx").predict([photo])
    shutil.rmtree(here / "models")
    with serving("models:/shapes@champion", f"sqlite:///{here}/registry/mlflow.db", here / "registry") as address:
        [answer] = answered(address, [encode(picture(1, 40), "PNG")])
    assert answer["class_name"] == expected.class_name
    assert answer["probability"] == pytest.approx(expected.top[0].probability, abs=1e-5)
