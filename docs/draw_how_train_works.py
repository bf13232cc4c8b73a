"""Draw the calls of `train`, what each returns, and the files it writes. Writes how_train_works.svg.

python docs/draw_how_train_works.py [FILE.svg | FILE.png]
"""

import sys
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

WIDTH, HEIGHT = 10.0, 9.7  # inches; also the units of every position below
_BOX = {"left": 0.2, "width": 4.7, "height": 0.62}
_STRIDE = 0.95  # from one box to the next
_INK, _SOFT, _PAPER, _ACCENT, _DISK = "#22303c", "#5f6f7d", "#ffffff", "#3a6ea5", "#d1603d"


class Step(NamedTuple):
    """One box: a call, its location, what it returns to the next call, and a note."""

    call: str
    target: str
    """Dotted name of the function or class; a test checks that it exists."""
    returns: str
    note: str
    writes: str = ""


STEPS = [
    Step("train(*overrides)", "commands.train", "overrides", "The whole command line is parsed before anything runs."),
    Step(
        "load_config(overrides)",
        "cifar10.config.compose.load_config",
        "Config, frozen",
        "Hydra composes conf/ and the overrides.\nAll errors are reported here, at once.",
    ),
    Step(
        "build(DATA, config.data_loading)",
        "cifar10.config.build.build",
        "ImageDataset: three splits, class_names, digest",
        "Data are downloaded if needed, and verified by SHA-256.",
    ),
    Step(
        "make_network(config, data)",
        "cifar10.training.fitting.make_network",
        "nn.Module",
        "Weights are initialised from the seed; calibrate\nmeasures the training images.",
    ),
    Step(
        "open_run(config, data, checkpoint)",
        "cifar10.runs.run.open_run",
        "Run: folder, tracker, metadata",
        "The folder is locked and tested; the MLflow run starts.",
        "models/NAME/: run_id",
    ),
    Step(
        "Classifier(network, config, metadata)",
        "cifar10.model.Classifier",
        "LightningModule",
        "Example selection, loss, metrics, optimizer\nand schedule.",
    ),
    Step(
        "make_trainer(config.training, folder, callbacks)",
        "cifar10.trainer.make_trainer",
        "pytorch_lightning.Trainer",
        "Devices, precision, saving, progress. Then run.begin:",
        "config.yaml",
    ),
    Step(
        "trainer.fit(classifier, InMemoryDataModule(...))",
        "cifar10.training.data_module.InMemoryDataModule",
        "best.ckpt",
        "Batches are made on the device.\nAfter each epoch: save, record, print a line.",
        "last.ckpt, best.ckpt, history.csv",
    ),
    Step(
        "test(trainer, classifier, module, best.ckpt)",
        "cifar10.training.fitting.test",
        "scores",
        "The test images are used once, without and with\ntest-time augmentation.",
    ),
    Step(
        "run.record_scores(scores, ...)",
        "cifar10.runs.run.Run.record_scores",
        "scores, returned and printed as one line",
        "The first process writes, also to MLflow.",
        "scores.json, curves.png, confusion.png",
    ),
]


def draw() -> Figure:
    """Return the picture."""
    figure = Figure(figsize=(WIDTH, HEIGHT), facecolor=_PAPER)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(0, HEIGHT)
    axes.axis("off")
    for number, step in enumerate(STEPS):
        _draw_step(axes, number, step)
    return figure


def _draw_step(axes: Axes, number: int, step: Step) -> None:
    top = HEIGHT - 0.15 - number * _STRIDE
    left, width, height = _BOX["left"], _BOX["width"], _BOX["height"]
    middle, bottom = top - height / 2, top - height
    box = FancyBboxPatch(
        (left, bottom), width, height, boxstyle="round,pad=0,rounding_size=0.1", facecolor="#eef3f8", edgecolor=_ACCENT
    )
    axes.add_patch(box)
    axes.text(left + 0.25, middle, str(number + 1), ha="center", va="center", fontsize=11, color=_ACCENT, weight="bold")
    axes.text(left + 0.5, middle, step.call, va="center", fontsize=10, color=_INK, family="monospace")
    axes.annotate(
        "",
        xy=(left + 0.7, top - _STRIDE if number + 1 < len(STEPS) else bottom - 0.28),
        xytext=(left + 0.7, bottom),
        arrowprops={"arrowstyle": "-|>", "color": _SOFT, "shrinkA": 0, "shrinkB": 0},
    )
    axes.text(left + 0.85, bottom - 0.165, step.returns, va="center", fontsize=9, color=_SOFT, style="italic")
    lift = 0.16 if step.writes else 0.0
    axes.text(left + width + 0.25, middle + lift, step.note, va="center", fontsize=9.5, color=_INK, linespacing=1.25)
    if step.writes:
        below = 0.16 + 0.11 * step.note.count("\n")
        axes.text(left + width + 0.25, middle - below, f"writes  {step.writes}", va="center", fontsize=9, color=_DISK)


def main() -> None:
    """Save the picture beside this script, or as the file that is named; the same code gives the same bytes."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("how_train_works.svg")
    mpl.rcParams["svg.hashsalt"] = "how_train_works"
    draw().savefig(target, dpi=100, metadata={"Date": None} if target.suffix == ".svg" else None)


if __name__ == "__main__":
    main()
