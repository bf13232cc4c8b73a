"""The LightningModule: what a step learns from, what is counted, and what a checkpoint knows about itself.

Shapes: B images in a micro-batch, K classes.
"""

import time
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, nll_loss

from cifar10.data.resident import Batch, BatchStream
from cifar10.data.resizing import pixels_at, resize
from cifar10.tta import predict_plain_and_augmented

if TYPE_CHECKING:
    from cifar10.config import Config

_STEP_STREAM = 3  # of the random numbers inside a network (dropout); see data/augmentation.py for the others

_MASK = 2**64 - 1
_MOST_PENDING = 64  # batches
_LEAST = 1e-12  # probability, so that its logarithm stays finite

Scores = dict[str, float]


class Tally:
    """Sums over the images seen since the last `clear`, added up one batch after the other in double precision.

    Nobody waits for the device. On a CPU, where counting would take a tenth of a millisecond a batch, batches are kept
    as they come and counted many at a time. On a GPU they are counted there at once: what a captured graph has put out
    is overwritten by the next batch.

    No buffers: data-parallel training overwrites those with the ones of process zero.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self._pending: list[tuple[Tensor, Tensor, Tensor]] = []
        self._sums = torch.zeros(2, dtype=torch.float64)  # of losses, and of images that were right
        self._images = 0

    def add(self, loss: Tensor, logits: Tensor, targets: Tensor) -> None:
        """Take note of a batch: its mean `loss`, and `logits` (B, K), whose largest should be that of `targets`."""
        self._pending.append((loss.detach(), logits.detach(), targets))
        if len(self._pending) >= _MOST_PENDING or loss.is_cuda:
            self._count()

    def sums(self) -> list[float]:
        """Return summed loss, images that were right, and images. This waits for the device."""
        self._count()
        return [*self._sums.tolist(), float(self._images)]

    def restore(self, sums: list[float]) -> None:
        """Go on from what `sums` has returned."""
        self.clear()
        self._sums, self._images = torch.tensor(sums[:2], dtype=torch.float64), int(sums[2])

    def means(self, strategy: Any) -> Scores:
        """Return loss and accuracy over all processes."""
        sums = torch.tensor(self.sums(), dtype=torch.float64, device=strategy.root_device)
        return _means(strategy.reduce(sums, reduce_op="sum").tolist())

    def own_means(self) -> Scores:
        """Return loss and accuracy of this process."""
        return _means(self.sums())

    def _count(self) -> None:
        if not self._pending:
            return
        losses = [loss.double() * len(logits) for loss, logits, _ in self._pending]
        predicted = torch.cat([logits.argmax(dim=1) for _, logits, _ in self._pending])
        labels = torch.cat([y if y.ndim == 1 else y.argmax(dim=1) for _, _, y in self._pending])
        if self._sums.device != predicted.device:  # once after `clear`
            self._sums = self._sums.to(predicted.device)
        for loss in losses:
            self._sums[0].add_(loss)
        self._sums[1].add_((predicted == labels).sum())
        self._images += len(predicted)
        self._pending = []


def mix(*numbers: int) -> int:
    """Return a seed below 2^63 in which every bit of every number counts, each in its place.

    The finalizer of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014). NumPy's
    SeedSequence is as good and takes ten times as long, which counts at every step.
    """
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


def _means(sums: list[float]) -> Scores:
    loss, correct, images = sums
    return {"loss": loss / max(images, 1), "accuracy": correct / max(images, 1)}


class Classifier(pl.LightningModule):
    """A network and how it learns.

    Args:
        network: uint8 or float (B, 3, H, W) -> logits (B, K).
        config: The run.
        identity: What checkpoints say of themselves beside weights and configuration; plain values only.
        steps_per_epoch: Optimizer steps; needed for training only.
    """

    def __init__(
        self, network: nn.Module, config: "Config", identity: dict[str, Any], steps_per_epoch: int = 0
    ) -> None:
        super().__init__()
        self.automatic_optimization = not config.training.chunked
        self.steps_per_epoch = steps_per_epoch
        self.network = network
        self.config = config
        self.identity = identity
        self.history: list[Scores] = []
        """One entry per finished epoch."""
        self.confusion = torch.zeros(0)
        """int64 (K, K) after a test: images of class [row] taken for class [column], with test-time augmentation."""
        if config.training.compile:
            network.compile(mode="max-autotune" if config.training.compile == "graphs" else None)
        self.test_scores: Scores = {}
        """Filled by a test; exact, where Lightning's own copies are rounded to float32."""
        self._validation_scores: Scores = {}
        self._training_tally = Tally()
        self._validation_tally = Tally()
        self._epoch_started = time.monotonic()

    # -- learning ------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizer and let the schedule move its rates at every step."""
        from cifar10.build import build  # checks arguments with pydantic; what is above this line does without

        optimizer = build(self.config.optimizer, network=self.network, params=self.network.parameters())
        schedule = build(self.config.schedule)
        num_steps = self.steps_per_epoch * self.config.training.epochs
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(min(step / num_steps, 1.0)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def training_step(self, batch: Batch | BatchStream, batch_idx: int) -> Tensor | None:
        """Learn from one micro-batch, or from as many as a chunk takes out of a stream of them."""
        if isinstance(batch, BatchStream):
            self._learn_chunk(batch)
            return None
        return self._loss(batch, batch_idx)

    def _loss(self, batch: Batch, number: int) -> Tensor:
        """Return the mean loss of micro-batch `number` of the epoch, and count it."""
        images, targets = batch
        self._seed(number)
        logits = self.network(self._resize(images, number)).float()  # (B, K)
        loss = cross_entropy(logits, targets, label_smoothing=self.config.training.label_smoothing)
        self._training_tally.add(loss, logits.detach(), targets)
        return loss

    def _resize(self, images: Tensor, number: int) -> Tensor:
        """Return the images of micro-batch `number` in the size that this part of training learns from."""
        training = self.config.training
        step = self.current_epoch * self.steps_per_epoch + number // training.accumulate
        progress = step / max(1, self.steps_per_epoch * training.epochs)
        return resize(images, pixels_at(progress, training.resizing, images.shape[-1]))

    def _seed(self, number: int) -> None:
        """Key the random numbers inside the network by position, so that a resumed run draws the same ones."""
        seed = mix(self.config.seed, _STEP_STREAM, self.current_epoch, number, self.global_rank)
        # torch.manual_seed would seed every kind of device there could be, and takes a tenth of a millisecond.
        is_cuda = self.device.type == "cuda"
        generator = torch.cuda.default_generators[self.device.index] if is_cuda else torch.default_generator
        generator.manual_seed(seed)

    def _learn_chunk(self, batches: BatchStream) -> None:
        """Make optimizer steps until the time of a chunk is over or the epoch is: what Lightning would do, bit by bit.

        Lightning has switched autocast on for the whole call. Here it is off but for the forward pass, as in
        Lightning's own loop.
        """
        parts = self.config.training.accumulate
        ends_at = time.monotonic() + self.config.training.chunk_seconds
        first = (self.global_step - self.current_epoch * self.steps_per_epoch) * parts
        with torch.autocast(self.device.type, enabled=False):
            for number, batch in enumerate(batches, first):
                with self.trainer.precision_plugin.forward_context():
                    loss = self._loss(batch, number)
                (loss / parts if parts > 1 else loss).backward()
                if (number + 1) % parts:
                    continue
                self._step()
                if time.monotonic() >= ends_at:
                    break

    def _step(self) -> None:
        """Let optimizer and schedule make a step, and Lightning know of it: without the last, nothing else would be."""
        optimizer = self.trainer.optimizers[0]
        if self.config.training.gradient_clip is not None:
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            nn.utils.clip_grad_norm_(parameters, self.config.training.gradient_clip)
        optimizer.step()
        optimizer.zero_grad()
        self.trainer.lr_scheduler_configs[0].scheduler.step()  # type: ignore[call-arg]
        steps = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        steps.increment_ready()
        steps.increment_completed()

    def on_train_epoch_start(self) -> None:
        self._epoch_started = time.monotonic()

    def on_train_epoch_end(self) -> None:
        """Close the epoch: its scores go to Lightning's loggers and into the history."""
        scores = {f"train/{name}": value for name, value in self._training_tally.means(self.trainer.strategy).items()}
        self._training_tally.clear()
        self.log_dict({**scores, "lr": self.trainer.optimizers[0].param_groups[0]["lr"]}, sync_dist=True)
        self.history.append(
            {
                "epoch": self.current_epoch,
                "step": self.global_step,
                **scores,
                **self._validation_scores,
                "lr": self.trainer.optimizers[0].param_groups[0]["lr"],
                "seconds": time.monotonic() - self._epoch_started,
            }
        )

    def running_means(self) -> Scores:
        """Return loss and accuracy of this process over the epoch so far."""
        return self._training_tally.own_means()

    # -- measuring -----------------------------------------------------------------------------------------------

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        images, labels = batch
        if len(labels):
            logits = self.network(images).float()
            self._validation_tally.add(cross_entropy(logits, labels), logits, labels)

    def on_validation_epoch_end(self) -> None:
        means = self._validation_tally.means(self.trainer.strategy)
        self._validation_tally.clear()
        self._validation_scores = {f"val/{name}": value for name, value in means.items()}
        self.log_dict(self._validation_scores, sync_dist=True)

    def on_test_epoch_start(self) -> None:
        num_classes = len(self.identity["class_names"])
        self.confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=self.device)
        self._plain_tally, self._augmented_tally = Tally(), Tally()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        images, labels = batch
        if not len(labels):
            return
        evaluation = self.config.evaluation
        plain, augmented = predict_plain_and_augmented(self.network, images, evaluation.tta, evaluation.tta_confidence)
        self._plain_tally.add(nll_loss(plain.clamp(min=_LEAST).log(), labels), plain, labels)
        self._augmented_tally.add(nll_loss(augmented.clamp(min=_LEAST).log(), labels), augmented, labels)
        num_classes = len(self.confusion)
        pairs = labels * num_classes + augmented.argmax(dim=1)
        self.confusion += torch.bincount(pairs, minlength=num_classes**2).view_as(self.confusion)

    def on_test_epoch_end(self) -> None:
        strategy = self.trainer.strategy
        plain, augmented = self._plain_tally.means(strategy), self._augmented_tally.means(strategy)
        self.test_scores = {f"test/{name}": value for name, value in plain.items()}
        self.test_scores |= {f"test/{name}_tta": value for name, value in augmented.items()}
        self.log_dict(self.test_scores, sync_dist=True)
        self.confusion = strategy.reduce(self.confusion, reduce_op="sum").cpu()

    # -- remembering ---------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let the checkpoint explain itself, in plain values."""
        checkpoint["cifar10"] = {**self.identity, "config": self.config.plain(), "history": self.history}
        checkpoint["cifar10_tally"] = self._training_tally.sums()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = list(checkpoint["cifar10"]["history"])
        self._training_tally.restore(checkpoint["cifar10_tally"])
