"""The walk of `demo`: the whole job on drawn shapes, in about a minute and without a download."""

import shutil
import sys
import time
from pathlib import Path

from PIL import Image

from cifar10.build import build
from cifar10.compose import load_config
from cifar10.data.contract import DataSet
from cifar10.infer import Summary, infer
from cifar10.targets import DATA
from cifar10.train import train

_IMAGES_PER_CLASS = 10
_IMAGES = Path("data/demo")


def demo() -> None:
    """Train, test, save and track a small network, classify a folder with it, and say what was made."""
    name = f"demo-{time.strftime('%Y%m%d-%H%M%S')}"
    config = load_config(["experiment=demo", f"run_name={name}"])
    _headline("1/3  train and test: python commands.py train experiment=demo")
    scores = train(config)
    _headline(f"2/3  draw images to classify: {_IMAGES}/")
    num_images = _draw_images(build(DATA, config.data_loading), _IMAGES)
    predictions = Path(config.models_dir) / name / "predictions.csv"
    _headline(
        f"3/3  classify them: python commands.py infer --test_dir {_IMAGES} --checkpoint_name {name} "
        f"--output {predictions}"
    )
    summary = infer(
        test_dir=str(_IMAGES),
        checkpoint_name=name,
        output=str(predictions),
        output_format=None,
        top_k=3,
        batch_size=None,
        tta=None,
        device="auto",
    )
    _last_screen(name, Path(config.models_dir) / name, scores["test/accuracy_tta"], num_images, summary)


def _draw_images(data: DataSet, folder: Path) -> int:
    """Write some test images as FOLDER/CLASS/NUMBER.png; return how many."""
    shutil.rmtree(folder, ignore_errors=True)
    num_images = 0
    for label, class_name in enumerate(data.class_names):
        (folder / class_name).mkdir(parents=True)
        for index in (data.test.labels == label).nonzero().flatten()[:_IMAGES_PER_CLASS].tolist():
            pixels = data.test.images[index].permute(1, 2, 0).contiguous().numpy()
            Image.fromarray(pixels).save(folder / class_name / f"{index:04d}.png")
            num_images += 1
    return num_images


def _headline(text: str) -> None:
    print(f"\n== {text}", file=sys.stderr, flush=True)


def _last_screen(name: str, folder: Path, accuracy: float, num_images: int, summary: Summary) -> None:
    right = "" if summary.accuracy is None else f", {summary.accuracy:.0%} of them rightly"
    print(
        f"""
It works. A small network learnt ten drawn shapes ({accuracy:.1%} of unseen ones right)
and named {num_images} images{right}.

  {folder}/best.ckpt              the network; it carries its configuration, classes and origin
  {folder}/scores.json            every score, with seed, versions and machine
  {folder}/curves.png             how it learnt; confusion.png: what it mixes up
  {folder}/predictions.csv        a row for each image in {_IMAGES}/

Next:
  .venv/bin/mlflow ui --backend-store-uri sqlite:///mlruns/mlflow.db     see the run in a browser
  .venv/bin/python commands.py config                                    see every setting and where it comes from
  .venv/bin/python commands.py train                                     the real thing: CIFAR-10 (downloads 163 MB)
  .venv/bin/python commands.py infer --test_dir DIR --checkpoint_name {name}""",
        flush=True,
    )
