"""Out-of-fold probabilities: each image is judged by a network that was trained without it.

Shapes: N images, K classes, F folds.
"""

import tempfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning.callbacks import Checkpoint
from torch import nn
from tqdm import tqdm

from cifar10.analysis.embeddings import embedder_of
from cifar10.analysis.linear_probe import fit_linear_head
from cifar10.config.schema import Config
from cifar10.data.image_dataset import ImageDataset, Split
from cifar10.devices import choose_device
from cifar10.inference.pretrained import pretrained_checkpoint
from cifar10.model import Classifier
from cifar10.runs.checkpoint_names import resolve_checkpoint
from cifar10.runs.checkpoints import load_checkpoint
from cifar10.system.memory import release_memory
from cifar10.system.streams import print_message
from cifar10.trainer import make_trainer, resolve_precision
from cifar10.training.data_module import InMemoryDataModule
from cifar10.training.fitting import make_network, make_recipe
from cifar10.training.progress import TrainingProgress

_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class _NoCheckpoints(Checkpoint):
    """Keeps Lightning from saving checkpoints; reports epochs in their place."""

    def __init__(self, progress: TrainingProgress) -> None:
        self._progress = progress

    def on_train_epoch_end(self, trainer: object, pl_module: object) -> None:
        assert isinstance(pl_module, Classifier)
        self._progress.show_epoch(pl_module.trainer, pl_module.history[-1])


def assign_folds(labels: NDArray[np.int64], num_folds: int, seed: int) -> NDArray[np.int64]:
    """Return the fold of each image, (N,), in [0, F): the images of each class are dealt out evenly, shuffled.

    Args:
        labels: (N,).
        num_folds: F.
        seed: Determines the shuffling.
    """
    generator = np.random.default_rng(seed)
    folds = np.empty(len(labels), np.int64)
    for label in np.unique(labels).tolist():
        members = generator.permutation(np.flatnonzero(labels == label))
        folds[members] = (np.arange(len(members)) + label) % num_folds
    return folds


def out_of_fold_probabilities(
    config: Config, pool: Split, class_names: tuple[str, ...], num_folds: int
) -> NDArray[np.float32]:
    """Train F networks, each without one fold, and return the probabilities that it gives the images of that fold.

    Args:
        config: Network, training and seed.
        pool: N images.
        class_names: K names.
        num_folds: F.

    Returns:
        (N, K).
    """
    folds = assign_folds(pool.labels.numpy(), num_folds, config.seed)
    probabilities = np.empty((len(pool), len(class_names)), np.float32)
    for fold in range(num_folds):
        release_memory()
        left_out, kept = (torch.from_numpy(np.flatnonzero(part)) for part in (folds == fold, folds != fold))
        print_message(
            f"training {fold + 1} of {num_folds}: on {len(kept):,} images, for the labels of {len(left_out):,}"
        )
        nothing = pool.take(kept[:0])
        data = ImageDataset("pool", class_names, pool.take(kept), nothing, nothing)
        network = _trained(config, data)
        probabilities[left_out.numpy()] = _probabilities(network, pool, left_out, config)
    return probabilities


def probed_out_of_fold(
    config: Config, pool: Split, class_names: tuple[str, ...], num_folds: int
) -> NDArray[np.float32]:
    """Do the same with linear classifiers on the embeddings of a pretrained network, which take seconds.

    Args and Returns: as for `out_of_fold_probabilities`; `config` has a section `probe`.
    """
    assert config.probe is not None
    cache = Path(config.probe.cache) if config.probe.cache else None
    initial = (
        pretrained_checkpoint(config.model)
        if config.weights is None
        else load_checkpoint(resolve_checkpoint(config.weights, config.models_dir))
    )
    embeddings = embedder_of(initial, choose_device("auto"), cache).embeddings(pool.images, "images")
    labels = pool.labels.numpy()
    folds = assign_folds(labels, num_folds, config.seed)
    logits = np.empty((len(labels), len(class_names)), np.float32)
    for fold in range(num_folds):
        kept = folds != fold
        head = fit_linear_head(embeddings[kept], labels[kept], config.probe.strengths, config.probe.folds, config.seed)
        logits[~kept] = head.logits(embeddings[~kept])
    return torch.from_numpy(logits).softmax(dim=1).numpy()


def _trained(config: Config, data: ImageDataset) -> nn.Module:
    network = make_network(config, data)
    module = InMemoryDataModule(data, config.training, config.augmentation, config.evaluation, config.seed)
    recipe = make_recipe(config, data, module.steps_per_epoch)
    classifier = Classifier(network, config.evaluation, {"class_names": list(data.class_names)}, {}, recipe)
    training = config.training
    progress = TrainingProgress(module.images_per_step, module.steps_per_epoch, training.epochs, training.resizing)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(config, Path(folder), [progress, _NoCheckpoints(progress)])
        trainer.fit(classifier, module)
    return classifier.network


@torch.inference_mode()
def _probabilities(network: nn.Module, pool: Split, places: torch.Tensor, config: Config) -> NDArray[np.float32]:
    """Return the probabilities of the images at `places`, (M, K): the mean over each image and its mirror image."""
    network.eval()
    device = next(network.parameters()).device
    half = _HALVES.get(resolve_precision(config))
    size = config.evaluation.images_at_once(pool.images.shape[-1])
    views = (False, True) if config.augmentation.flip != "none" else (False,)
    rows = []
    for part in tqdm(places.split(size), "judging labels", disable=None, leave=False):
        images = pool.images[part].to(device)
        with torch.autocast(device.type, dtype=half) if half else nullcontext():
            seen = [network(images.flip(3) if mirrored else images).float().softmax(dim=1) for mirrored in views]
        rows.append(torch.stack(seen).mean(dim=0).cpu())
    return torch.cat(rows).numpy()
