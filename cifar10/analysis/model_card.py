"""The model card of a checkpoint in Markdown, as MLflow and the Hugging Face Hub show it.

All of it comes from the checkpoint and from files that a command has measured. What was not measured is said to be
missing, with the command that measures it. The front matter is that of the Hub:
https://huggingface.co/docs/hub/model-cards.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from cifar10.analysis.model_card_results import accuracy_of, results
from cifar10.analysis.model_card_text import Cell, code, command, listed, shell, table, text
from cifar10.errors import UserError
from cifar10.runs.checkpoint_metadata import UNKNOWN_DATA
from cifar10.runs.checkpoint_names import name_of_run
from cifar10.runs.folder import SCORES
from cifar10.runs.measured_files import EVALUATION, PROMOTION, MeasuredFiles
from cifar10.runs.record import RunRecord
from cifar10.wording import counted

if TYPE_CHECKING:
    from cifar10.config.schema import Config
    from cifar10.runs.checkpoints import Checkpoint

_HUB_DATA = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}
"""Name of a data set -> its name on the Hub."""
_MOST_CLASSES = 30
_REGISTERED = "models:/"
_LONGEST_DESCRIPTION = 5000  # characters: the column of MLflow's database


def model_card(checkpoint: "Checkpoint", files: MeasuredFiles, run: str | None = None) -> str:
    """Return the card of a checkpoint.

    Args:
        checkpoint: Any.
        files: What was measured about it.
        run: Its name for commands; None: that of its folder.

    Raises:
        UserError: A file lacks numbers, or they are of other types.
    """
    try:
        return _card(checkpoint, files, run)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        folder = checkpoint.path.parent
        problem = f"{folder / EVALUATION} or {folder / PROMOTION} is damaged ({repr(error)[:100]})"
        raise UserError(f"{problem}; delete both, and promote again") from error


def _card(checkpoint: "Checkpoint", files: MeasuredFiles, run: str | None) -> str:
    run = run or name_of_run(checkpoint.path.parent)
    title = run.removeprefix(_REGISTERED) if run.startswith(_REGISTERED) else Path(run).name
    sections = [
        f"# {text(title)}",
        _summary(checkpoint, files),
        _use_and_limits(checkpoint, files),
        _training_data(checkpoint, files),
        _procedure(checkpoint, files, run),
        *results(checkpoint, files, run),
        _how_to_use(checkpoint, files, run),
        _provenance(checkpoint, files),
    ]
    return f"{_front_matter(checkpoint, files, title)}\n" + "\n\n".join(sections) + "\n"


def description_of(card: str) -> str:
    """Return a card for MLflow's description of a version: without front matter, and cut before a section if long."""
    body = re.sub(r"\A---\n.*?\n---\n\s*", "", card, flags=re.DOTALL)
    if len(body) <= _LONGEST_DESCRIPTION:
        return body
    rest = "\n\nThe whole card is MODEL_CARD.md among the artifacts of this version.\n"
    kept = body[: _LONGEST_DESCRIPTION - len(rest)]
    end = kept.rfind("\n\n## ")
    return kept[: end if end > 0 else kept.rfind("\n")].rstrip() + rest


def _front_matter(checkpoint: "Checkpoint", files: MeasuredFiles, title: str) -> str:
    data_name = str(checkpoint.metadata.data_name or "unknown")
    hub_name = _HUB_DATA.get(data_name)
    values: dict[str, Any] = {
        "library_name": "onnx",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "onnx", data_name],
        **({"datasets": [hub_name]} if hub_name else {}),
        "metrics": ["accuracy"],
    }
    if files.evaluation is not None:
        accuracy = files.evaluation["accuracy"]["tta"]["value"]
        entry = {
            "task": {"type": "image-classification"},
            "dataset": {"name": data_name, "type": hub_name or data_name, "split": "test"},
            "metrics": [{"type": "accuracy", "value": round(float(accuracy), 4)}],
        }
        values["model-index"] = [{"name": title, "results": [entry]}]
    return f"---\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True)}---\n"


def _summary(checkpoint: "Checkpoint", files: MeasuredFiles) -> str:
    network = checkpoint.config.model.target.rpartition(".")[2]
    num_numbers = sum(tensor.numel() for tensor in checkpoint.weights.values())
    size = checkpoint.image_size
    about = (
        f"An image classifier of {checkpoint.num_classes:,} classes: the network {code(network)} with {num_numbers:,} "
        f"weights and statistics, trained on {text(str(checkpoint.metadata.data_name))}. Input: RGB images of {size} x "
        f"{size} pixels. Output: a probability for each class."
    )
    if files.evaluation is None:
        return about
    return f"{about} Accuracy on {files.evaluation['num_images']:,} test images: {accuracy_of(files.evaluation)}."


def _use_and_limits(checkpoint: "Checkpoint", files: MeasuredFiles) -> str:
    names, size = checkpoint.class_names, checkpoint.image_size
    shown = listed(names[:_MOST_CLASSES])
    more = f", and {len(names) - _MOST_CLASSES:,} more" if len(names) > _MOST_CLASSES else ""
    lines = [
        f"It answers one question: which of these {len(names):,} classes does an image show? {shown}{more}.",
        "It has no answer for anything else: an image of none of these classes gets one of them, perhaps with a high "
        "probability.",
        f"It sees {size} x {size} pixels. An image of another size is made to fit first ("
        f"{checkpoint.preprocessing.describe()}), and details that are lost by this are not seen.",
        "It names one class for the whole image. It does not count or locate objects.",
        "The numbers below hold for images like those of the test split. For others, nothing was measured.",
    ]
    if (weak := _weakest(files.evaluation, names)) is not None:
        lines.append(weak)
    return "## Intended use and limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _weakest(evaluation: Mapping[str, Any] | None, class_names: Sequence[str]) -> str | None:
    """Return sentences on the class with the lowest recall and the most frequent mistake."""
    known = [each for each in (evaluation or {}).get("classes", ()) if each["recall"] is not None]
    if not known:
        return None
    weakest = min(known, key=lambda each: each["recall"])
    return (
        f"The least reliable class is {code(weakest['name'])}: {weakest['recall']:.1%} of its {weakest['support']:,} "
        f"test images are recognised.{_most_frequent_mistake(evaluation or {}, class_names)}"
    )


def _most_frequent_mistake(evaluation: Mapping[str, Any], class_names: Sequence[str]) -> str:
    """Return a sentence; none if there is no mistake, or no matrix as there are too many classes."""
    confusion = np.array(evaluation.get("confusion") or [[0]])
    np.fill_diagonal(confusion, 0)
    row, column = divmod(int(confusion.argmax()), len(confusion))
    number = int(confusion[row, column])
    if not number:
        return ""
    mistake = f"to take {code(class_names[row])} for {code(class_names[column])}"
    return f" The most frequent mistake is {mistake}: {counted(number, 'image')}."


def _training_data(checkpoint: "Checkpoint", files: MeasuredFiles) -> str:
    metadata, settings = checkpoint.metadata, checkpoint.config.data_loading
    trained = (files.evaluation or {}).get("train", {}).get("num_all_images")
    known = metadata.data_digest != UNKNOWN_DATA
    rows: list[Sequence[Cell]] = [
        ("data set", text(str(metadata.data_name))),
        ("read by", code(settings.target)),
        ("classes", f"{checkpoint.num_classes:,}"),
        ("image size", f"{checkpoint.image_size} x {checkpoint.image_size} pixels"),
        ("training images", f"{trained:,}" if trained else None),
        ("SHA-256 of all pixels and labels", code(metadata.data_digest) if known else None),
    ]
    return f"## Training data\n\n{table(('fact', 'value'), rows)}"


def _procedure(checkpoint: "Checkpoint", files: MeasuredFiles, run: str) -> str:
    config, metadata, scores = checkpoint.config, checkpoint.metadata, files.scores or {}
    seconds, epochs = scores.get("wall_seconds"), scores.get("epochs", len(checkpoint.history))
    rows: list[Sequence[Cell]] = [
        ("network", code(config.model.target)),
        *(_training(config, epochs) if config.probe is None else _probe(config)),
        ("seed", f"{config.seed}"),
        ("precision", metadata.precision),
        ("started from", code(metadata.initial_weights) if metadata.initial_weights else _beginning(config)),
        ("time of the whole run", None if seconds is None else f"{seconds / 60:.1f} minutes"),
        ("hardware", _hardware(metadata.machine, metadata.threads)),
    ]
    again = f"All settings are in {code('config.yaml')} of the run, and in the checkpoint. To train it again:"
    return f"## Training procedure\n\n{table(('fact', 'value'), rows)}\n\n{again}\n\n{shell(command('reproduce', run))}"


def _training(config: "Config", epochs: int) -> list[Sequence[Cell]]:
    settings, training = config.plain(), config.training
    optimizer = {key: value for key, value in settings["optimizer"].items() if key != "_target_"}
    augmentation = {key: value for key, value in settings["augmentation"].items() if value not in (0, 0.0, "none")}
    return [
        ("optimizer", f"{code(config.optimizer.target)}, {_pairs(optimizer)}"),
        ("schedule", code(config.schedule.target)),
        ("epochs", f"{epochs:,}"),
        ("batch size", f"{training.batch_size:,}"),
        ("label smoothing", f"{training.label_smoothing:g}"),
        ("augmentation", _pairs(augmentation) or "none"),
    ]


def _probe(config: "Config") -> list[Sequence[Cell]]:
    assert config.probe is not None
    folds = f"strength of regularisation by cross-validation in {config.probe.folds} parts"
    return [("method", f"linear probe: only the last layer was fitted, {folds}")]


def _beginning(config: "Config") -> str:
    """Return the initial weights of a network that did not start from a checkpoint."""
    weights = config.model.arguments.get("weights", "none")
    if weights == "none":
        return "random weights"
    return "published weights" if weights is None else f"weights of the file {code(str(weights))}"


def _pairs(values: Mapping[str, Any]) -> str:
    return text(", ".join(f"{key} {value}" for key, value in values.items() if value is not None))


def _hardware(machine: Mapping[str, Any], threads: int | None) -> str | None:
    if not machine:
        return None
    parts = [str(machine.get("cpu")), f"{machine.get('cores')} cores"]
    parts += [f"{threads} threads"] if threads else []
    return text(", ".join([*parts, f"GPU {machine['gpu']}" if machine.get("gpu") else "no GPU"]))


def _places(files: MeasuredFiles) -> Cell:
    """Return the files that the numbers of the card come from."""
    known = {SCORES: files.scores, EVALUATION: files.evaluation, PROMOTION: files.promotion}
    return listed([name for name, content in known.items() if content is not None]) or None


def _how_to_use(checkpoint: "Checkpoint", files: MeasuredFiles, run: str) -> str:
    target = (files.promotion or {}).get("target")
    address = f"models:/{target['name']}@{target['alias']}" if target else run
    lines = [command("infer", "--test_dir=photos", f"--checkpoint_name={address}")]
    if target:
        lines.append(f"mlflow models serve -m {address} --env-manager local --port 5001")
    size = checkpoint.image_size
    python = (
        "import numpy\nimport onnxruntime\nfrom PIL import Image, ImageOps\n\n"
        'session = onnxruntime.InferenceSession("export/model.onnx")\n'
        'photo = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")\n'
        f"pixels = numpy.asarray(ImageOps.fit(photo, ({size}, {size})))[None]  # uint8 (1, height, width, 3)\n"
        '[probabilities] = session.run(["probabilities"], {"pixels": pixels})\n'
        "print(probabilities[0].argmax())  # the position in the list of classes"
    )
    return (
        "## How to use\n\nWith the program that trained it, and with MLflow:\n\n"
        f"{shell(*lines)}\n\nThe ONNX file alone; the entry {code('cifar10')} of its metadata has the class names:\n\n"
        f"```python\n{python}\n```"
    )


def _provenance(checkpoint: "Checkpoint", files: MeasuredFiles) -> str:
    metadata = checkpoint.metadata
    commit = code(metadata.git_commit) if metadata.git_commit else None
    if commit and metadata.git_dirty:
        commit += ", with changes that are not in it"
    run_id = metadata.run_id or RunRecord(checkpoint.path.parent).run_id
    rows: list[Sequence[Cell]] = [
        ("SHA-256 of the weights", code(checkpoint.weights_digest)),
        ("SHA-256 of the training data", code(metadata.data_digest)),
        ("commit", commit),
        ("SHA-256 of the code", code(metadata.code_digest) if metadata.code_digest else None),
        ("program", metadata.program),
        ("MLflow run", code(run_id) if run_id else None),
        ("versions", text(", ".join(f"{name} {number}" for name, number in metadata.versions.items())) or None),
    ]
    rows.append(("numbers", _places(files)))
    rows.append(("license of the weights", None))
    if metadata.several_origins:
        rows.append(("note", "resumed with other code, versions or hardware; those above are the last ones"))
    return f"## Provenance\n\n{table(('fact', 'value'), rows)}"
