"""The Lightning Trainer of a run: devices, precision, callbacks, loggers."""

import importlib.util
import logging
import sys
import warnings
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from pytorch_lightning.callbacks import Callback, EarlyStopping, EMAWeightAveraging, ProgressBar

from cifar10.config.schema import Config, TrainingConfig
from cifar10.devices import fastest_precision, limit_threads
from cifar10.errors import UsageError, UserError
from cifar10.system.processes import find_processes, prepare_launch
from cifar10.training.checkpointing import AtomicCheckpointIO
from cifar10.training.tensorboard import TensorBoardFiles

Precision = Literal["fp32", "bf16", "fp16"]

_LIGHTNING_PRECISION: dict[Precision, Any] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}

# Warnings of Lightning that are expected or do not apply: the data set is in memory, and there is no DataLoader.
_EXPECTED_WARNINGS = (
    r".*The number of training batches.*is smaller than the logging interval.*",
    r".*your dataloader is not resumable.*",
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",
    r".*callbacks used to create the checkpoint need to be provided.*",
    r".*Total length of `list` across ranks is zero.*",
)


def resolve_accelerator(training: TrainingConfig) -> Literal["cpu", "gpu"]:
    """Return the accelerator of the run.

    Raises:
        UsageError: A GPU is requested and there is none, or fewer than `devices`.
    """
    num_gpus = torch.cuda.device_count()
    if training.accelerator == "cpu" or (training.accelerator == "auto" and num_gpus == 0):
        return "cpu"
    if num_gpus < training.devices:
        fewer = f"training.devices={num_gpus} or " if num_gpus else ""
        raise UsageError(
            f"training.devices={training.devices} GPUs are required and there are {num_gpus}; "
            f"set {fewer}training.accelerator=cpu"
        )
    return "gpu"


def resolve_precision(config: Config) -> Precision:
    """Return the precision of the run: as configured, or for `auto` the fastest one on this machine."""
    training = config.training
    if training.precision != "auto":
        return training.precision
    device = torch.device("cuda" if resolve_accelerator(training) == "gpu" else "cpu")
    return fastest_precision(device, with_kernels=training.kernels and not training.compile, target=config.model.target)


def prepare_cpu(training: TrainingConfig) -> None:
    """Limit the CPU threads of this process to its share of the processors."""
    sharing = training.devices if resolve_accelerator(training) == "cpu" else 1
    if training.threads is None:
        limit_threads(sharing)
    else:
        torch.set_num_threads(training.threads)


def make_trainer(
    config: Config,
    folder: Path,
    callbacks: list[Callback],
    is_higher_better: bool = True,
    tensorboard: bool = False,
) -> pl.Trainer:
    """Return the Trainer for a run in `folder`.

    Args:
        config: Of the run.
        folder: The run folder, which exists.
        callbacks: Progress and saving, made by the caller; averaging and early stopping are added as configured.
        is_higher_better: Whether a higher value of `training.monitor` is better.
        tensorboard: Write TensorBoard event files into `folder`.

    Raises:
        UserError: The configured devices are missing, or the package tensorboard is.
    """
    training, precision = config.training, resolve_precision(config)
    if tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise UserError(
            f"tracking.tensorboard=true needs a package: {sys.executable} -m pip install 'tensorboard>=2.18'"
        )
    for message in _EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    if resolve_accelerator(training) == "gpu" and precision != "fp32":
        torch.set_float32_matmul_precision("high")  # TF32 for float32 products: it is more precise than bf16
    if training.ema_decay is not None:
        callbacks = [EMAWeightAveraging(decay=training.ema_decay), *callbacks]  # a step is averaged before it is saved
    if training.early_stopping is not None and training.monitor is not None:
        mode = "max" if is_higher_better else "min"
        callbacks = [*callbacks, EarlyStopping(training.monitor, mode=mode, patience=training.early_stopping)]
    trainer = pl.Trainer(
        default_root_dir=folder,
        accelerator=resolve_accelerator(training),
        devices=training.devices,
        num_nodes=training.num_nodes,
        strategy="ddp" if training.num_processes > 1 else "auto",
        precision=_LIGHTNING_PRECISION[precision],
        max_epochs=training.epochs,
        accumulate_grad_batches=1 if training.chunked else training.accumulate,  # in chunks, Classifier does both
        gradient_clip_val=None if training.chunked else training.gradient_clip,
        callbacks=callbacks,
        logger=TensorBoardFiles(folder) if tensorboard else False,
        plugins=[AtomicCheckpointIO(), _cluster_environment(training)],
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_model_summary=False,
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),  # Lightning's uses stdout
        benchmark=True,
    )
    if isinstance(trainer.logger, TensorBoardFiles):
        trainer.logger.trainer = trainer
    # Lightning would handle SIGTERM itself, exit with code 0, and send a broadcast from within the handler.
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    return trainer


def _cluster_environment(training: TrainingConfig) -> ClusterEnvironment:
    """Return how the processes find each other. Without it, Lightning would use any leftover variable."""
    processes = find_processes(training)
    prepare_launch(processes)
    if processes.launcher == "torchrun":
        return TorchElasticEnvironment()
    if processes.launcher == "srun":
        return SLURMEnvironment(auto_requeue=False)
    environment = LightningEnvironment()
    environment.set_global_rank(processes.rank)
    return environment
