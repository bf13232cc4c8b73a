"""The LightningModule: what a step learns from, what is counted, and what a checkpoint knows about itself.

Shapes: B images in a micro-batch, K classes.
"""

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, nll_loss

from cifar10.config.targets import OPTIMIZER, SCHEDULE, Role
from cifar10.errors import UserError
from cifar10.inference.tta import predict_plain_and_augmented
from cifar10.training.batches import Batch, BatchStream
from cifar10.training.hard_example_mining import AllExamples, ExampleSelection
from cifar10.training.resizing import pixels_at, resize
from cifar10.training.running_metrics import RunningMetrics
from cifar10.types import Metrics

if TYPE_CHECKING:
    from cifar10.config.schema import Component, Config

_STEP_STREAM = 3  # of the random numbers inside a network (dropout); see data/augmentation.py for the others

_MASK = 2**64 - 1
_LEAST = 1e-12  # probability, so that its logarithm stays finite


def _build(role: Role, component: "Component", **provided: Any) -> Any:
    from cifar10.config.build import (
        build,  # checks arguments with pydantic; what a plain loop needs of this does without
    )

    return build(role, component, **provided)


def fold_in(*numbers: int) -> int:
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


class DivergedError(UserError):
    """The loss or the weights are no longer finite numbers."""


class Classifier(pl.LightningModule):
    """A network and how it learns.

    Args:
        network: uint8 or float (B, 3, H, W) -> logits (B, K).
        config: The run.
        metadata: What checkpoints say of themselves beside weights and configuration; plain values only.
        steps_per_epoch: Optimizer steps; needed for training only.
        selection: Which images of a batch to learn from; None: all.
    """

    def __init__(
        self,
        network: nn.Module,
        config: "Config",
        metadata: dict[str, Any],
        steps_per_epoch: int = 0,
        selection: ExampleSelection | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = not config.training.chunked
        self.steps_per_epoch = steps_per_epoch
        self.network = network
        self.selection = selection or AllExamples()
        self.config = config
        self.metadata = metadata
        self.tta = config.evaluation.tta
        """Test-time augmentation of the test."""
        self.history: list[Metrics] = []
        """One entry per finished epoch."""
        self.confusion = torch.zeros(0)
        """int64 (K, K) after a test: images of class [row] taken for class [column], with test-time augmentation."""
        self._compiled = self._compile() if config.training.compile else None
        self.test_scores: Metrics = {}
        """Filled by a test; exact, where Lightning's own copies are rounded to float32."""
        self._validation_scores: Metrics = {}
        self._selection_state: dict[str, Any] = {}
        self._training_tally = RunningMetrics()
        self._validation_tally = RunningMetrics()
        self._epoch_started = time.monotonic()

    # -- learning ------------------------------------------------------------------------------------------------

    def _compile(self) -> Callable[[Tensor], Tensor]:
        """Return the network's way forward for learning, compiled, and compile what selects.

        Learning has few sizes of images, and each deserves code of its own: code for any size would be slow.
        Evaluation has batches of many lengths, and goes on as it is.
        """
        options: dict[str, Any] = {"dynamic": False}
        if self.config.training.compile == "graphs":
            options["mode"] = "max-autotune"
        for module in self.selection.networks:
            module.compile(**options)
        compiled: Callable[[Tensor], Tensor] = torch.compile(self.network.forward, **options)
        return compiled

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizer and let the schedule move its rates at every step."""
        optimizer, schedule = self._optimizer_for(self.network), _build(SCHEDULE, self.config.schedule)
        num_steps = self.steps_per_epoch * self.config.training.epochs
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(min(step / num_steps, 1.0)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _optimizer_for(self, network: nn.Module) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = _build(
            OPTIMIZER, self.config.optimizer, network=network, params=network.parameters()
        )
        return optimizer

    def on_fit_start(self) -> None:
        """Let the selection begin where the checkpoint, if there is one, has left it."""
        self.selection.begin(self.device, self._optimizer_for, _build(SCHEDULE, self.config.schedule))
        if self._selection_state:
            self.selection.load_state_dict(self._selection_state)

    def training_step(self, batch: Batch | BatchStream, batch_idx: int) -> Tensor | None:
        """Learn from one micro-batch, or from as many as a chunk takes out of a stream of them."""
        if isinstance(batch, BatchStream):
            self._learn_chunk(batch)
            return None
        return self._loss(batch, batch_idx)

    def _loss(self, batch: Batch, number: int) -> Tensor:
        """Return the mean loss of what is learnt from micro-batch `number` of the epoch, and count it."""
        images, targets = batch
        training, progress = self.config.training, self._progress(number)
        self._seed(number)
        images = resize(images, pixels_at(progress, training.resizing, images.shape[-1]))
        images, targets = self.selection.choose((images, targets), number, progress, training.label_smoothing)
        logits = (self._compiled or self.network)(images).float()  # (B, K)
        loss = cross_entropy(logits, targets, label_smoothing=training.label_smoothing)
        self._training_tally.add(loss, logits.detach(), targets)
        if loss.device.type == "cpu" and self.trainer.world_size == 1 and not math.isfinite(loss.item()):
            raise self.diverged("the loss is", self.global_step + 1)
        return loss

    def _progress(self, number: int) -> float:
        """Return the part of all optimizer steps that is done at micro-batch `number` of the epoch."""
        training = self.config.training
        step = self.current_epoch * self.steps_per_epoch + number // training.accumulate
        return step / max(1, self.steps_per_epoch * training.epochs)

    def _seed(self, number: int) -> None:
        """Key the random numbers inside the network by position, so that a resumed run draws the same ones."""
        seed = fold_in(self.config.seed, _STEP_STREAM, self.current_epoch, number, self.global_rank)
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
        if self.device.type != "cpu" and not math.isfinite(self.running_means()["loss"]):  # one wait a chunk
            raise self.diverged("the loss is", self.global_step)

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
        """Close the epoch: its scores go to Lightning's loggers and into the history.

        Raises:
            DivergedError: The loss is not finite; the same in all processes.
        """
        scores = {f"train/{name}": value for name, value in self._training_tally.means(self.trainer.strategy).items()}
        self._training_tally.clear()
        if not math.isfinite(scores["train/loss"]):
            raise self.diverged("the loss is", self.global_step)
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

    def is_finite(self) -> bool:
        """Whether all weights and the loss of the epoch so far are finite numbers. This waits for the device."""
        floats = [tensor for tensor in self.network.state_dict().values() if tensor.is_floating_point()]
        are_finite = torch.stack([tensor.isfinite().all() for tensor in floats]).all()
        return bool(are_finite) and math.isfinite(self.running_means()["loss"])

    def diverged(self, subject: str, step: int) -> "DivergedError":
        """Return the error that stops a run whose numbers are no longer finite at `step`, counted from 1."""
        return DivergedError(f"{subject} not finite at step {step:,}, in epoch {self.current_epoch + 1}")

    def running_means(self) -> Metrics:
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
        num_classes = len(self.metadata["class_names"])
        self.confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=self.device)
        self._plain_tally, self._augmented_tally = RunningMetrics(), RunningMetrics()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        images, labels = batch
        if not len(labels):
            return
        confidence = self.config.evaluation.tta_confidence
        plain, augmented = predict_plain_and_augmented(self._probabilities, images, self.tta, confidence)
        self._plain_tally.add(nll_loss(plain.clamp(min=_LEAST).log(), labels), plain, labels)
        self._augmented_tally.add(nll_loss(augmented.clamp(min=_LEAST).log(), labels), augmented, labels)
        num_classes = len(self.confusion)
        pairs = labels * num_classes + augmented.argmax(dim=1)
        self.confusion += torch.bincount(pairs, minlength=num_classes**2).view_as(self.confusion)

    def _probabilities(self, images: Tensor) -> Tensor:
        return self.network(images).float().softmax(dim=1)  # type: ignore[no-any-return]

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
        checkpoint["cifar10"] = {**self.metadata, "config": self.config.plain(), "history": self.history}
        checkpoint["cifar10_tally"] = self._training_tally.sums()
        checkpoint["cifar10_selection"] = self.selection.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = list(checkpoint["cifar10"]["history"])
        self._training_tally.restore(checkpoint["cifar10_tally"])
        self._selection_state = checkpoint.get("cifar10_selection", {})  # older checkpoints have none
