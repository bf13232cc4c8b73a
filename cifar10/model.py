"""The LightningModule: training, validation and test of a network.

Shapes: B images in a micro-batch, K classes.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, nll_loss
from torchmetrics import Metric
from torchmetrics.classification import MulticlassConfusionMatrix

from cifar10.devices import direct_gradients, has_gpu_kernels
from cifar10.errors import UserError
from cifar10.inference.tta import predict_plain_and_augmented
from cifar10.training.batches import Batch
from cifar10.training.captured_step import CapturedStep, can_capture
from cifar10.training.freezing import Freezing
from cifar10.training.hard_example_mining import ExampleSelection
from cifar10.training.metrics import MetricSet, RunningMetrics, own_sums
from cifar10.training.random_seeds import fold_in
from cifar10.training.step import Forward, TrainingStep, make_scheduler, update
from cifar10.types import Metrics, is_quartile

DirectGradients = Callable[[Tensor, Tensor], tuple[Tensor, Tensor] | None]
"""Images and labels -> loss and logits, with the gradients of all parameters set; None if the batch does not fit."""

if TYPE_CHECKING:
    from cifar10.config.schema import EvaluationConfig, TrainingConfig

_STEP_STREAM = 3  # of the random numbers inside a network (dropout); see training/augmentation.py for the others

_LEAST = 1e-12  # smallest probability, so that its logarithm stays finite


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Args:
        settings: The section `training` of the configuration.
        seed: Seed of the random numbers inside the network, such as dropout.
        steps_per_epoch: Optimizer steps per epoch.
        selection: Selects the images of a micro-batch to train on.
        make_optimizer: Network -> optimizer of its parameters.
        schedule: Progress of training in [0, 1] -> factor of the learning rate.
    """

    settings: "TrainingConfig"
    seed: int
    steps_per_epoch: int
    selection: ExampleSelection
    make_optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    schedule: Callable[[float], float]

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.steps_per_epoch * self.settings.epochs


class DivergedError(UserError):
    """The loss or the weights are no longer finite numbers."""


class Classifier(pl.LightningModule):
    """A network in training, or a trained one in a test.

    Args:
        network: uint8 or float (B, 3, H, W) -> logits (B, K).
        evaluation: The section `evaluation` of the configuration.
        metadata: Further content of checkpoints beside weights and history; plain values only.
        metrics: Metrics of the validation and test images by name, beside loss and accuracy.
        recipe: How to train; None for a test only.
    """

    def __init__(
        self,
        network: nn.Module,
        evaluation: "EvaluationConfig",
        metadata: dict[str, Any],
        metrics: Mapping[str, Metric] | None = None,
        recipe: Recipe | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.evaluation = evaluation
        self.metadata = metadata
        self.tta = evaluation.tta
        """Test-time augmentation of the test."""
        self.history: list[Metrics] = []
        """One entry per finished epoch."""
        self.confusion = torch.zeros(0)
        """int64 (K, K) after a test: number of images of class [row] predicted as [column], with augmentation."""
        self.kept: list[tuple[Tensor, Tensor]] | None = None
        """Filled by a test if it is a list: probabilities (B, K) of each batch, plain and augmented, on the CPU."""
        self.test_scores: Metrics = {}
        """Filled by a test; exact, where Lightning's own copies are rounded to float32."""
        metrics, num_classes = metrics or {}, len(metadata["class_names"])
        keeps_batches = recipe is not None and recipe.settings.batch_quartiles
        self._validation_metrics = MetricSet(metrics, keeps_batches)
        self._plain_metrics, self._augmented_metrics = MetricSet(metrics), MetricSet(metrics)
        self._training_sums = RunningMetrics(keeps_batches)
        self.validation_scores: Metrics = {}
        """Of the last validation."""
        self._selection_state: dict[str, Any] = {}
        self._epoch_started = time.monotonic()
        if recipe is not None:
            self.recipe, settings = recipe, recipe.settings
            self.automatic_optimization = not settings.chunked
            self._captured_step: CapturedStep | None = None
            self._direct_gradients: DirectGradients | None = None
            forward = self._compile("default") if settings.compile is True else self.network
            freezing = Freezing(network, num_classes, settings.freeze_until) if settings.freeze_until else None
            self._training_step = TrainingStep(
                forward, recipe.selection, settings.resizing, settings.label_smoothing, freezing
            )

    # -- training ------------------------------------------------------------------------------------------------

    def _compile(self, mode: str) -> Callable[[Tensor], Tensor]:
        """Return the forward pass compiled for each image size of training, and compile the selection's networks.

        Evaluation has batches of many lengths, and uses the network without compilation.
        """
        for module in self.recipe.selection.networks:
            module.compile(mode=mode, dynamic=False)
        compiled: Callable[[Tensor], Tensor] = torch.compile(self.network.forward, mode=mode, dynamic=False)
        return compiled

    def _use_graphs(self) -> None:
        """Replay whole steps as CUDA graphs if they can be captured, else let torch.compile do so with the network."""
        settings, optimizer = self.recipe.settings, self.trainer.optimizers[0]
        captures = self.device.type == "cuda" and settings.chunked
        captures = captures and can_capture(self._training_step, optimizer, settings.accumulate)
        if not (captures and has_gpu_kernels(self.network)):
            forward = self._compile("default" if captures else "reduce-overhead")
            self._training_step = dataclasses.replace(self._training_step, network=forward)
        if captures:
            context = self.trainer.precision_plugin.forward_context
            step = self._training_step
            self._captured_step = CapturedStep(step, self.network, optimizer, context, settings.gradient_clip)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = self.recipe.make_optimizer(self.network)
        scheduler = make_scheduler(optimizer, self.recipe.schedule, self.recipe.num_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_fit_start(self) -> None:
        """Start the selection, or restore its state from the checkpoint; choose how steps are computed."""
        selection = self.recipe.selection
        selection.begin(self.device, self.recipe.make_optimizer, self.recipe.schedule)
        if self._selection_state:
            selection.load_state_dict(self._selection_state)
        if self.recipe.settings.compile == "graphs":
            self._use_graphs()
        elif self._training_step.is_plain and self.recipe.settings.accumulate == self.trainer.world_size == 1:
            with self.trainer.precision_plugin.forward_context():
                self._direct_gradients = direct_gradients(self.network)

    def training_step(self, batch: Batch | Iterator[Batch], batch_idx: int) -> Tensor | None:
        """Train on one micro-batch, or on one chunk of an iterator over micro-batches."""
        if isinstance(batch, Iterator):
            self._train_chunk(batch)
            return None
        return self._loss(batch, batch_idx)

    def _loss(self, batch: Batch, number: int) -> Tensor:
        """Return the mean loss of micro-batch `number` of the epoch, and add it to the running metrics."""
        self._seed(number)
        progress = self._progress(number)
        self._training_step.set_progress(progress)
        forward = self._training_step.forward(batch, number, progress)
        self._count(forward)
        return forward.loss

    def _count(self, forward: Forward) -> None:
        """Add a micro-batch to the running metrics.

        Raises:
            DivergedError: Its loss is not finite; not raised on a GPU or in one of several processes.
        """
        loss = forward.loss
        self._training_sums.add(*forward)
        if loss.device.type == "cpu" and self.trainer.world_size == 1 and not math.isfinite(loss.item()):
            raise self.diverged("the loss is", self.global_step + 1)

    def _progress(self, number: int) -> float:
        """Return the fraction of all optimizer steps done at micro-batch `number` of the epoch."""
        step = self.current_epoch * self.recipe.steps_per_epoch + number // self.recipe.settings.accumulate
        return step / max(1, self.recipe.num_steps)

    def _seed(self, number: int) -> None:
        """Seed the random numbers inside the network by position, so that a resumed run draws the same ones."""
        seed = fold_in(self.recipe.seed, _STEP_STREAM, self.current_epoch, number, self.global_rank)
        # torch.manual_seed would seed all kinds of devices, which takes a tenth of a millisecond.
        is_cuda = self.device.type == "cuda"
        generator = torch.cuda.default_generators[self.device.index] if is_cuda else torch.default_generator
        generator.manual_seed(seed)

    def _train_chunk(self, batches: Iterator[Batch]) -> None:
        """Make optimizer steps for `chunk_seconds` or to the end of the epoch, bitwise as Lightning's loop does.

        Lightning enables autocast for the whole call. Here only the forward pass runs in it, as in its own loop.
        """
        settings = self.recipe.settings
        micro_batches, ends_at = settings.accumulate, time.monotonic() + settings.chunk_seconds
        first = (self.global_step - self.current_epoch * self.recipe.steps_per_epoch) * micro_batches
        optimizer, scheduler = self.trainer.optimizers[0], self.trainer.lr_scheduler_configs[0].scheduler
        with torch.autocast(self.device.type, enabled=False):
            for number, batch in enumerate(batches, first):
                if self._captured_step is not None:
                    self._seed(number)
                    self._training_sums.add(*self._captured_step(batch, number, self._progress(number)))
                    scheduler.step()  # type: ignore[call-arg]
                else:
                    self._compute_gradients(batch, number, micro_batches)
                    if (number + 1) % micro_batches:
                        continue
                    update(optimizer, scheduler, settings.gradient_clip)  # type: ignore[arg-type]
                # Lightning advances global_step only for optimizers that it has wrapped.
                steps = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
                steps.increment_ready()
                steps.increment_completed()
                if time.monotonic() >= ends_at:
                    break
        if self.device.type != "cpu" and not math.isfinite(
            self.running_means()["loss"]
        ):  # one synchronisation per chunk
            raise self.diverged("the loss is", self.global_step)

    def _compute_gradients(self, batch: Batch, number: int, micro_batches: int) -> None:
        """Add the gradients of micro-batch `number` of the epoch, of `micro_batches` of a step."""
        if self._direct_gradients is not None and (computed := self._direct_gradients(*batch)) is not None:
            self._count(Forward(*computed, batch[1]))
            return
        with self.trainer.precision_plugin.forward_context():
            loss = self._loss(batch, number)
        (loss / micro_batches if micro_batches > 1 else loss).backward()

    def on_train_epoch_start(self) -> None:
        self._epoch_started = time.monotonic()

    def on_train_epoch_end(self) -> None:
        """Add the scores of the epoch to Lightning's loggers and the history.

        Raises:
            DivergedError: The loss is not finite; raised in all processes.
        """
        means = self._training_sums.means(self.trainer.strategy) | self._training_sums.quartiles()
        scores = {f"train/{name}": value for name, value in means.items()}
        self._training_sums.clear()
        if not math.isfinite(scores["train/loss"]):
            raise self.diverged("the loss is", self.global_step)
        position = {"epoch": self.current_epoch, "step": self.global_step}
        lr = self.trainer.optimizers[0].param_groups[0]["lr"]
        seconds = time.monotonic() - self._epoch_started
        self._log({**scores, "lr": lr})
        self.history.append({**position, **scores, **self.validation_scores, "lr": lr, "seconds": seconds})

    def _log(self, scores: Metrics) -> None:
        """Give Lightning the scores of an epoch that its loggers and callbacks read; each takes about a millisecond."""
        needed = [name for name in scores if not is_quartile(name)] if self.trainer.loggers else []
        if self.recipe.settings.monitor in scores and not needed:
            needed = [self.recipe.settings.monitor]
        self.log_dict({name: scores[name] for name in needed}, sync_dist=True)

    def is_finite(self) -> bool:
        """Whether all weights and the loss of the epoch so far are finite numbers. Synchronises with the device."""
        floats = [tensor for tensor in self.network.state_dict().values() if tensor.is_floating_point()]
        are_finite = torch.stack([tensor.isfinite().all() for tensor in floats]).all()
        return bool(are_finite) and math.isfinite(self.running_means()["loss"])

    def diverged(self, subject: str, step: int) -> "DivergedError":
        """Return the error that stops a run whose numbers are no longer finite at `step`, counted from 1."""
        return DivergedError(f"{subject} not finite at step {step:,}, in epoch {self.current_epoch + 1}")

    def running_means(self) -> Metrics:
        """Return loss and accuracy of this process over the epoch so far."""
        return self._training_sums.means()

    # -- validation and test -------------------------------------------------------------------------------------

    def validation_step(self, batches: Iterator[Batch], batch_idx: int) -> None:
        """Evaluate all batches of the epoch."""
        for images, labels in batches:
            if len(labels):
                logits = self.network(images).float()
                self._validation_metrics.update(cross_entropy(logits, labels), logits, labels)

    def on_validation_epoch_end(self) -> None:
        scores = self._validation_metrics.compute(self.trainer.strategy)
        self.validation_scores = {f"val/{name}": value for name, value in scores.items()}
        self._log(self.validation_scores)

    def on_test_epoch_start(self) -> None:
        matrix = MulticlassConfusionMatrix(len(self.metadata["class_names"]), validate_args=False)
        self._confusion_matrix = matrix.to(self.device)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        images, labels = batch
        if not len(labels):
            return
        confidence = self.evaluation.tta_confidence
        plain, augmented = predict_plain_and_augmented(self._probabilities, images, self.tta, confidence)
        for probabilities, metrics in ((plain, self._plain_metrics), (augmented, self._augmented_metrics)):
            loss = nll_loss(probabilities.clamp(min=_LEAST).log(), labels)
            metrics.update(loss, probabilities, labels)
        self._confusion_matrix.update(augmented, labels)
        if self.kept is not None:
            self.kept.append((plain.cpu(), augmented.cpu()))

    def _probabilities(self, images: Tensor) -> Tensor:
        return self.network(images).float().softmax(dim=1)  # type: ignore[no-any-return]

    def on_test_epoch_end(self) -> None:
        plain, augmented = (x.compute(self.trainer.strategy) for x in (self._plain_metrics, self._augmented_metrics))
        self.test_scores = {f"test/{name}": value for name, value in plain.items()}
        self.test_scores |= {f"test/{name}_tta": value for name, value in augmented.items()}
        self.log_dict(self.test_scores, sync_dist=True)
        self.confusion = self._confusion_matrix.compute().cpu()
        del self._confusion_matrix

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add metadata, history and the state within the epoch; called in every process."""
        checkpoint["cifar10"] = {**self.metadata, "history": self.history}
        tallies = self._sums_of_processes()
        checkpoint["cifar10_tally"] = own_sums(tallies, rank=0, num_processes=1)
        checkpoint["cifar10_tallies"] = tallies
        checkpoint["cifar10_batches"] = self._training_sums.batches().tolist()
        checkpoint["cifar10_selection"] = self.recipe.selection.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = list(checkpoint["cifar10"]["history"])
        batches = checkpoint.get("cifar10_batches", [[], []])  # older checkpoints have none
        tallies = checkpoint.get("cifar10_tallies", [checkpoint["cifar10_tally"]])  # likewise
        own = own_sums(tallies, self.trainer.global_rank, self.trainer.world_size)
        self._training_sums.restore(own, batches)
        self._selection_state = checkpoint.get("cifar10_selection", {})  # likewise

    def _sums_of_processes(self) -> list[list[float]]:
        """Return the sums of the epoch so far in each process, in all of them."""
        own = self._training_sums.sums()
        if self.trainer.world_size == 1:
            return [own]
        gathered = self.all_gather(torch.tensor(own, dtype=torch.float64, device=self.device))
        assert isinstance(gathered, Tensor)
        return gathered.tolist()
