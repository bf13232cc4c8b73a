"""The notebook of the pooling laboratory runs from top to bottom, and shows the picture in place."""

import json
from pathlib import Path

import jupytext
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_notebook_runs_on_small_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {
        "data_loading": "shapes",
        "data_loading.train_size": 80,
        "data_loading.validation_size": 40,
        "data_loading.test_size": 40,
        "training.batch_size": 40,
        "training.epochs": 2,
        "pooling.seeds": "[0]",
        "tracking": "none",
    }
    monkeypatch.setenv("POOLING_SETTINGS", " ".join(f"{key}={value}" for key, value in small.items()))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = jupytext.read(ROOT / "notebooks" / "pooling.py")
    kernel_name = notebook.metadata["kernelspec"]["name"]
    NotebookClient(notebook, timeout=300, kernel_name=kernel_name, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    printed = "".join(output.get("text", "") for output in outputs)
    verdict = json.loads((tmp_path / "models/pooling/laboratory/results.json").read_text())["verdict"]
    assert all(sentence in printed for sentence in verdict)
