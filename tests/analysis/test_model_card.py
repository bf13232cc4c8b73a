"""A model card says what was measured, that the rest is missing, and nothing else."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from markdown_it import MarkdownIt

from cifar10.analysis.model_card import description_of, model_card
from cifar10.analysis.model_card_text import code, table, text
from cifar10.config.compose import load_config
from cifar10.errors import UserError
from cifar10.runs.checkpoint_metadata import Metadata
from cifar10.runs.checkpoints import Checkpoint
from cifar10.runs.measured_files import MeasuredFiles

NAMES = ["airplane", "automobile", "cat|<b>`x`", "dog"]
NOTHING = MeasuredFiles(scores=None, evaluation=None, promotion=None)


def checkpoint(*overrides: str, **entries: Any) -> Checkpoint:
    metadata: dict[str, Any] = {
        "format": 1,
        "class_names": NAMES,
        "image_size": 32,
        "data_digest": "d" * 64,
        "precision": "fp32",
        "history": [{"train/loss": 1.0}] * 3,
        "data_name": "cifar10",
        "git_commit": "c" * 40,
        "git_dirty": True,
        "versions": {"torch": "2.15.0"},
        "machine": {"cpu": "AMD EPYC", "cores": 2, "gpu": None},
        "threads": 2,
    }
    config = load_config(["model=simple_cnn", "tracking=none", *overrides])
    weights = {"layer.weight": torch.zeros(4, 3)}
    return Checkpoint(Path("models/first/best.ckpt"), config, Metadata.model_validate(metadata | entries), weights)


def evaluation() -> dict[str, Any]:
    def share(value: float) -> dict[str, Any]:
        return {"value": value, "interval": [value - 0.02, value + 0.02], "correct": 1, "number": 400}

    score = {"precision": 0.9, "recall": 0.95, "f1": 0.92, "support": 100}
    return {
        "split": "test",
        "tta": "mirror",
        "num_images": 400,
        "data_digest": "d" * 64,
        "accuracy": {"plain": share(0.91), "tta": share(0.94)},
        "loss": {"plain": 0.31, "tta": 0.3},
        "macro": {"precision": 0.9, "recall": 0.9, "f1": 0.935},
        "classes": [{**score, "name": name, "recall": 0.8 if name == "dog" else 0.95} for name in NAMES],
        "confusion": [[95, 5, 0, 0], [0, 95, 5, 0], [0, 0, 95, 5], [0, 0, 20, 80]],
        "calibration": {
            "mean_confidence": 0.9,
            "calibration_error": 0.02,
            "calibration_error_tta": 0.03,
            "temperature": None,
        },
        "train": {"num_all_images": 4000},
    }


def promotion() -> dict[str, Any]:
    return {
        "target": {"name": "cifar10", "alias": "champion"},
        "export": {"file": "model.onnx", "sha256": "e" * 64, "bytes": 8_000_000, "engine": "onnxruntime 1.32.0"},
        "parity": {"num_images": 400, "num_flipped": 0, "largest_difference": 8e-7, "lost_points": 0.0},
        "latency": {"seconds": 0.00146, "num_images": 200},
        "machine": {"cpu": "AMD EPYC", "cores": 2},
    }


MEASURED = MeasuredFiles({"wall_seconds": 437.0, "epochs": 11}, evaluation(), promotion())


def test_what_was_not_measured_is_said_to_be_missing_with_the_line_that_measures_it() -> None:
    card = model_card(checkpoint(), NOTHING)
    for line in ("evaluate models/first", "promote --dry_run --checkpoint_name=models/first"):
        assert f"python commands.py {line.replace('models/', '')}\n" in card
    assert card.count("was not measured. To measure it:") == 3
    assert "| time of the whole run | not recorded |" in card and "| MLflow run | not recorded |" in card
    assert "%" not in card.partition("## Intended use")[2].replace("95 %", "")  # no number was invented
    part = model_card(checkpoint(), dataclasses.replace(NOTHING, evaluation=evaluation()))
    assert "python commands.py evaluate first --corruptions=all" in part
    assert "python commands.py evaluate first --honest=data/honest" in part


def test_numbers_are_those_of_the_files() -> None:
    card = model_card(checkpoint(), MEASURED)
    for part in (
        "Accuracy on 400 test images: 94.00% (95 % interval 92.00% to 96.00%).",
        "The least reliable class is `dog`: 80.0% of its 100 test images are recognised.",
        "| training images | 4,000 |",
        "| epochs | 11 |",
        "| time of the whole run | 7.3 minutes |",
        "| hardware | AMD EPYC, 2 cores, 2 threads, no GPU |",
        "| images with another class than the checkpoint | 0 |",
        "median 1.46 ms over 200 images on AMD EPYC, 2 cores, CPU only",
        "--checkpoint_name=models:/cifar10@champion",
        f"| commit | `{'c' * 40}`, with changes that are not in it |",
    ):
        assert part in card
    assert "20 images." in card and "not measured" not in card.partition("## Exported file")[2]


def test_corruptions_and_honest_accuracy_are_there_if_they_were_measured() -> None:
    found = evaluation() | {
        "corruptions": {"fog": [0.9, 0.8], "jpeg_compression": [0.7, 0.5]},
        "corruption_error": 0.275,
        "honest": [{"name": "all", "num_images": 400, "accuracy": 0.94, "interval": [0.92, 0.96]}],
    }
    card = model_card(checkpoint(), dataclasses.replace(MEASURED, evaluation=found))
    assert card.index("| jpeg compression | 60.0% | 50.0% |") < card.index("| fog | 85.0% | 80.0% |")
    assert "| all | 400 | 94.00% | 95 % interval 92.00% to 96.00% |" in card
    assert "was not measured" not in card


def test_the_front_matter_is_that_of_the_hub() -> None:
    card = model_card(checkpoint(), MEASURED)
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["pipeline_tag"] == "image-classification" and front["datasets"] == ["uoft-cs/cifar10"]
    [entry] = front["model-index"]
    [result] = entry["results"]
    assert result["metrics"] == [{"type": "accuracy", "value": 0.94}] and result["dataset"]["split"] == "test"
    own = yaml.safe_load(model_card(checkpoint(data_name="folder"), NOTHING).split("---\n")[1])
    assert "datasets" not in own and "model-index" not in own


def test_names_of_classes_are_neither_markdown_nor_html() -> None:
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(model_card(checkpoint(), MEASURED))
    assert "<b>" not in html and "cat|&lt;b&gt;`x`" in html
    rows = [row for row in re.findall(r"<tr>.*?</tr>", html, re.DOTALL) if "cat|" in row]
    assert rows and all(len(re.findall("<td", row)) == 6 for row in rows)
    assert text("a\nb") == "a\\\\nb" and code("`") == "\\`"
    assert table(("a", "b"), [("1", None)]) == "| a | b |\n| --- | --- |\n| 1 | not recorded |"


@pytest.mark.parametrize("num_classes", [4, 200])
def test_the_description_of_a_version_fits_into_mlflow_s_column(num_classes: int) -> None:
    found = evaluation()
    found["classes"] = [{**found["classes"][0], "name": f"class {number}"} for number in range(num_classes)]
    card = model_card(checkpoint(), dataclasses.replace(MEASURED, evaluation=found))
    description = description_of(card)
    assert len(description) <= 5000
    assert description.startswith("# first\n") and "pipeline_tag" not in description
    if len(card) > 6000:
        assert description.endswith("MODEL_CARD.md among the artifacts of this version.\n")
        assert "\n\n## Training procedure" in description


def test_a_linear_probe_is_described_as_one() -> None:
    card = model_card(checkpoint("experiment=probe", "data_loading.root=photos"), NOTHING)
    assert "linear probe: only the last layer was fitted" in card and "optimizer" not in card


def test_files_about_other_weights_are_left_out(tmp_path: Path) -> None:
    own = dataclasses.replace(checkpoint(), path=tmp_path / "best.ckpt")
    for digest, is_read in (("0" * 64, False), (own.weights_digest, True)):
        (tmp_path / "scores.json").write_text(f'{{"weights_digest": "{digest}"}}')
        assert (MeasuredFiles.of(own).scores is not None) == is_read
    (tmp_path / "promotion.json").write_text(f'{{"weights_digest": "{own.weights_digest}"}}')  # lacks the rest
    assert MeasuredFiles.of(own).promotion is None


def test_a_registered_network_is_named_by_its_address() -> None:
    card = model_card(checkpoint(), NOTHING, "models:/cats@champion")
    assert "\n# cats@champion\n" in card
    assert "python commands.py evaluate models:/cats@champion --output=measured\n" in card  # it has no folder here
    assert "models/first" not in card and "evaluate first" not in card


@pytest.mark.slow
@pytest.mark.parametrize("key", ["accuracy", "loss", "macro", "calibration", "num_images"])
@pytest.mark.parametrize("value", [None, [], {}, "text"])
def test_numbers_of_other_types_are_told(key: str, value: Any) -> None:
    damaged = dataclasses.replace(NOTHING, evaluation={**evaluation(), key: value})
    with pytest.raises(UserError, match=r"report\.json or .*promotion\.json is damaged .*promote again") as told:
        model_card(checkpoint(), damaged)
    assert len(str(told.value).splitlines()) == 1
