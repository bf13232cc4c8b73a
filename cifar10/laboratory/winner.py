"""Keep the winner of a comparison as an ordinary run, and check in a process of its own what was kept.

`check_winner` starts the process: `python -P -m cifar10.laboratory.winner FOLDER`. It loads the checkpoint, computes
the test images, exports the network to ONNX, which is compared with the checkpoint on all of them, and computes them
again.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from cifar10.analysis.figures import save_figures
from cifar10.analysis.pooling_results import SeedResult
from cifar10.errors import UserError
from cifar10.export import export
from cifar10.files import link_or_copy
from cifar10.formats.parity import all_probabilities
from cifar10.inference.engines import load_model
from cifar10.laboratory.evaluation import predict
from cifar10.laboratory.folder import LABORATORY
from cifar10.runs.checkpoint_names import BEST, LAST
from cifar10.runs.checkpoints import load_checkpoint
from cifar10.runs.folder import CONFIG, HISTORY, SCORES
from cifar10.runs.trained_data import load_trained_data

_KEPT = (BEST, LAST, CONFIG, HISTORY, SCORES)
_MOST_SECONDS = 900


class Checked(TypedDict):
    """What a fresh process found in the winner's folder."""

    weights_digest: str
    predictions_digest: str
    """SHA-256 of the most probable class of each test image, int64."""
    accuracy: float
    """On the test images."""
    onnx_file: str
    onnx_accuracy: float
    num_different: int
    """Test images of which the ONNX file gives another class."""


def keep_winner(winner: SeedResult, labels: NDArray[np.int64], class_names: Sequence[str], folder: Path) -> None:
    """Give `folder` the files of the winner's run, each as a link or a copy, and the pictures that a run has.

    Args:
        winner: Its run is in `folder/laboratory`.
        labels: Of the test images, (N,).
        class_names: K.
        folder: Exists.
    """
    for name in _KEPT:
        link_or_copy(folder / LABORATORY / winner.name / name, folder / name)
    confusion = np.zeros((len(class_names), len(class_names)), np.int64)
    np.add.at(confusion, (labels, winner.predictions["test"]), 1)
    save_figures([dict(epoch) for epoch in winner.history], confusion, class_names, folder)


def check_winner(folder: Path, predictions: NDArray[np.int64], log: Path) -> list[tuple[str, str]]:
    """Return what was checked in a fresh process, and the results.

    Args:
        folder: The winner's run.
        predictions: The most probable class of each test image, as computed here, (N,).
        log: For what the process prints.

    Raises:
        UserError: The process failed, or computed something else.
    """
    command = [sys.executable, "-P", "-m", __name__, str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)}
    with log.open("w", encoding="utf-8") as file:
        try:
            done = subprocess.run(
                command,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                timeout=_MOST_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise UserError(f"checking {folder} took more than {_MOST_SECONDS} seconds; see {log}") from None
    if done.returncode != 0:
        raise UserError(f"{folder} could not be checked; see {log}")
    checked: Checked = json.loads(done.stdout.splitlines()[-1])
    if checked["predictions_digest"] != _digest(predictions):
        raise UserError(f"{folder}/{BEST} gives other classes when it is loaded again; see {log}")
    return [
        ("saved as an ordinary run", str(folder)),
        ("loaded in a fresh process", f"weights {checked['weights_digest'][:12]}"),
        ("test images, computed again", f"{checked['accuracy']:.2%}, the same class for each of {len(predictions):,}"),
        ("exported to ONNX, compared on all test images", checked["onnx_file"]),
        (
            "test images, computed with ONNX Runtime",
            f"{checked['onnx_accuracy']:.2%}, another class for {checked['num_different']}",
        ),
    ]


def _digest(predictions: NDArray[np.int64]) -> str:
    return hashlib.sha256(np.ascontiguousarray(predictions, dtype=np.int64).data).hexdigest()


def _check(folder: Path) -> Checked:
    checkpoint = load_checkpoint(folder / BEST)
    data = load_trained_data(checkpoint, checkpoint.config.data_loading)
    predictions = predict(checkpoint, data)["test"]
    images, labels = data.test.arrays()
    [file] = export(str(folder / BEST), ["onnx"])
    exported = all_probabilities(load_model("onnx", file, "cpu").engine, images, 250).argmax(axis=1)
    return Checked(
        weights_digest=checkpoint.weights_digest,
        predictions_digest=_digest(predictions),
        accuracy=float(np.mean(predictions == labels)),
        onnx_file=str(file),
        onnx_accuracy=float(np.mean(exported == labels)),
        num_different=int(np.sum(exported != predictions)),
    )


if __name__ == "__main__":
    print(json.dumps(_check(Path(sys.argv[1]))))
