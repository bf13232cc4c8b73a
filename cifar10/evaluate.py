"""Entry point of `evaluate`: checkpoint -> its data and network -> the test split -> scores."""

import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from cifar10.analysis.figures import save_figures
from cifar10.config.schema import TrainingConfig
from cifar10.data.class_names import printable
from cifar10.data.image_dataset import ImageDataset
from cifar10.devices import prepare_network
from cifar10.files import make_output_folder, write_text
from cifar10.model import Classifier
from cifar10.runs.checkpoint_names import resolve_checkpoint
from cifar10.runs.checkpoints import Checkpoint, load_checkpoint
from cifar10.runs.run import finite_or_none
from cifar10.runs.trained_data import load_trained_data, moved_line, relocated
from cifar10.system.limits import num_cpus
from cifar10.system.memory import keep_memory_warm
from cifar10.trainer import make_trainer, prepare_cpu
from cifar10.training.data_module import InMemoryDataModule
from cifar10.training.fitting import make_metrics, test
from cifar10.types import Metrics


def evaluate(checkpoint_name: str, output: str | None = None, overrides: Sequence[str] = ()) -> Metrics:
    """Test a checkpoint on the test split of its data; print the scores as JSON and return them.

    Args:
        checkpoint_name: As for `resolve_checkpoint`.
        output: Folder for `evaluation.json`, `confusion.csv` and `confusion.png`; None: print only.
        overrides: Where the data are now, as for `relocated`.

    Raises:
        UserError: The checkpoint or its data cannot be used, or the folder cannot be written.
    """
    checkpoint = load_checkpoint(resolve_checkpoint(checkpoint_name))
    config = checkpoint.config.model_copy(update={"training": _here_and_alone(checkpoint.config.training)})
    if output:
        make_output_folder(Path(output))
    keep_memory_warm()
    prepare_cpu(config.training)
    component = relocated(checkpoint.config, overrides)
    data = load_trained_data(checkpoint, component, moved_line("evaluate", checkpoint_name))
    if data.digest != checkpoint.data_digest:
        print(
            f"warning: these are not the data of the training run (SHA-256 {data.digest[:12]} now, "
            f"{checkpoint.data_digest[:12]} then); the scores are those of the data as they are now",
            file=sys.stderr,
        )
    network = prepare_network(checkpoint.network(), config.training.channels_last, config.training.kernels)
    classifier = Classifier(
        network, config.evaluation, checkpoint.metadata.model_dump(), make_metrics(config, data.num_classes)
    )
    classifier.tta = checkpoint.tta
    folder = Path(output) if output else checkpoint.path.absolute().parent
    trainer = make_trainer(config.training, folder, [], tensorboard=config.tracking.tensorboard)
    module = InMemoryDataModule(data, config.training, config.augmentation, config.evaluation, config.seed)
    scores = test(trainer, classifier, module, checkpoint.path)
    report = _report(scores, checkpoint, data)
    print(report)
    if output:
        write_text(folder / "evaluation.json", f"{report}\n")
        write_text(folder / "confusion.csv", _confusion_table(classifier, data.class_names))
        save_figures([], classifier.confusion.numpy(), data.class_names, folder)
    return scores


def _here_and_alone(training: TrainingConfig) -> TrainingConfig:
    """Return `training` for one process on this machine."""
    accelerator = "auto" if training.accelerator == "gpu" else training.accelerator
    threads = None if training.threads is None else min(training.threads, num_cpus())
    one_process = {"devices": 1, "num_nodes": 1, "accumulate": 1}
    return training.model_copy(update={"accelerator": accelerator, "threads": threads, **one_process})


def _report(scores: Metrics, checkpoint: Checkpoint, data: ImageDataset) -> str:
    report = {
        **{name: finite_or_none(value) for name, value in scores.items()},
        "tta": checkpoint.tta,
        "checkpoint": printable(str(checkpoint.path)),
        "weights_digest": checkpoint.weights_digest,
        "data": data.name,
        "num_images": len(data.test),
        "data_digest": data.digest,
        "training_data_digest": checkpoint.data_digest,
    }
    return json.dumps(report, indent=2, allow_nan=False)


def _confusion_table(classifier: Classifier, class_names: Sequence[str]) -> str:
    """Return a table in CSV with one row for each image, as `dvc plots` reads it."""
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["true", "predicted"])
    for row, column in classifier.confusion.nonzero().tolist():
        writer.writerows([[class_names[row], class_names[column]]] * int(classifier.confusion[row, column]))
    return table.getvalue()
