"""TensorBoard: curves while a run trains, the graph of its network, predictions and embeddings of some images.

In the run's folder::

    tensorboard/events.out.tfevents.*        curves, graph and pictures
    tensorboard/STEP/SPLIT/                  embeddings for the projector
    tensorboard/projector_config.pbtxt

Nothing that fails here ends a run: it is reported once.

Shapes: N images of S x S pixels, E numbers in an embedding, K classes.
"""

import io
import threading
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.style
import numpy as np
import pytorch_lightning as pl
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.nn import functional

from cifar10.analysis.figures import confusion_matrix
from cifar10.analysis.prediction_figure import predictions_figure
from cifar10.config.build import build
from cifar10.config.schema import Config
from cifar10.config.targets import MODEL
from cifar10.data.class_names import printable
from cifar10.data.image_dataset import ImageDataset, Split
from cifar10.errors import first_line
from cifar10.model import Classifier
from cifar10.networks.heads import find_head
from cifar10.system.streams import print_message

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_MOST_EMBEDDED = 1000  # images; the projector draws several thousand, but each takes a forward pass
_MOST_PIXELS = 2**22  # of all of them: 83 images of 224 x 224 pixels, which take seconds on a CPU
_AT_ONCE = 2**20  # pixels in a forward pass
_THUMBNAIL = 32  # pixels; TensorBoard reads sprites of at most 8192 x 8192
_SHOWN = 16  # images in a picture of predictions


class TensorBoardFiles(TensorBoardLogger):
    """Lightning's logger, which gives up with one message if its files cannot be written.

    Args:
        folder: Of the run, which exists; the files are written to `tensorboard` in it.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, name="tensorboard", version="")
        self._has_failed = False
        self.trainer: pl.Trainer | None = None
        """Whose optimizer steps are the positions of the curves; Lightning itself counts batches."""

    @property
    def experiment(self) -> "SummaryWriter":
        """The writer.

        Raises:
            AttributeError: It cannot be made; Lightning asks for it when a run starts, and goes on without.
        """
        _silence_writer_threads()
        try:
            writer: SummaryWriter = super().experiment
        except Exception as error:
            self._report("files", error, is_last=True)
            raise AttributeError("experiment") from error
        return writer

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if self.trainer is not None:
            step = self.trainer.global_step
        shown = {name: value for name, value in metrics.items() if name != "epoch"}
        self._attempt("curves", lambda: super(TensorBoardFiles, self).log_metrics(shown, step), is_last=True)

    def save(self) -> None:
        self._attempt("curves", super().save, is_last=True)

    def finalize(self, status: str) -> None:
        self._attempt("curves", lambda: super(TensorBoardFiles, self).finalize(status), is_last=True)

    def write(self, what: str, add: "Callable[[SummaryWriter], object]") -> None:
        """Call `add` with TensorBoard's writer; a failure is reported as one of writing `what`."""
        self._attempt(what, lambda: add(self.experiment))

    def _attempt(self, what: str, call: Callable[[], object], is_last: bool = False) -> None:
        """Call `call`, and report if it fails; after a failure on the disk, or of the last kind, try nothing more."""
        if self._has_failed:
            return
        try:
            call()
        except Exception as error:  # whatever TensorBoard, the disk or torch.jit raise
            self._report(what, error.__cause__ or error, is_last)  # Lightning replaces the error of a full disk

    def _report(self, what: str, error: BaseException, is_last: bool) -> None:
        if self._has_failed:
            return
        self._has_failed = is_last or isinstance(error, OSError)
        rest = "; nothing more is written for TensorBoard" if self._has_failed else ""
        print_message(f"warning: TensorBoard's {what} cannot be written ({_reason(error)}){rest}")


@cache
def _silence_writer_threads() -> None:
    """Drop tracebacks of the threads in which TensorBoard writes: the next call raises their failures, and reports."""
    others = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if not type(arguments.thread).__module__.startswith("tensorboard."):
            others(arguments)

    threading.excepthook = hook


class DrawGraph(pl.Callback):
    """Writes the graph of the network when training starts."""

    def __init__(self, config: Config, num_classes: int, image_size: int) -> None:
        self._config, self._num_classes, self._image_size = config, num_classes, image_size

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        files = trainer.logger
        if trainer.is_global_zero and isinstance(files, TensorBoardFiles):
            files.write("graph", self._draw)

    def _draw(self, writer: "SummaryWriter") -> None:
        """Trace a second network of the same kind: plain PyTorch on the CPU, in place of kernels and compiled code."""
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # of torch.jit, about branches that depend on the type of the image
            sizes = {"num_classes": self._num_classes, "image_size": self._image_size}
            network: nn.Module = build(MODEL, self._config.model, **sizes)
            writer.add_graph(network.eval(), torch.zeros(1, 3, self._image_size, self._image_size))
        writer.flush()


def write_predictions(trainer: pl.Trainer, classifier: Classifier, data: ImageDataset) -> None:
    """Write the confusion matrix of the test, and predictions and embeddings of some validation images.

    Without validation images, those of the test split are taken.

    Args:
        trainer: After the test.
        classifier: With the tested network.
        data: Of the run.
    """
    files = trainer.logger
    if not (trainer.is_global_zero and isinstance(files, TensorBoardFiles)):
        return
    name = "validation" if len(data.validation) else "test"
    split = _some(data.validation if len(data.validation) else data.test)
    step = trainer.global_step

    def write(writer: "SummaryWriter") -> None:
        matrix = confusion_matrix(classifier.confusion.numpy(), data.class_names)
        writer.add_image("confusion matrix of the test images", _pixels(matrix), step, dataformats="HWC")
        embeddings, probabilities = embed_and_classify(classifier.network, split, data.num_classes)
        for title, chosen in _pictures(probabilities, split.labels, name).items():
            figure = predictions_figure(split.take(chosen), probabilities[chosen].numpy(), data.class_names, title)
            writer.add_image(title, _pixels(figure), step, dataformats="HWC")
        _add_embeddings(writer, embeddings, probabilities, split, data.class_names, step, name)
        writer.close()

    files.write("pictures and embeddings", write)


def embed_and_classify(network: nn.Module, split: Split, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return what the network passes to its head, (N, E), and its probabilities, (N, K), on the CPU.

    Raises:
        ValueError: The network has no head.
    """
    captured: list[Tensor] = []
    _, head = find_head(network, num_classes)
    handle = head.register_forward_pre_hook(lambda _, inputs: captured.append(inputs[0].float().cpu()))
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            batches = split.images[:].split(max(1, _AT_ONCE // split.images.shape[-1] ** 2))
            probabilities = [network(batch.to(device)).float().softmax(dim=1).cpu() for batch in batches]
    finally:
        handle.remove()
        network.train(was_training)
    embeddings = torch.cat(captured)
    return embeddings.mean(dim=(2, 3)) if embeddings.ndim == 4 else embeddings, torch.cat(probabilities)


def _some(split: Split) -> Split:
    """Return images for the projector, spread evenly over the split."""
    most = max(1, min(_MOST_EMBEDDED, _MOST_PIXELS // split.images.shape[-1] ** 2))
    return split.take(torch.arange(len(split))[:: -(-len(split) // most)])


def _pictures(probabilities: Tensor, labels: Tensor, split: str) -> dict[str, Tensor]:
    """Return titles, and the images to show: the first ones, and the mistakes of which the network is most sure."""
    sureness, answers = probabilities.max(dim=1)
    wrong = (answers != labels).nonzero().flatten()
    mistakes = wrong[sureness[wrong].argsort(descending=True, stable=True)][:_SHOWN]
    pictures = {f"predictions for {split} images": torch.arange(min(_SHOWN, len(labels)))}
    if len(mistakes):
        pictures[f"mistakes of which the network is most sure, {split} images"] = mistakes
    return pictures


def _add_embeddings(
    writer: "SummaryWriter",
    embeddings: Tensor,
    probabilities: Tensor,
    split: Split,
    class_names: tuple[str, ...],
    step: int,
    name: str,
) -> None:
    sureness, answers = probabilities.max(dim=1)
    names = [printable(class_name) for class_name in class_names]
    rows = [
        [names[label], names[answer], "right" if label == answer else "wrong", f"{probability:.3f}"]
        for label, answer, probability in zip(split.labels.tolist(), answers.tolist(), sureness.tolist(), strict=True)
    ]
    with redirect_stdout(io.StringIO()):  # it says so if the folder exists, as after a resume
        writer.add_embedding(
            embeddings,
            metadata=rows,
            metadata_header=["class", "predicted", "answer", "probability"],
            label_img=_thumbnails(split.images[:]),
            global_step=step,
            tag=name,
        )


def _thumbnails(images: Tensor) -> Tensor:  # uint8 (N, 3, S, S) -> float (N, 3, T, T) in [0, 1]
    scaled = images.float() / 255
    if images.shape[-1] <= _THUMBNAIL:
        return scaled
    return functional.interpolate(scaled, size=(_THUMBNAIL, _THUMBNAIL), mode="area")


def _pixels(figure: Figure) -> NDArray[np.uint8]:
    """Return a figure as uint8 (H, W, 3); a `matplotlibrc` of the user has no effect."""
    file = io.BytesIO()
    with matplotlib.style.context("default"):
        figure.savefig(file, dpi=100, format="png")
    return np.asarray(Image.open(file, formats=["PNG"]).convert("RGB"))


def _reason(error: BaseException) -> str:
    text: Any = getattr(error, "strerror", None) or first_line(error)
    return f"{type(error).__name__}: {text}"
