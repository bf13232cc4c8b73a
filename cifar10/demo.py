"""Entry point of `demo`: all steps on generated images, in about a minute and without a download."""

import os
import shlex
import sys
import time
from itertools import count
from pathlib import Path

from PIL import Image

from cifar10.config.advice import PROGRAM
from cifar10.config.build import build
from cifar10.config.compose import load_config
from cifar10.config.targets import DATA
from cifar10.constants import CIFAR10_ARCHIVE
from cifar10.data.image_dataset import ImageDataset
from cifar10.errors import UserError
from cifar10.images.sources import open_source
from cifar10.infer import infer
from cifar10.inference.destination import choose_destination
from cifar10.inference.request import InferenceRequest
from cifar10.train import train
from cifar10.wording import counted

_IMAGES_PER_CLASS = 10
_COMMANDS = Path(__file__).resolve().parent.parent / "commands.py"


def demo() -> None:
    """Train, test, save and track a small network, classify a folder with it, and print the files and next commands.

    Raises:
        UserError: A folder cannot be written.
    """
    images = _new_folder(Path("data"))
    name = images.name
    config = load_config(["experiment=demo", f"run_name={name}"])
    folder = Path(config.models_dir) / name
    _headline(f"1/3  train and test: {PROGRAM} train experiment=demo")
    scores = train(config)
    _headline(f"2/3  draw images to classify: {images}/")
    num_images = _draw_images(build(DATA, config.data_loading), images)
    predictions = folder / "predictions.csv"
    _headline(
        f"3/3  classify them: {PROGRAM} infer --test_dir={images} --checkpoint_name={name} --output={predictions}"
    )
    destination = choose_destination(str(predictions), None)
    summary = infer(InferenceRequest(open_source(str(images)), folder / "best.ckpt", destination, top_k=3))
    correct = "" if summary.accuracy is None else f", {summary.accuracy:.0%} of them correctly"
    print(f"""
It works. A small network was trained on ten drawn shapes (test accuracy {scores["test/accuracy_tta"]:.1%})
and has classified {counted(num_images, "image")}{correct}.

  {folder}/best.ckpt              the network, with its configuration, classes and origin
  {folder}/scores.json            every score, with seed, versions and machine
  {folder}/curves.png             the learning curves; confusion.png: the confusion matrix
  {folder}/predictions.csv        a row for each image in {images}/""")
    print(_next_commands(images, config.tracking.uri), flush=True)


def _new_folder(parent: Path) -> Path:
    """Create a new folder, so that no existing file is overwritten or removed."""
    name = f"demo-{time.strftime('%Y%m%d-%H%M%S')}"
    for number in count(1):
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:  # another demo began in the same second
            continue
        except OSError as error:
            raise UserError(
                f"{Path.cwd() / folder} cannot be made ({error.strerror}); start the demo in a writable folder"
            ) from None
    raise AssertionError


def _draw_images(data: ImageDataset, folder: Path) -> int:
    """Write some test images as FOLDER/CLASS/NUMBER.png; return how many."""
    num_images = 0
    for label, class_name in enumerate(data.class_names):
        (folder / class_name).mkdir()
        for index in (data.test.labels == label).nonzero().flatten()[:_IMAGES_PER_CLASS].tolist():
            pixels = data.test.images[index].permute(1, 2, 0).contiguous().numpy()
            Image.fromarray(pixels).save(folder / class_name / f"{index:04d}.png")
            num_images += 1
    return num_images


def _headline(text: str) -> None:
    print(f"\n== {text}", file=sys.stderr, flush=True)


def _next_commands(images: Path, tracking_uri: str) -> str:
    program = PROGRAM
    if program == "python commands.py":  # with paths, since the environment may not be activated
        program = f"{_beside_python(Path(sys.executable).name)} {shlex.quote(os.path.relpath(_COMMANDS))}"
    lines = [
        ("see every setting and where it comes from", f"{program} config"),
        (f"train on CIFAR-10 ({CIFAR10_ARCHIVE.size / 1e6:.0f} MB to fetch)", f"{program} train run_name=first"),
        ("classify the images of any folder", f"{program} infer --test_dir={images} --checkpoint_name={images.name}"),
    ]
    if tracking_uri.startswith("sqlite:"):
        browser = f"{_beside_python('mlflow')} ui --backend-store-uri {shlex.quote(tracking_uri)}"
        lines.insert(0, ("see the run in a browser, at http://127.0.0.1:5000", browser))
    typed = [f"  # {purpose}\n  {line}" for purpose, line in lines]
    return "\n".join(["", f"Next, in {shlex.quote(str(Path.cwd()))}:", *typed])


def _beside_python(name: str) -> str:
    """Return the path of a program of this Python's environment, relative if it is below the current folder."""
    path = Path(sys.executable).with_name(name)
    return shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))
