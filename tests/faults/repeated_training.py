"""R1: the same run again, in other processes and under other circumstances."""

import csv
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.faults.experiment import Experiment, Trial, sample
from tests.faults.forked_commands import forked_commands
from tests.faults.program import run_program
from tests.malformed import encode, picture
from tests.tiny_run import TINY

_CLASSES = ("ant", "bee", "cat")
_FEW = (*(word for word in TINY if word != "tracking=none"), "training.threads=1", "training.epochs=3")
_OF_FOLDERS = [word for word in _FEW if not word.startswith("data_loading.")]
RECIPES: dict[str, Sequence[str]] = {
    "AdamW, dropout, strong augmentation": (*_FEW, "model.width=4", "model.dropout=0.3", "augmentation=strong"),
    "Muon, bfloat16, hard-example mining": (
        *(*_FEW, "model=speed", "model.widths=[4,4,4]", "optimizer=muon", "schedule=linear"),
        *("training.precision=bf16", "selection=hardest", "selection.widths=[4,4,4]"),
    ),
    "SGD, averaged weights, mixup": (
        *(*_FEW, "model=resnet18", "model.width=4", "optimizer=sgd", "schedule=cosine"),
        *("training.ema_decay=0.9", "augmentation.mixup=0.2"),
    ),
    "class folders": (
        *(*_OF_FOLDERS, "data_loading=folder", "data_loading.root=pictures", "data_loading.image_size=16"),
        *("model=simple_cnn", "model.width=4"),
    ),
}


class Circumstances(NamedTuple):
    """What differs from the first run, and must not matter."""

    words: Sequence[str] = ()
    before: Sequence[str] = ()
    """Words of a program that starts the run; without them, a process trains that has imported the program before."""
    backwards: bool = False
    """Whether files of class folders are written in another order, with other times."""


OTHERS = {
    "again": Circumstances(before=["env"]),
    "saved after each epoch": Circumstances(["training.save_every_seconds=null"]),
    "saved all the time": Circumstances(["training.save_every_seconds=1e-9"]),
    "Lightning's own loop": Circumstances(["training.chunk_seconds=0"]),
    "chunks of one step": Circumstances(["training.chunk_seconds=1e-9"]),
    "chunks of a minute": Circumstances(["training.chunk_seconds=60"]),
    "recorded by MLflow": Circumstances(["tracking=mlflow"]),
    "with TensorBoard": Circumstances(["tracking.tensorboard=true"]),
    "one processor, hashes and locale": Circumstances(
        before=["env", "PYTHONHASHSEED=7", "LC_ALL=C", "TZ=Asia/Tokyo", "taskset", "-c", "0"]
    ),
    "files in another order": Circumstances(backwards=True),
}


def kinds() -> list[str]:
    of_files = "files in another order"
    return [f"{recipe}: {other}" for recipe in RECIPES for other in OTHERS if other != of_files or "folders" in recipe]


def train_again(number: int, folder: Path) -> Iterator[Trial]:
    """Train each recipe again under all circumstances, or, where fewer are enough, the first recipe under some."""
    every = kinds()
    yield from _compared(every if number == len(every) else sample(every[: len(OTHERS) - 1], number), folder, ())


def train_with_another_seed(number: int, folder: Path) -> Iterator[Trial]:
    yield from _compared(kinds()[:number], folder, ["seed=1"])


def _compared(chosen: Sequence[str], folder: Path, words: Sequence[str]) -> Iterator[Trial]:
    """Train each recipe once, and once more for each kind with other `words`; the results must be the same."""
    first: dict[str, dict[str, Any]] = {}
    for kind in chosen:
        recipe, _, other = kind.partition(": ")
        if recipe not in first:
            first[recipe] = _trained(folder / "first", RECIPES[recipe], Circumstances())
        changed = OTHERS[other]._replace(words=[*OTHERS[other].words, *words])
        again = _trained(folder / "again", RECIPES[recipe], changed)
        differing = [key for key in first[recipe] if first[recipe][key] != again.get(key)]
        yield Trial(kind, f"other values of {', '.join(differing)}" if differing else "")


def _trained(folder: Path, recipe: Sequence[str], circumstances: Circumstances) -> dict[str, Any]:
    """Return the digest of the weights, the scores and the learning curve of a run in a folder of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    _write_pictures(folder / "pictures", circumstances.backwards)
    words = [*recipe, "training.monitor=null", "run_name=it", *circumstances.words]
    words += [] if "tracking=mlflow" in words else ["tracking=none"]
    if circumstances.before:
        done = run_program(folder, "train", *words, before=circumstances.before)
        exit_code, stderr = done.returncode, done.stderr
    else:
        forked = forked_commands().run(["train", *words], folder)
        exit_code, stderr = forked.exit_code, forked.stderr
    if exit_code:
        raise RuntimeError(f"training failed: {stderr}")
    run = folder / "models" / "it"
    scores = json.loads((run / "scores.json").read_text())
    with (run / "history.csv").open(newline="") as file:
        history = [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]
    kept = {key: value for key, value in scores.items() if key.startswith(("test/", "train/", "weights", "data"))}
    return {**kept, "history": history}


def _write_pictures(root: Path, backwards: bool) -> None:
    """Write 36 images in folders of three classes, each class in its own colour."""
    names = [(index, name, number) for index, name in enumerate(_CLASSES) for number in range(12)]
    for index, name, number in reversed(names) if backwards else names:
        pixels = picture(100 * index + number, 20)
        pixels[:, :, index] //= 2
        file = root / name / f"{number:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode(pixels, "PNG"))
        if backwards:
            os.utime(file, (number, number))


REPEATED_TRAINING = Experiment(
    row="R1",
    name="repeated_training",
    claim="the same seed gives the same weights, scores and learning curve, bit by bit",
    run=train_again,
    short=2,
    full=len(kinds()),
    control=train_with_another_seed,
    obstacle=lambda: "" if shutil.which("taskset") else "needs taskset",
)
