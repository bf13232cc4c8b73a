"""Entry point of `demo`: the whole job on drawn shapes, in about a minute and without a download."""

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
from cifar10.images.search import ImageSearch
from cifar10.infer import Summary, infer
from cifar10.inference.destination import choose_destination
from cifar10.inference.request import InferenceRequest
from cifar10.train import train
from cifar10.wording import counted

_IMAGES_PER_CLASS = 10


def demo() -> None:
    """Train, test, save and track a small network, classify a folder with it, and say what was made.

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
    summary = infer(InferenceRequest(ImageSearch(str(images)), folder / "best.ckpt", destination, top_k=3))
    print(_what_was_made(folder, images, scores["test/accuracy_tta"], num_images, summary))
    print(_what_to_type(images, config.tracking.uri), flush=True)


def _new_folder(parent: Path) -> Path:
    """Make a folder that is this demo's alone: nothing that lies there before is overwritten or removed."""
    name = f"demo-{time.strftime('%Y%m%d-%H%M%S')}"
    for number in count(1):
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:  # another demo began in the same second
            continue
        except OSError as error:
            where = Path.cwd() / folder
            raise UserError(
                f"{where} cannot be made ({error.strerror}); start the demo where files may be written"
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


def _what_was_made(folder: Path, images: Path, accuracy: float, num_images: int, summary: Summary) -> str:
    right = "" if summary.accuracy is None else f", {summary.accuracy:.0%} of them rightly"
    return f"""
It works. A small network learnt ten drawn shapes ({accuracy:.1%} of unseen ones right)
and named {counted(num_images, "image")}{right}.

  {folder}/best.ckpt              the network; it carries its configuration, classes and origin
  {folder}/scores.json            every score, with seed, versions and machine
  {folder}/curves.png             how it learnt; confusion.png: what it mixes up
  {folder}/predictions.csv        a row for each image in {images}/"""


def _what_to_type(images: Path, tracking_uri: str) -> str:
    program = _typed_program()
    lines = [
        ("see every setting and where it comes from", f"{program} config"),
        (f"the real thing: CIFAR-10 ({CIFAR10_ARCHIVE.size / 1e6:.0f} MB to fetch)", f"{program} train run_name=first"),
        ("name the images of any folder", f"{program} infer --test_dir={images} --checkpoint_name={images.name}"),
    ]
    if tracking_uri.startswith("sqlite:"):
        browser = f"{_beside_python('mlflow')} ui --backend-store-uri {shlex.quote(tracking_uri)}"
        lines.insert(0, ("see the run in a browser, at http://127.0.0.1:5000", browser))
    typed = [f"  # {what}\n  {line}" for what, line in lines]
    return "\n".join(["", f"Next, in {shlex.quote(str(Path.cwd()))}:", *typed])


def _typed_program() -> str:
    """Return what to type for this program here, whether or not its environment has been entered."""
    if PROGRAM != "python commands.py":
        return PROGRAM
    return f"{_beside_python(Path(sys.executable).name)} {shlex.quote(os.path.relpath(_COMMANDS))}"


def _beside_python(name: str) -> str:
    """Return the path of a program of this Python's environment, relative where it lies below the current folder."""
    path = Path(sys.executable).with_name(name)
    return shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))


_COMMANDS = Path(__file__).resolve().parent.parent / "commands.py"
