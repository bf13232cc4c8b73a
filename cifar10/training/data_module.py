"""The LightningDataModule: batches for training, validation and test, sharded over processes."""

import pytorch_lightning as pl
import torch

from cifar10.config.schema import Config
from cifar10.data.image_dataset import ImageDataset, Split
from cifar10.training.batches import Chunks, EvaluationBatches, TrainingBatches, largest_batch


class InMemoryDataModule(pl.LightningDataModule):
    """The splits of `data`, resident on each process's device."""

    def __init__(self, data: ImageDataset, config: Config) -> None:
        super().__init__()
        self.data = data
        self.config = config

    @property
    def images_per_step(self) -> int:
        """Images per optimizer step, over all processes and micro-batches: as configured, or as many as there are."""
        training = self.config.training
        return largest_batch(len(self.data.train), training.batch_size, training.accumulate * training.num_processes)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps per epoch."""
        return len(self.data.train) // self.images_per_step

    def train_dataloader(self) -> TrainingBatches | Chunks:
        """Return batches that follow the trainer's own progress, in chunks if so configured."""
        trainer, training = self._trainer(), self.config.training
        batches = TrainingBatches(
            self.data.train,
            num_classes=self.data.num_classes,
            augmentation=self.config.augmentation,
            batch_size=training.batch_size,
            seed=self.config.seed,
            device=self._device(),
            micro_batches=training.accumulate,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )
        batches.follow(lambda: (trainer.current_epoch, self._steps_into_epoch() * training.accumulate))
        return Chunks(batches) if training.chunked else batches

    def _steps_into_epoch(self) -> int:
        return self._trainer().global_step - self._trainer().current_epoch * self.steps_per_epoch

    def val_dataloader(self) -> EvaluationBatches | list[EvaluationBatches]:
        """Return the held-out images; nothing if there are none."""
        return self._evaluation(self.data.validation) if len(self.data.validation) else []

    def test_dataloader(self) -> EvaluationBatches:
        """Return the test images in their published order."""
        return self._evaluation(self.data.test)

    def _evaluation(self, split: Split) -> EvaluationBatches:
        trainer = self._trainer()
        batch_size = self.config.evaluation.images_at_once(self.data.image_size)
        return EvaluationBatches(split, batch_size, self._device(), trainer.global_rank, trainer.world_size)

    def _trainer(self) -> pl.Trainer:
        assert self.trainer is not None
        return self.trainer

    def _device(self) -> torch.device:
        return self._trainer().strategy.root_device
