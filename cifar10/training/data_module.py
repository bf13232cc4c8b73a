"""The LightningDataModule: batches for training, validation and test, sharded over processes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytorch_lightning as pl

from cifar10.data.image_dataset import ImageDataset, Split
from cifar10.training.batches import AllAtOnce, Chunks, EvaluationBatches, TrainingBatches, largest_batch

if TYPE_CHECKING:
    from cifar10.config.schema import AugmentationConfig, EvaluationConfig, TrainingConfig


@dataclass(eq=False)
class InMemoryDataModule(pl.LightningDataModule):
    """The splits of `data`, on each process's device or in a file; settings are sections of the configuration."""

    data: ImageDataset
    training: "TrainingConfig"
    augmentation: "AugmentationConfig"
    evaluation: "EvaluationConfig"
    seed: int
    """Seed of order and augmentation."""

    def __post_init__(self) -> None:
        super().__init__()

    @property
    def images_per_step(self) -> int:
        """Images per optimizer step, over all processes and micro-batches: as configured, or as many as there are."""
        num_shares = self.training.accumulate * self.training.num_processes
        return largest_batch(len(self.data.train), self.training.batch_size, num_shares)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps per epoch."""
        return len(self.data.train) // self.images_per_step

    def train_dataloader(self) -> TrainingBatches | Chunks:
        """Return batches that follow the trainer's own progress, in chunks if so configured."""
        trainer, micro_batches = self._trainer(), self.training.accumulate
        batches = TrainingBatches(
            self.data.train,
            num_classes=self.data.num_classes,
            augmentation=self.augmentation,
            batch_size=self.training.batch_size,
            seed=self.seed,
            device=trainer.strategy.root_device,
            micro_batches=micro_batches,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )
        batches.follow(lambda: (trainer.current_epoch, self._steps_into_epoch() * micro_batches))
        return Chunks(batches) if self.training.chunked else batches

    def _steps_into_epoch(self) -> int:
        return self._trainer().global_step - self._trainer().current_epoch * self.steps_per_epoch

    def val_dataloader(self) -> AllAtOnce | list[AllAtOnce]:
        """Return the validation images; an empty list if there are none."""
        return AllAtOnce(self._evaluation(self.data.validation)) if len(self.data.validation) else []

    def test_dataloader(self) -> EvaluationBatches:
        """Return the test images in their published order."""
        return self._evaluation(self.data.test)

    def _evaluation(self, split: Split) -> EvaluationBatches:
        trainer, batch_size = self._trainer(), self.evaluation.images_at_once(self.data.image_size)
        device = trainer.strategy.root_device
        return EvaluationBatches(split, batch_size, device, trainer.global_rank, trainer.world_size)

    def _trainer(self) -> pl.Trainer:
        assert self.trainer is not None
        return self.trainer
