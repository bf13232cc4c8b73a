"""Test a trained network on any split, with Lightning, and keep what it computes for each image."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch

from cifar10.analysis.evaluation import Answers
from cifar10.config.schema import TrainingConfig
from cifar10.data.image_dataset import ImageDataset, Split
from cifar10.devices import prepare_network
from cifar10.inference.engine_network import EngineNetwork
from cifar10.inference.engines import Engine
from cifar10.inference.finite import require_numbers
from cifar10.model import Classifier
from cifar10.runs.checkpoints import Checkpoint
from cifar10.system.limits import num_cpus
from cifar10.trainer import make_trainer
from cifar10.training.data_module import InMemoryDataModule
from cifar10.training.fitting import make_metrics, test
from cifar10.training.progress import TestProgress
from cifar10.types import Metrics


@dataclass(frozen=True, eq=False)
class Tester:
    """A network of a checkpoint, ready to be tested as its training tested it."""

    trainer: pl.Trainer
    classifier: Classifier
    module: InMemoryDataModule
    path: Path
    """Of the checkpoint, for messages."""

    @classmethod
    def of(cls, checkpoint: Checkpoint, data: ImageDataset, folder: Path, engine: Engine | None = None) -> "Tester":
        """Return a tester for a checkpoint.

        Args:
            checkpoint: Of the network.
            data: Its data.
            folder: Where Lightning may write.
            engine: Computes instead of the network, with the same weights; None: the network does.
        """
        config = checkpoint.config.model_copy(update={"training": here_and_alone(checkpoint.config.training)})
        training = config.training
        if engine is None:
            network = prepare_network(checkpoint.network(), training.channels_last, training.kernels)
        else:
            network = EngineNetwork(engine)
        metrics = make_metrics(config, data.num_classes)
        classifier = Classifier(network, config.evaluation, checkpoint.metadata.model_dump(), metrics)
        classifier.tta = checkpoint.tta
        trainer = make_trainer(config, folder, [TestProgress()])
        module = InMemoryDataModule(data, training, config.augmentation, config.evaluation, config.seed)
        return cls(trainer, classifier, module, checkpoint.path)

    def answers(self, split: Split, name: str) -> tuple[Metrics, Answers]:
        """Return the scores, as of the test split, and what was computed for each image of `split`, called `name`.

        Raises:
            CheckpointError: The network gives NaN or infinity for some images.
        """
        self.classifier.kept = []
        module = dataclasses.replace(self.module, data=dataclasses.replace(self.module.data, test=split))
        scores = test(self.trainer, self.classifier, module, self.path, split=name)
        plain, augmented = (torch.cat(parts).numpy() for parts in zip(*self.classifier.kept, strict=True))
        for computed in (plain, augmented):
            require_numbers(computed, self.path, f"{name} image")
        return scores, Answers(plain, augmented, split.labels.numpy(), self.module.data.class_names)


def here_and_alone(training: TrainingConfig) -> TrainingConfig:
    """Return `training` for one process on this machine."""
    accelerator = "auto" if training.accelerator == "gpu" else training.accelerator
    threads = None if training.threads is None else min(training.threads, num_cpus())
    one_process = {"devices": 1, "num_nodes": 1, "accumulate": 1}
    return training.model_copy(update={"accelerator": accelerator, "threads": threads, **one_process})


def sample_of(split: Split, most: int, seed: int = 0) -> Split:
    """Return at most `most` images of a split, chosen by `seed`, in its order."""
    if len(split) <= most:
        return split
    chosen = np.sort(np.random.default_rng(seed).permutation(len(split))[:most])
    return split.take(torch.from_numpy(chosen))
