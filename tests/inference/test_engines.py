"""Engines by name: measured in turn, the fastest remembered, and compared by `benchmark`."""

import json
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import cifar10
from cifar10 import benchmark as entry
from cifar10.config.compose import load_config
from cifar10.errors import CheckpointError, UsageError, UserError
from cifar10.export import export
from cifar10.files import cache_folder
from cifar10.inference.engines import auto, load_model, measuring
from cifar10.inference.engines.measuring import Measured, measure, seconds_per_batch
from cifar10.train import train
from tests.conftest import ROOT
from tests.tiny_onnx import write_colour_model
from tests.tiny_run import TINY

RUN = Path("models/run")
CANDIDATES = ["torch", "onnx"]


def measured(single: float, many: float, precision: str = "fp32") -> Measured:
    seconds = {"1": single, "256": many}
    return Measured(engine="some 1.0", precision=precision, seconds=seconds, least_seconds=seconds)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a trained and exported run in `models/run`."""
    folder = tmp_path_factory.mktemp("engines")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train(load_config([*TINY, "model.width=8", "run_name=run", "training.precision=fp32"]))
        export("run", ["onnx"])
    return folder


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(trained)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return RUN / "best.ckpt"


@pytest.fixture
def measurements(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Replace the measurement by figures; return the list of what it was called for."""
    calls: list[list[str]] = []

    def figures(path: Path, engines: list[str]) -> dict[str, Measured]:
        calls.append(engines)
        return {"torch": measured(0.002, 0.1), "onnx": measured(0.001, 0.2)}

    monkeypatch.setattr(auto, "measure", figures)
    return calls


def test_the_engine_with_the_least_time_for_the_size_of_the_batch_is_taken() -> None:
    known = {"torch": measured(0.002, 0.1), "onnx": measured(0.001, 0.2), "native": Measured(refused="no AMX")}
    assert auto.fastest(known, 256) == "torch"
    assert auto.fastest(known, 1) == "onnx"


@pytest.mark.parametrize(("seconds", "chosen"), [(0.09, "torch"), (0.08, "onnx_int8")])
def test_an_engine_with_other_answers_must_be_a_fifth_faster(seconds: float, chosen: str) -> None:
    known = {"torch": measured(1, 0.1), "onnx_int8": measured(1, seconds, "int8")}
    assert auto.fastest(known, 256) == chosen


def test_without_a_usable_engine_all_reasons_are_given() -> None:
    with pytest.raises(UserError, match="torch: it is damaged; native: no AMX"):
        auto.fastest({"torch": Measured(refused="it is damaged"), "native": Measured(refused="no AMX")}, 1)


def test_the_explanation_begins_with_the_engine_that_was_taken() -> None:
    known = {"torch": measured(0.002, 0.128), "onnx": measured(0.001, 0.256), "native": Measured(refused="no AMX")}
    explained = "images/s in batches of 1 / 256: onnx 1,000 / 1,000, torch 500 / 2,000\n  native: no AMX"
    assert auto.explanation(known, "onnx") == explained


def test_a_model_is_measured_once_for_each_state_of_its_exported_files(
    here: Path, measurements: list[list[str]]
) -> None:
    model = auto.load(here, "cpu", candidates=CANDIDATES)
    assert model.engine.describe()["engine"].startswith("torch")
    assert auto.load(here, "cpu", batch_size=1, candidates=CANDIDATES).engine.describe()["engine"].startswith("onnx")
    assert measurements == [CANDIDATES]
    os.utime(RUN / "export/model.onnx", ns=(1, 1))
    auto.load(here, "cpu", candidates=CANDIDATES)
    assert len(measurements) == 2


@pytest.mark.parametrize("content", ["", "{", "[]", '{"engines": {"torch": {}}}'])
def test_a_damaged_record_is_measured_again(here: Path, measurements: list[list[str]], content: str) -> None:
    auto.measured_engines(here, CANDIDATES)
    [record] = cache_folder("engines").iterdir()
    whole = record.read_text()
    record.write_text(content)
    assert auto.measured_engines(here, CANDIDATES)["onnx"]["precision"] == "fp32"
    assert len(measurements) == 2 and record.read_text() == whole


def test_an_exported_file_that_is_passed_over_is_named(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(RUN, tmp_path / "run")
    path = tmp_path / "run/best.ckpt"
    (tmp_path / "run/export/model.onnx").write_bytes(b"no model")

    def figures(path: Path, engines: list[str]) -> dict[str, Measured]:
        found = {"torch": measured(0.002, 0.1)}
        for name in ("onnx", "native_int8"):  # damaged, and not exported
            with pytest.raises(UserError) as refused:
                load_model(name, path, "cpu")
            found[name] = Measured(refused=str(refused.value))
        return found

    monkeypatch.setattr(auto, "measure", figures)
    for _ in range(2):  # measured, and remembered
        caplog.clear()
        auto.load(path, "cpu", candidates=["torch", "onnx", "native_int8"])
        warnings = [record.getMessage() for record in caplog.records if "passes over" in record.getMessage()]
        assert len(warnings) == 1
        assert "passes over onnx: " in warnings[0] and "export/model.onnx" in warnings[0]


def test_without_a_place_for_the_record_the_fastest_is_taken_all_the_same(
    here: Path,
    measurements: list[list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert auto.load(here, "cpu", candidates=CANDIDATES).engine.describe()["engine"].startswith("torch")
    assert "will be measured again" in caplog.text


def test_an_exported_file_is_computed_by_the_runtime_that_reads_it(here: Path) -> None:
    assert "onnxruntime" in auto.load(RUN / "export/model.onnx", "cpu").engine.describe()["engine"]


def test_a_file_of_another_state_of_the_checkpoint_is_refused(here: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    (copy / "export").mkdir(parents=True)
    (copy / "export/model.onnx").write_bytes((RUN / "export/model.onnx").read_bytes())
    (copy / "best.ckpt").write_bytes(here.read_bytes())
    assert load_model("onnx", copy / "best.ckpt").description.class_names
    (copy / "best.ckpt").write_bytes((RUN / "last.ckpt").read_bytes() + b"\0")
    with pytest.raises(CheckpointError, match=r"was exported from an earlier best\.ckpt"):
        load_model("onnx", copy / "best.ckpt")
    (copy / "last.ckpt").write_bytes((copy / "best.ckpt").read_bytes())
    (copy / "best.ckpt").write_bytes(here.read_bytes())
    with pytest.raises(CheckpointError, match=r"is of best\.ckpt, not of last\.ckpt; to use it: --chec"):
        load_model("onnx", copy / "last.ckpt")


def test_engines_take_turns_and_get_batches_of_the_size_that_is_asked_for() -> None:
    turns: list[str] = []

    class Counting:
        def __init__(self, name: str) -> None:
            self.name = name

        def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
            assert pixels.shape == (3, 16, 16, 3)
            if turns[-1:] != [self.name]:
                turns.append(self.name)
            return np.zeros((3, 2), np.float32)

        def describe(self) -> dict[str, str]:
            return {}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "_SECONDS_PER_ROUND", 0.001)
        found = seconds_per_batch({"a": Counting("a"), "b": Counting("b")}, image_size=16, batch_size=3)
    assert turns == ["a", "b"] * 7
    assert min(map(len, found.values())) >= 7


@pytest.mark.slow
def test_a_process_of_its_own_measures_and_says_why_an_engine_cannot_compute(here: Path) -> None:
    found = measure(here, ["eager", "onnx", "onnx_int8"], num_threads=1)
    assert "has not been exported" in found["onnx_int8"]["refused"]
    assert {found[name]["precision"] for name in ("eager", "onnx")} == {"fp32"}
    for name in ("eager", "onnx"):
        assert 0 < found[name]["least_seconds"]["1"] <= found[name]["seconds"]["1"] < found[name]["seconds"]["256"]


@pytest.mark.parametrize(
    "damage",
    [
        {},
        [],
        {"torch": None},
        {"torch": {}},
        {"torch": {"refused": 3}},
        {"torch": {"precision": "fp32", "least_seconds": []}},
        *({"torch": {"precision": "fp32", "least_seconds": {"1": 0.1, "256": x}}} for x in (0.0, -1.0, "1", math.nan)),
        {"torch": {"precision": None, "least_seconds": {"1": 0.1, "256": 0.1}}},
        {"torch": {"precision": "fp32", "least_seconds": {"1": 0.1, "256": 0.1, "9": 0.1}}},
    ],
)
def test_what_was_remembered_and_is_damaged_is_measured_again(
    damage: Any, here: Path, measurements: list[list[str]]
) -> None:
    auto.measured_engines(here, CANDIDATES)
    [file] = cache_folder("engines").glob("*.json")
    content = json.loads(file.read_text())
    content["engines"] = {**content["engines"], **damage} if damage else damage
    file.write_text(json.dumps(content))
    found = auto.measured_engines(here, CANDIDATES)
    assert len(measurements) == 2 and auto.fastest(found, 256) == "torch"
    auto.measured_engines(here, CANDIDATES)
    assert len(measurements) == 2


def test_a_dangling_link_among_the_exports_is_no_obstacle(
    here: Path, tmp_path: Path, measurements: list[list[str]]
) -> None:
    (tmp_path / "run/export").mkdir(parents=True)
    (tmp_path / "run/best.ckpt").write_bytes(here.read_bytes())
    (tmp_path / "run/export/model.onnx").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "run/export/native_int8.json")
    assert auto.measured_engines(tmp_path / "run/best.ckpt", CANDIDATES).keys() == set(CANDIDATES)
    assert len(measurements) == 1


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("engine", ["torch", "eager", "native"])
def test_an_onnx_file_is_no_checkpoint_for_the_other_engines(engine: str) -> None:
    with pytest.raises(UsageError, match=rf"engine={engine} computes checkpoints; for .*model\.onnx, choose onnx"):
        load_model(engine, RUN / "export/model.onnx")


@pytest.mark.slow  # starts PyTorch
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_measurement_ends_with_the_process_that_wanted_it(here: Path) -> None:
    words = ["-m", "cifar10.inference.engines.measuring", str(here.absolute()), "--engines=eager", "--threads=1"]
    start = f"p = subprocess.Popen([sys.executable, *{words}])"
    code = f"import subprocess, sys; {start}; print(p.pid, flush=True); p.wait()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        child = Path("/proc", parent.stdout.readline().strip())
        time.sleep(1)
        assert child.exists()
        parent.kill()
    until = time.monotonic() + 60
    while child.exists():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_measurement_that_fails_says_so(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(UserError, match=r"could not be measured: exit code 1"):
        measure(here, ["eager"])


@pytest.mark.slow
def test_benchmark_compares_all_engines_on_the_test_images(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entry, "num_cpus", lambda: 1)  # one process of measurements, not two
    engines = ["auto", "torch", "onnx", "native", "onnx_int8", "native_int8"]
    entry.benchmark("run", engines, output=str(tmp_path / "out"))
    report = json.loads((tmp_path / "out/engines.json").read_text())
    assert set(report["engines"]) == {"eager", "torch", "onnx"}  # no kernels for this network, no integers exported
    assert set(report["refused"]) == {"native", "onnx_int8", "native_int8"}
    scores = json.loads((RUN / "scores.json").read_text())
    for about in report["engines"].values():
        assert about["num_different"] == 0 and about["largest_difference"] < 1e-4
        assert about["accuracy"] == pytest.approx(scores["test/accuracy"])
    assert (tmp_path / "out/engines.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr()
    assert [line.split()[0] for line in printed.out.splitlines()] == ["engine", "eager", "torch", "onnx"]
    assert "\n  native: " in printed.err
    assert "engine=auto: " in printed.err and "native: " in printed.err
    chosen = printed.err.split("engine=auto: ")[1].split(",")[0]
    model = cifar10.load("run", engine="auto")  # remembers
    assert chosen in {"torch", "onnx"} and model.provenance["engine"].startswith(chosen)
    assert "measuring torch, onnx" not in capsys.readouterr().err


def test_onnx_runtime_leaves_nothing_at_home_and_is_quiet(tmp_path: Path) -> None:
    file, home = write_colour_model(tmp_path / "colours.onnx"), tmp_path / "home"
    home.mkdir()
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(ROOT)}
    code = "import sys, pathlib; from cifar10.inference.engines.onnx import load; load(pathlib.Path(sys.argv[1]))"
    words = [sys.executable, "-c", code, str(file)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(home.rglob("*")) == []
