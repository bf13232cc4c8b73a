"""Predict classes of images with any engine. Importing this module does not import torch.

Shapes: B images of S x S pixels, K classes.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from cifar10.config.schema import Component, TTAMode
from cifar10.data.class_names import ClassFolders
from cifar10.errors import UsageError, UserError
from cifar10.images.decode import ImageError, Pixels
from cifar10.images.named_image import NamedImage
from cifar10.images.parallel import decode_batches
from cifar10.images.preprocessing import Preprocessing
from cifar10.images.search import no_images
from cifar10.images.sources import is_collection, open_source
from cifar10.inference.description import LoadedModel
from cifar10.inference.engines import Engine, EngineWithLogits, load_model, require_engine
from cifar10.inference.grouping import ClassGroups, read_grouping
from cifar10.inference.image_inputs import ImageInMemory, ImageInput, path_of, pixels_or_error
from cifar10.inference.prediction import ImageResult, image_results, most_probable
from cifar10.inference.reference import Reference
from cifar10.inference.tta import augment, known_mode, predict_probabilities
from cifar10.runs.checkpoint_metadata import UNKNOWN_DATA

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Predictor:
    """A trained classifier: an engine and its inference settings."""

    engine: Engine
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    """How images of any size become the network's input."""
    batch_size: int
    """Most images per forward pass."""
    tta: TTAMode
    """Test-time augmentation: the views that are averaged."""
    origin: dict[str, str] = field(default_factory=dict)
    """Where the weights come from: checkpoint path, weights_digest, data_digest."""
    tta_confidence: float = 0.0
    """mirror_translate_selective: images whose largest probability is below it get all six views."""
    reduced: bool = True
    """Decode large JPEG images at reduced size, as `EncodedImage.decode_square` does."""
    groups: ClassGroups | None = None
    """Groups of classes whose probabilities are in the results too."""
    reference: Reference | None = None
    """What the training data looked like; known by ONNX files only, and not by those of earlier versions."""

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: str | Path,
        device: "str | torch.device" = "auto",
        batch_size: int | None = None,
        tta: str | None = None,
        models_dir: str = "models",
        engine: str | None = None,
        full_jpeg: bool = False,
    ) -> "Predictor":
        """Return a predictor that computes as in the test pass of the checkpoint's training.

        Args:
            checkpoint: A file, or a name as for `resolve_checkpoint`.
            device: auto, cpu, cuda or cuda:N.
            batch_size: Most images per forward pass; None: as in the test pass.
            tta: Test-time augmentation; None: as in the test pass.
            models_dir: Folder in which names are looked up.
            engine: The name of a file in `conf/engine/`; None: onnx for an ONNX file, else torch. auto: the fastest.
            full_jpeg: Decode large JPEG images at full size.

        Raises:
            UserError: There is no such checkpoint or device.
            UsageError: `tta`, `batch_size` or `engine` is not possible.
        """
        checked = _checked_settings(tta, batch_size)
        if engine is not None:
            require_engine(engine)
        from cifar10.runs.checkpoint_names import resolve_checkpoint

        file = checkpoint if isinstance(checkpoint, Path) else resolve_checkpoint(checkpoint, models_dir)
        chosen = engine or ("onnx" if file.suffix == ".onnx" else "torch")
        model = load_model(chosen, file, str(device), batch_size)
        return cls._of(model, str(file), batch_size, checked, full_jpeg)

    @classmethod
    def from_pretrained(
        cls,
        model: Component | str,
        device: str = "auto",
        batch_size: int | None = None,
        tta: str | None = None,
        weights: str | os.PathLike[str] | None = None,
    ) -> "Predictor":
        """Return a predictor with a pretrained network, which predicts the classes that it was trained on.

        Args:
            model: The section `model` of a configuration, or what it is set to: resnet152_imagenet.
            device: auto, cpu, cuda or cuda:N.
            batch_size: Most images per forward pass; None: 32.
            tta: Test-time augmentation; None: none.
            weights: A file, for a model that is given by name; None: PyTorch's cache or a download.

        Raises:
            UserError: The weights cannot be read or downloaded, or there is no such device.
            UsageError: The network has no published weights, or `tta` or `batch_size` is not possible.
        """
        checked = _checked_settings(tta, batch_size)
        from cifar10.config.pretrained_model import pretrained_model
        from cifar10.inference.pretrained import load_pretrained

        component = pretrained_model([f"model={model}"], weights) if isinstance(model, str) else model
        return cls._of(*load_pretrained(component, device), batch_size, checked)

    def with_grouping(self, name: str) -> "Predictor":
        """Return a predictor whose results name groups of classes as well; arguments and errors of `read_grouping`."""
        return replace(self, groups=read_grouping(name).bind(self.class_names))

    @classmethod
    def _of(
        cls, model: LoadedModel, name: str, batch_size: int | None, tta: TTAMode | None, full_jpeg: bool = True
    ) -> "Predictor":
        """Return a predictor with a loaded model of this name; None: its own setting."""
        description = model.description
        origin = {"checkpoint": name, "weights_digest": description.weights_digest}
        if description.data_digest != UNKNOWN_DATA:
            origin["data_digest"] = description.data_digest
        return cls(
            engine=model.engine,
            class_names=tuple(description.class_names),
            preprocessing=description.preprocessing,
            batch_size=batch_size or description.batch_size,
            tta=tta or description.tta,
            tta_confidence=description.tta_confidence,
            origin=origin,
            reduced=not full_jpeg and description.resize_size is None,  # published weights expect exact pixels
            reference=description.reference,
        )

    @property
    def image_size(self) -> int:
        """S: height and width of the network's input, in pixels."""
        return self.preprocessing.image_size

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def provenance(self) -> dict[str, str]:
        """Everything that a prediction depends on beside the pixels."""
        bound = {"tta_confidence": str(self.tta_confidence)} if self.tta == "mirror_translate_selective" else {}
        jpeg = {} if self.reduced else {"jpeg": "full"}
        settings = {"tta": self.tta, **bound, "batch_size": str(self.batch_size), **jpeg}
        if self.preprocessing.resize_size is not None:
            settings["preprocessing"] = self.preprocessing.describe()
        return {**self.origin, **self.engine.describe(), **settings}

    @overload
    def predict(self, images: "str | os.PathLike[str]", top_k: int = 5, unlike: bool = False) -> Any: ...
    @overload
    def predict(self, images: ImageInMemory, top_k: int = 5, unlike: bool = False) -> ImageResult: ...
    @overload
    def predict(self, images: Sequence[ImageInput], top_k: int = 5, unlike: bool = False) -> list[ImageResult]: ...

    def predict(self, images: Any, top_k: int = 5, unlike: bool = False) -> Any:
        """Predict the classes of an image, of a list of images, or of all images in a folder or archive.

        Args:
            images: The path of an image, a folder, a glob, an archive or a text file of paths; the address of an image
                or of a list, http or https; encoded bytes; a PIL image; an array, uint8 (H, W, 3),
                RGB; a tensor, uint8 (3, H, W), RGB; or a list of paths and such images. Images of any size are cropped
                to their central square and resized to S x S.
            top_k: How many classes to return for each image; all, if there are fewer.
            unlike: Whether to find out which images are unlike the training data, if the model has a `reference`.

        Returns:
            An `ImageResult` for one image, a list of them for a list, and an iterator over them for all else, which is
            read as it is iterated over. In a list or folder, an image that cannot be read has a result with
            `error` set, and its `class_name` raises that error.

        Raises:
            UsageError: `images` is nothing of the above, or `top_k` is below 1.
            UserError: There is no such file or folder, or it holds no image.
            ImageError: The one image that was given cannot be read.
        """
        if top_k < 1:
            raise UsageError(f"top_k={top_k} is not possible; it must be 1 or more")
        if isinstance(images, list | tuple):
            return self._predict_list(images, top_k, unlike)
        if isinstance(images, str | os.PathLike) and is_collection(path := os.fspath(images)):
            source = open_source(path)
            if source.is_empty():
                raise UserError(no_images(source.given, source.skipped, source.root))
            return (result for batch in self.predict_source(source, top_k, unlike=unlike) for result in batch)
        pixels = pixels_or_error(images, self.preprocessing, self.reduced)
        [result] = self._results([path_of(images)], [pixels], [None], top_k, unlike)
        result.raise_for_error()
        return result

    def predict_source(
        self, source: Iterable[NamedImage], top_k: int = 5, with_sha256: bool = False, unlike: bool = False
    ) -> Iterator[list[ImageResult]]:
        """Yield one result for each image, in order, in lists of about `batch_size`.

        Images are decoded by threads while those before them are computed. If `with_sha256`, results have the SHA-256
        of their encoded images; `unlike` is that of `predict`.
        """
        folders = ClassFolders(self.class_names)

        @lru_cache(maxsize=4096)  # of the folders, in which many images are
        def label(folder: str) -> str | None:
            class_id = folders.label(PurePath(folder, "image"))
            return None if class_id is None else self.class_names[class_id]

        for batch in decode_batches(source, self.preprocessing, self.batch_size, self.reduced, with_sha256):
            images = [item.source for item in batch]
            labels = [label(os.path.dirname(image.folders or image.name)) for image in images]
            names, pixels = [image.name for image in images], [item.pixels for item in batch]
            results = self._results(names, pixels, labels, top_k, unlike)
            if with_sha256:
                results = [replace(row, sha256=item.sha256) for row, item in zip(results, batch, strict=True)]
            yield results

    def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return class probabilities, (B, K), of `pixels`, uint8 (B, S, S, 3), RGB. B may be 0."""
        nothing, predict = np.empty((0, self.num_classes), np.float32), self.engine.probabilities
        parts = [predict_probabilities(predict, part, self.tta, self.tta_confidence) for part in self._parts(pixels)]
        return np.concatenate([nothing, *parts])

    def probabilities_and_unlike(
        self, pixels: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
        """Return the same, and which images are unlike the training data, (B,), or None without a `reference`."""
        engine, rule = self.engine, None if self.reference is None else self.reference.unlike
        if rule is None or not isinstance(engine, EngineWithLogits) or not len(pixels):
            return self.probabilities(pixels), None
        rows: list[NDArray[np.float32]] = []
        flags: list[NDArray[np.bool_]] = []
        for part in self._parts(pixels):
            plain, logits = engine.probabilities_and_logits(part)
            rows.append(augment(engine.probabilities, part, plain, self.tta, self.tta_confidence))
            flags.append(rule.is_unlike(logits, part))
        return np.concatenate(rows), np.concatenate(flags)

    def _parts(self, pixels: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
        assert pixels.dtype == np.uint8 and pixels.shape[1:] == (self.image_size, self.image_size, 3), pixels.shape
        starts = range(0, len(pixels), self.batch_size)
        return [np.ascontiguousarray(pixels[start : start + self.batch_size]) for start in starts]

    def _predict_list(self, images: Sequence[Any], top_k: int, unlike: bool) -> list[ImageResult]:
        if not images:
            raise UsageError("the list of images is empty")
        results: list[ImageResult] = []
        for start in range(0, len(images), self.batch_size):  # so that not all are in memory at once
            part = images[start : start + self.batch_size]
            pixels = [
                pixels_or_error(image, self.preprocessing, self.reduced, start + offset)
                for offset, image in enumerate(part)
            ]
            results += self._results([path_of(image) for image in part], pixels, [None] * len(part), top_k, unlike)
        return results

    def _results(
        self,
        names: Sequence[str],
        images: Sequence[Pixels | ImageError],
        labels: Sequence[str | None],
        top_k: int,
        unlike: bool,
    ) -> list[ImageResult]:
        """Return one result for each image, in order; an ImageError becomes the result's error."""
        readable = [image for image in images if not isinstance(image, ImageError)]
        pixels = np.stack(readable) if readable else np.empty((0, self.image_size, self.image_size, 3), np.uint8)
        rows, flags = self.probabilities_and_unlike(pixels) if unlike else (self.probabilities(pixels), None)
        tops = most_probable(rows, self.class_names, top_k)
        groups = [None] * len(rows) if self.groups is None else self.groups.results(rows)
        computed = zip(tops, groups, [None] * len(rows) if flags is None else flags.tolist(), strict=True)
        return image_results(names, images, labels, computed, self.provenance)


def _checked_settings(tta: str | None, batch_size: int | None) -> TTAMode | None:
    """Return `tta`, if it is known.

    Raises:
        UsageError: It is not, or `batch_size` is below 1.
    """
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"batch_size={batch_size} is not possible; it must be 1 or more")
    return None if tta is None else known_mode(tta)
