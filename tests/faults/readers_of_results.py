"""The commands that read what an earlier command has measured, registered, begun or left unfinished."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx

from cifar10.config.compose import load_config
from cifar10.formats import Source
from cifar10.formats.native_int8 import NativeInt8Format
from cifar10.inference.description import KEY, ModelDescription
from cifar10.inference.destination import partial_path
from cifar10.laboratory.folder import open_laboratory
from cifar10.runs.checkpoints import load_checkpoint
from cifar10.serving.corrections import CorrectionStore
from tests.faults.reader import Reader
from tests.faults.trained_folder import EXPORTED, IMAGES, run
from tests.formats.test_native_int8 import OBSTACLE, WIDTHS
from tests.laboratory.test_laboratory import TINY as LABORATORY
from tests.serving.test_corrections import correct, encoded
from tests.tiny_run import TINY

_PROGRAM = Path(__file__).resolve().parents[2] / "commands.py"
_MLFLOW = ("mlflow", "mlflow.tracking", "cifar10.runs.mlflow_store")
_CACHE = {"XDG_CACHE_HOME": "cache"}
_LISTED = ["infer", "--test_dir=list.txt", "--checkpoint_name=tiny", "--batch_size=1", "--output=rows.csv"]
_ON_IMAGES = ["infer", f"--test_dir={IMAGES}"]
_FASTEST = [*_ON_IMAGES, "--checkpoint_name=tiny", "--engine=auto"]
_RANGES = "models/eight/export/native_int8.json"
_NATIVE = [*_ON_IMAGES, "--checkpoint_name=eight", "--engine=native_int8"]
_SWEEP = [
    "sweep",
    *TINY,
    "model.width=4",
    "training.epochs=1",
    "data_loading.train_size=20",
    "sweep=space.yaml",
    "--study=few",
]
_COMPARISON = ["compare_pooling", *LABORATORY, "optimizer.lr=0.5", "--resume"]
_FEEDBACK = ["feedback", "--store=corrections.db"]
_REGISTERED = [*_ON_IMAGES, "--checkpoint_name=models:/shapes@champion"]
_PROMOTE = ["promote", "tiny", "--name=shapes", "promotion.latency_images=10", "promotion.floor=0.01"]
_SPACE = "parameters:\n  optimizer.lr: {low: 1e-3, high: 0.1, log: true}\ntrials: 1\n"
_KEPT_ROWS = 5


def _interrupted(folder: Path) -> None:
    """Kill a run when it has written some of its rows."""
    paths = sorted((folder / IMAGES).rglob("*.png"))
    (folder / "list.txt").write_text("".join(f"{path.relative_to(folder)}\n" for path in 20 * paths), encoding="utf-8")
    rows = partial_path(folder / "rows.csv")
    with subprocess.Popen([sys.executable, _PROGRAM, *_LISTED], cwd=folder, stderr=subprocess.DEVNULL) as process:
        while not rows.exists() or rows.read_bytes().count(b"\n") <= _KEPT_ROWS:
            assert process.poll() is None
            time.sleep(0.002)
        process.kill()
    assert not (folder / "rows.csv").exists()


def _weights_beside(folder: Path) -> None:
    """Export a file as versions without seals did, and put its weights into another file, as `onnx` can."""
    run(folder, "export", "tiny")
    model = onnx.load(folder / EXPORTED)
    [entry] = [entry for entry in model.metadata_props if entry.key == KEY]
    description = ModelDescription.parse(entry.value, EXPORTED).model_copy(update={"format": 1})
    onnx.helper.set_model_props(model, {KEY: description.model_dump_json()})
    onnx.save_model(model, folder / "linked.onnx", save_as_external_data=True, location="linked.bin", size_threshold=0)


def _swept(folder: Path) -> None:
    (folder / "space.yaml").write_text(_SPACE, encoding="utf-8")
    run(folder, *_SWEEP)


def _corrections(folder: Path) -> None:
    for seed in range(5):
        correct(CorrectionStore(folder / "corrections.db"), encoded(seed), "cat")


def _begun_comparison(folder: Path) -> None:
    config = load_config([*LABORATORY, f"models_dir={folder / 'models'}"])
    open_laboratory(config, must_exist=False).claim.release()


def _trained_for_integers(folder: Path) -> None:
    run(folder, "train", *TINY, f"model.widths={WIDTHS}", "model=speed", "training.precision=fp32", "run_name=eight")
    checkpoint = load_checkpoint(folder / "models/eight/best.ckpt")
    images = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), np.uint8)
    ranges = folder / _RANGES
    ranges.parent.mkdir()
    NativeInt8Format(percentiles=[100.0], num_images=40).write(Source(checkpoint, images, images, images), ranges)


def _compiled(folder: Path) -> None:
    _trained_for_integers(folder)
    run(folder, *_NATIVE, environment=_CACHE)


def _measured(folder: Path) -> None:
    run(folder, *_FASTEST, environment=_CACHE)


def _registered(folder: Path) -> None:
    run(folder, "export", "tiny", "--register=shapes@champion")


def _promoted(folder: Path) -> None:
    run(folder, *_PROMOTE)


def _recorded(folder: Path) -> None:
    run(folder, "sync", "tiny")


READERS_OF_RESULTS: dict[str, Reader] = {
    "the rows of an interrupted run": Reader("rows.csv.partial", [*_LISTED, "--resume"], _interrupted, False),
    "ranges of 8-bit integers": Reader(_RANGES, _NATIVE, _trained_for_integers, obstacle=lambda: OBSTACLE or ""),
    "compiled kernels": Reader(
        "cache/cifar10/kernels/*.o",
        _NATIVE,
        _compiled,
        environment=_CACHE,
        obstacle=lambda: OBSTACLE or "",
    ),
    "measured engines": Reader("cache/cifar10/engines/*.json", _FASTEST, _measured, False, environment=_CACHE),
    "weights beside an ONNX file": Reader(
        "linked.bin", [*_ON_IMAGES, "--checkpoint_name=linked.onnx"], _weights_beside, works=False
    ),
    "the database of a study": Reader("models/few/study.db", [*_SWEEP, "--resume"], _swept, False),
    "a search space": Reader("space.yaml", [*_SWEEP, "--resume"], _swept),
    "the settings of a comparison": Reader(
        "models/small/laboratory/settings.yaml", _COMPARISON, _begun_comparison, works=False
    ),
    "corrections to export": Reader("corrections.db", [*_FEEDBACK, "--output=corrected"], _corrections, False),
    "the description of a registered model": Reader("mlruns/**/MLmodel", _REGISTERED, _registered, packages=_MLFLOW),
    "the checkpoint of a registered model": Reader("mlruns/**/*.ckpt", _REGISTERED, _registered, packages=_MLFLOW),
    "the numbers of a promotion": Reader(
        "models/tiny/promotion.json", _PROMOTE, _promoted, is_checked=False, packages=_MLFLOW
    ),
    "the numbers of an evaluation": Reader(
        "models/tiny/evaluation/report.json", _PROMOTE, _promoted, is_checked=False, packages=_MLFLOW
    ),
    "the numbers of a repeated promotion": Reader(
        "models/tiny/promotion.json", [*_PROMOTE, "--dry_run", "--alias=other"], _promoted, False, packages=_MLFLOW
    ),
    "the id of a run in MLflow": Reader("models/tiny/run_id", ["sync", "tiny"], _recorded, False, packages=_MLFLOW),
    "the data set of exported images": Reader(
        "data/shapes/test/.digest", ["data", *TINY, "--export_images"], is_checked=False
    ),
}
"""By what the file is."""
