"""I4: the same images, classified by each engine and over HTTP."""

import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pyarrow.parquet as pq
import requests
from numpy.typing import NDArray
from onnx import numpy_helper
from PIL import Image

from cifar10.inference.seal import sealed
from tests.conftest import SHARED_DATA
from tests.faults.experiment import Experiment, Trial, sample
from tests.faults.forked_commands import forked_commands
from tests.faults.hostile_images import read_rows
from tests.faults.program import run_program
from tests.serving.http.serving_process import serving

_REFERENCE = "eager"
_BF16 = "torch in bfloat16"
_ENGINES = ("torch", _BF16, "onnx", "onnx on one image at a time", "native", "onnx_int8", "native_int8")
_HTTP = {"HTTP, single images": 1, "HTTP, 64 images": 64}
_INTEGERS = ("onnx_int8", "native_int8")
_OTHER_PRECISION = (_BF16, "native", *_INTEGERS)
_TOLERANCE = 1e-4
_MOST_LOST = 0.001  # of the accuracy, by engines of another precision
_NETWORK = ("model=speed", "model.widths=[32,64,64]", "training.precision=fp32", "tracking=none", "run_name=it")
_ON_SHAPES = (
    *("experiment=demo", "training.epochs=4", "training.batch_size=50"),
    *("data_loading.train_size=600", "data_loading.test_size=300", "data_loading.image_size=24"),
)
_ON_CIFAR10 = ("data_loading=cifar10", "training.epochs=4", "training.batch_size=1000")
_PLACES = {True: "data/test", False: "data/shapes/test"}


class Answers(NamedTuple):
    names: list[str]
    classes: list[str]
    probabilities: NDArray[np.float64]
    """Of those classes."""
    precision: str = "fp32"


class Scene(NamedTuple):
    folder: Path
    images: str
    reference: Answers


def make_scene(folder: Path, names: Sequence[str], is_whole: bool = False) -> Scene:
    """Train a network, export what the engines of these `names` read, and classify the test images with the reference.

    Args:
        folder: An empty one.
        names: Of engines, as in the trials.
        is_whole: Take CIFAR-10, where its files are at hand, with its 10,000 test images.
    """
    is_real = is_whole and (SHARED_DATA / "unpack.py").exists()
    if is_real:
        (folder / "data").mkdir()
        unpack = [sys.executable, str(SHARED_DATA / "unpack.py"), str(folder / "data")]
        subprocess.run(unpack, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    recipe = _ON_CIFAR10 if is_real else _ON_SHAPES
    _prepare(folder, is_real, "train", *recipe, *_NETWORK)
    formats = {name.partition(" ")[0].replace("HTTP,", "onnx") for name in names} & {"onnx", *_INTEGERS}
    for exported in formats:  # integers are refused where they lose too much
        _prepare(folder, is_real, "export", "it", f"--formats={exported}", may_fail=exported in _INTEGERS)
    data = [word for word in recipe if word.startswith(("data_loading", "experiment"))]
    _prepare(folder, is_real, "data", *data, "--export_images")
    images = _PLACES[is_real]
    reference = classified(folder, images, f"--engine={_REFERENCE}")
    if isinstance(reference, str):
        raise RuntimeError(reference)
    return Scene(folder, images, reference)


def _prepare(folder: Path, is_long: bool, *words: str, may_fail: bool = False) -> None:
    """Run a command, in a fork unless it takes long."""
    if is_long:
        done = run_program(folder, *words)
        exit_code, stderr = done.returncode, done.stderr
    else:
        forked = forked_commands().run(words, folder)
        exit_code, stderr = forked.exit_code, forked.stderr
    if exit_code and (not may_fail or "Traceback" in stderr):
        raise RuntimeError(f"{words}: {stderr}")


def classified(folder: Path, images: str, *words: str, checkpoint: str = "it") -> Answers | str:
    """Return what `infer` says, or why it refuses."""
    output = folder / "rows.parquet"
    line = ["infer", f"--test_dir={images}", f"--checkpoint_name={checkpoint}", "--tta=none", f"--output={output}"]
    done = run_program(folder, *line, *words)
    if done.returncode:
        return done.stderr.splitlines()[-1]
    rows, precision = read_rows(output), pq.read_schema(output).metadata[b"cifar10.precision"].decode()
    output.unlink()
    return _answers(rows, "path")._replace(precision=precision)


def _answers(rows: Sequence[dict[str, Any]], name: str) -> Answers:
    probabilities = np.array([row["probability"] for row in rows], np.float64)
    return Answers([row[name] for row in rows], [row["class_name"] for row in rows], probabilities)


def classified_over_http(scene: Scene, at_once: int) -> Answers:
    rows: list[dict[str, Any]] = []
    words = ["--checkpoint_name=it", "--tta=none", "serving.drift=null"]
    with serving(scene.folder, *words) as served, requests.Session() as session:
        for start in range(0, len(scene.reference.names), at_once):
            names = scene.reference.names[start : start + at_once]
            files = [("images", (name, (scene.folder / scene.images / name).read_bytes())) for name in names]
            answer = session.post(f"{served.url}/predict", files=files, timeout=60)
            answer.raise_for_status()
            rows += answer.json()["images"]
    return _answers(rows, "name")


def compared(name: str, answers: Answers | str, reference: Answers) -> Trial:
    """Return a trial with the flips and what was lost; one that was not made, if this machine lacks the engine."""
    number = len(reference.names)
    if isinstance(answers, str):
        is_known = name in _OTHER_PRECISION and ("engine=" in answers or "has not been exported" in answers)
        return Trial(name, obstacle=answers) if is_known else Trial(name, answers)
    if name == _BF16 and answers.precision == "fp32":
        return Trial(name, obstacle="this processor computes it in fp32")
    if answers.names != reference.names:
        return Trial(name, "other images")
    pairs = enumerate(zip(answers.classes, reference.classes, strict=True))
    flips = [index for index, (found, expected) in pairs if found != expected]
    labels = [Path(path).parts[0] for path in reference.names]
    right, expected = (np.mean([a == b for a, b in zip(x.classes, labels, strict=True)]) for x in (answers, reference))
    apart = float(np.abs(answers.probabilities - reference.probabilities).max())
    listed = ", ".join(reference.names[index] for index in flips[:10])
    flipped = f"{len(flips)} flips{': ' * bool(flips)}{listed}"
    fault = f"{name} ({answers.precision}): {number:,} images, accuracy {right:.4f}, {apart:.1e} apart, {flipped}"
    if name in _OTHER_PRECISION:
        lost = expected - right
        return Trial(fault, f"{lost:.4f} of the accuracy lost" if lost > max(_MOST_LOST, 1.5 / number) else "")
    return Trial(fault, "other answers" if flips or apart > _TOLERANCE else "")


def compare_engines(number: int, folder: Path) -> Iterator[Trial]:
    every = [*_ENGINES, *_HTTP]
    names = sample(every, number)
    scene = make_scene(folder, names, is_whole=number == len(every))
    for name in names:
        if name in _HTTP:
            yield compared(name, classified_over_http(scene, _HTTP[name]), scene.reference)
        else:
            words = [f"--engine={name.partition(' ')[0]}", *(["--batch_size=1"] if "one image" in name else [])]
            checkpoint = _of_bf16(folder) if name == _BF16 else "it"
            yield compared(name, classified(folder, scene.images, *words, checkpoint=checkpoint), scene.reference)


def _of_bf16(folder: Path) -> str:
    """Write the checkpoint as if it had been trained in bfloat16, and return its name."""
    import torch

    content = torch.load(folder / "models/it/best.ckpt", weights_only=True)
    content["cifar10"]["config"]["training"]["precision"] = "bf16"
    torch.save(content, folder / "models/bf16.ckpt")
    return "bf16"


def compare_wrong_engines(number: int, folder: Path) -> Iterator[Trial]:
    """Compare engines that read blue for red, or have one other bit in a weight."""
    scene = make_scene(folder, ["onnx"])
    _swap_channels(folder / scene.images, folder / "swapped")
    yield compared("onnx, swapped channels", classified(folder, "swapped", "--engine=onnx"), scene.reference)
    for index in range(number - 1):
        _flip_bit(folder / "models/it/export/model.onnx", folder / f"flipped_{index}.onnx", index)
        found = classified(folder, scene.images, checkpoint=f"flipped_{index}.onnx")
        yield compared(f"onnx, a bit of weight {index}", found, scene.reference)


def _swap_channels(images: Path, target: Path) -> None:
    shutil.copytree(images, target)
    for file in target.rglob("*.png"):
        Image.fromarray(np.ascontiguousarray(np.asarray(Image.open(file))[:, :, ::-1])).save(file)


def _flip_bit(source: Path, target: Path, index: int) -> None:
    """Write the model with the highest bit of an exponent turned over, in one weight of its `index`-th convolution."""
    model = onnx.load(source)
    weights = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 4]
    tensor = weights[index % len(weights)]
    values = numpy_helper.to_array(tensor).copy()
    values.view(np.uint32).reshape(-1)[0] ^= 1 << 30
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    target.write_bytes(sealed(model.SerializeToString()))


AGREEING_ENGINES = Experiment(
    row="I4",
    name="agreeing_engines",
    claim="fp32 engines: the same classes, probabilities within 1e-4; integers and bfloat16: within 0.1 points",
    run=compare_engines,
    short=2,
    full=len(_ENGINES) + len(_HTTP),
    control=compare_wrong_engines,
)
