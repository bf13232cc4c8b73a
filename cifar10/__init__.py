"""Image classification from a folder of images to a trained, measured, traceable classifier.

    import cifar10
    cifar10.load("best").predict("photos/cat.jpg")

Importing this costs nothing; the functions import what they need.
"""

import time

STARTED_AT = time.monotonic()
"""When the program's first line ran, by `time.monotonic`: before anything heavy was imported.

:meta hide-value:
"""

__version__ = "0.1.0"

TYPE_CHECKING = False  # type checkers take it for true; to import it from `typing` would take longer than all the rest
if TYPE_CHECKING:
    import os

    import torch

    from cifar10.inference.predictor import Predictor


def load(
    checkpoint: "str | os.PathLike[str]" = "best",
    *,
    device: "str | torch.device" = "auto",
    batch_size: int | None = None,
    tta: str | None = None,
    models_dir: str = "models",
    engine: str | None = None,
    full_jpeg: bool = False,
    grouping: str | None = None,
) -> "Predictor":
    """Return a predictor with the network of a checkpoint, which computes as the test pass of its training did.

    Args:
        checkpoint: A path, a name in `models_dir`, best, last, an MLflow run id, or models:/NAME@ALIAS.
        device: auto (a GPU if there is one), cpu, cuda or cuda:N.
        batch_size: Most images per forward pass; None: the checkpoint's.
        tta: Test-time augmentation: none, mirror, mirror_translate or mirror_translate_selective; None: the
            checkpoint's.
        models_dir: Folder in which names are looked up.
        engine: What computes: the name of a file in `conf/engine/`; None: onnx for an ONNX file, else torch.
        full_jpeg: Decode large JPEG images at full size, as in training, which takes three times as long.
        grouping: Groups of classes that results name as well: a file of `conf/grouping/`, or the path of one; None: no
            groups.

    Raises:
        CheckpointError: There is no such checkpoint, or it is damaged.
        UsageError: A setting is not possible, the device is not there, or the grouping is for other classes.
    """
    import os

    from cifar10.inference.predictor import Predictor

    name = os.fspath(checkpoint)
    predictor = Predictor.from_checkpoint(name, device, batch_size, tta, models_dir, engine, full_jpeg)
    return predictor if grouping is None else predictor.with_grouping(grouping)


def load_pretrained(
    model: str = "resnet152_imagenet",
    *,
    weights: "str | os.PathLike[str] | None" = None,
    grouping: str | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    tta: str | None = None,
) -> "Predictor":
    """Return a predictor with a pretrained network, which predicts the classes that it was trained on.

    Args:
        model: NAME_imagenet, where NAME is a classifier of torchvision, or of timm where it is installed.
        weights: A file; None: PyTorch's cache or a download.
        grouping: As for `load`; `cats_vs_dogs` is for ImageNet's classes.
        device: auto (a GPU if there is one), cpu, cuda or cuda:N.
        batch_size: Most images per forward pass; None: 32.
        tta: Test-time augmentation, as for `load`; None: none.

    Raises:
        UserError: The weights cannot be read or downloaded.
        UsageError: There is no such network, a setting is not possible, or the device is not there.
    """
    from cifar10.inference.predictor import Predictor

    predictor = Predictor.from_pretrained(model, device, batch_size, tta, weights)
    return predictor if grouping is None else predictor.with_grouping(grouping)
