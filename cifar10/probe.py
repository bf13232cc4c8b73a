"""Entry point of `train` with a section `probe`: data -> embeddings -> linear head -> test -> scores.

It leaves what training leaves: a run folder with a checkpoint, scores and figures, and a record in MLflow.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import cross_entropy

from cifar10.analysis.embeddings import Embedder
from cifar10.analysis.figures import save_figures
from cifar10.analysis.linear_probe import LinearHead, fit_linear_head
from cifar10.config.advice import command_line
from cifar10.config.build import build, require_buildable
from cifar10.config.schema import Config
from cifar10.config.targets import DATA
from cifar10.data.image_dataset import ImageDataset, Split
from cifar10.errors import UsageError
from cifar10.files import atomic_write, link_or_copy
from cifar10.model import Classifier
from cifar10.networks.heads import embed, find_head
from cifar10.runs.checkpoint_names import BEST, LAST, name_of_run
from cifar10.runs.checkpoints import digest_of
from cifar10.runs.run import Run, open_run
from cifar10.runs.stopwatch import Stopwatch
from cifar10.system.memory import keep_memory_warm
from cifar10.system.signals import Stopped, if_stopped
from cifar10.system.streams import print_message
from cifar10.trainer import make_trainer, prepare_cpu, resolve_accelerator, resolve_precision
from cifar10.training.data_module import InMemoryDataModule
from cifar10.training.fitting import make_metrics, make_network, start_from, test
from cifar10.training.preflight import refuse_headless, refuse_unfit, require_tensorboard
from cifar10.training.tensorboard import write_predictions
from cifar10.types import Metrics

_STILL_BETTER = 0.95
"""Loss over that of the strength beside it, below which a strength at the end of the list is worth a note."""
_TOLERANCE = 1e-2  # of logits, relative to the largest


def probe(config: Config, stopwatch: Stopwatch | None = None) -> Metrics:
    """Fit the head of a frozen network, test and save; return the scores, and print them as one line.

    Args:
        config: The run, with a section `probe`.
        stopwatch: Runs since the program was started; None: from now on.

    Raises:
        UsageError: The network's head is not a linear layer, or several processes are configured.
        UserError: Data, devices, folders or weights are not as needed.
    """
    stopwatch = stopwatch or Stopwatch()
    if config.training.num_processes > 1:
        raise UsageError("a linear probe runs in one process: set training.devices=1")
    require_buildable(config)
    require_tensorboard(config)
    keep_memory_warm()
    prepare_cpu(config.training)
    data: ImageDataset = build(DATA, config.data_loading)
    refuse_unfit(config, data)
    network = make_network(config, data)
    refuse_headless(network, config, data.num_classes)
    initial_weights = start_from(config, network, data)
    run = open_run(config, data, resolve_precision(config), initial_weights=initial_weights)
    try:
        with if_stopped("while the probe was fitted; embeddings so far are kept: type the same line again"):
            scores, digest = _fit_and_test(network, config, data, run, stopwatch)
    except BaseException as error:
        run.close("KILLED" if isinstance(error, Stopped | KeyboardInterrupt) else "FAILED")
        raise
    run.close("FINISHED")
    tta = config.evaluation.tta
    augmented = f"{scores['test/accuracy_tta']:.2%} with {tta}, " if tta != "none" else ""
    print(
        f"test accuracy {augmented}{scores['test/accuracy']:.2%} plain; {scores['wall_seconds']:.0f} s, "
        f"{scores['cpu_seconds']:.0f} s cpu; weights {digest[:12]}",
        flush=True,
    )
    print_message(f"saved    {run.folder}/")
    print_message(f"next     {command_line('infer', test_dir='DIR', checkpoint_name=name_of_run(run.folder))}")
    return scores


def _fit_and_test(
    network: nn.Module, config: Config, data: ImageDataset, run: Run, stopwatch: Stopwatch
) -> tuple[Metrics, str]:
    """Return the scores and the digest of the weights."""
    run.begin(config, sum(parameter.numel() for parameter in network.parameters()), history=[])
    history = [_fit(network, config, data)]
    metadata = {**run.metadata, "config": config.plain()}
    classifier = Classifier(network, config.evaluation, metadata, make_metrics(config, data.num_classes))
    _save(network, {**metadata, "history": history}, run.folder)
    run.record_epochs(history)
    trainer = make_trainer(config, run.folder, [], tensorboard=config.tracking.tensorboard)
    module = InMemoryDataModule(data, config.training, config.augmentation, config.evaluation, config.seed)
    scores = test(trainer, classifier, module, run.folder / BEST)
    scores |= {name: value for name, value in history[0].items() if name.startswith(("train/", "val/"))}
    scores |= stopwatch.seconds()
    digest = digest_of(network.state_dict())
    run.record_scores(scores, config.seed, len(history), digest)
    save_figures(history, classifier.confusion.numpy(), data.class_names, run.folder)
    run.send_files()
    write_predictions(trainer, classifier, data)
    return scores, digest


def _fit(network: nn.Module, config: Config, data: ImageDataset) -> Metrics:
    """Put a fitted head into `network`; return the scores of the training and validation images."""
    assert config.probe is not None
    started = time.monotonic()
    device = torch.device("cuda" if resolve_accelerator(config.training) == "gpu" else "cpu")
    embedder = Embedder(
        network=network.to(device).eval(),
        num_classes=data.num_classes,
        model=config.model,
        image_size=data.image_size,
        device=device,
        precision=resolve_precision(config),
        batch_size=config.evaluation.images_at_once(data.image_size),
        cache=Path(config.probe.cache) if config.probe.cache else None,
    )
    embeddings = embedder.embeddings(data.train.images, "training images")
    labels = data.train.labels.numpy()
    with_bias = find_head(network, data.num_classes)[1].bias is not None
    head = fit_linear_head(embeddings, labels, config.probe.strengths, config.probe.folds, config.seed, with_bias)
    _tell_strength(head)
    _install(head, network, data, device)
    scores: Metrics = {"epoch": 0, "step": 0, **_scores(head, embeddings, data.train, "train")}
    if len(data.validation):
        scores |= _scores(
            head, embedder.embeddings(data.validation.images, "validation images"), data.validation, "val"
        )
    return {**scores, "strength": head.strength, "seconds": time.monotonic() - started}


def _tell_strength(head: LinearHead) -> None:
    losses = ", ".join(f"{strength:g}: {loss:.3f}" for strength, loss in head.losses.items())
    print_message(f"strength {head.strength:g}" + (f"; cross-validated losses {losses}" if losses else ""))
    smallest, *between, largest = sorted(head.losses) or [0.0, 0.0]
    if between and head.strength in (smallest, largest):
        beside, end = (between[0], "smallest") if head.strength == smallest else (between[-1], "largest")
        if head.losses[head.strength] < _STILL_BETTER * head.losses[beside]:
            print_message(f"note: {head.strength:g} is the {end} of probe.strengths; one beyond it may be better")


def _install(head: LinearHead, network: nn.Module, data: ImageDataset, device: torch.device) -> None:
    """Copy the weights into the head of `network`, and check that it computes the same logits.

    Raises:
        UsageError: It does not: something beside a linear layer is between embedding and logits.
    """
    name, layer = find_head(network, data.num_classes)
    state = {"weight": torch.from_numpy(head.weight).reshape(layer.weight.shape)}  # type: ignore[arg-type]
    if layer.bias is not None:
        state["bias"] = torch.from_numpy(head.bias)
    layer.load_state_dict(state)
    images = data.train.images[:8].to(device)
    with torch.inference_mode():
        computed = network(images).cpu().numpy()
    expected = head.logits(embed(network, images, data.num_classes).cpu().numpy())
    if np.abs(computed - expected).max() > _TOLERANCE * np.abs(expected).max():
        raise UsageError(f"the head {name} of this network is followed by more than pooling; choose another model")


def _scores(head: LinearHead, embeddings: NDArray[np.float32], split: Split, name: str) -> Metrics:
    logits = torch.from_numpy(head.logits(embeddings))
    accuracy = (logits.argmax(dim=1) == split.labels).double().mean()
    return {f"{name}/loss": cross_entropy(logits, split.labels).item(), f"{name}/accuracy": accuracy.item()}


def _save(network: nn.Module, metadata: dict[str, Any], folder: Path) -> None:
    """Write `last.ckpt` and `best.ckpt`, in the format of a checkpoint, without the state of an optimizer."""
    weights = {f"network.{name}": tensor.cpu() for name, tensor in network.state_dict().items()}
    with atomic_write(folder / LAST) as file:
        torch.save({"state_dict": weights, "cifar10": metadata}, file)
    link_or_copy(folder / LAST, folder / BEST)
