"""The commands that read files, with the files in a folder in which a small network was trained."""

import pickle
import shutil
import tarfile
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from cifar10.networks.pretrained import TorchvisionNetwork
from cifar10.serving.corrections import CorrectionStore
from tests.faults.reader import Reader
from tests.faults.readers_of_results import READERS_OF_RESULTS
from tests.faults.trained_folder import EXPORTED, IMAGES, run
from tests.serving.test_corrections import correct, encoded
from tests.tiny_run import TINY

# more than 64 MB, so that they are kept on disk
PHOTOS = ["data", "data_loading=folder", "data_loading.root=data/shapes", "data_loading.image_size=512"]
_LISTED = ["infer", "--format=jsonl", "--checkpoint_name=tiny"]
_ON_IMAGES = ["infer", f"--test_dir={IMAGES}"]
_PHOTO = "photo.png"
SIMILAR = ["similar", _PHOTO, f"--test_dir={IMAGES}", "--checkpoint_name=tiny"]
_CIFAR = ["data", "data_loading=cifar10", "data_loading.root=cifar"]
_ARCHIVE = "cifar/cifar-10-python.tar.gz"
_PRETRAINED = ["infer", f"--test_dir={IMAGES}/ring", "model=imagenet", "model.name=squeezenet1_1"]
_CACHED = "torch/hub/checkpoints/squeezenet1_1-b8a52dc0.pth"
_MLFLOW = ("mlflow", "mlflow.tracking", "cifar10.runs.mlflow_store")


def _receipts(name: str, folder: Path) -> None:
    run(folder, "infer", f"--test_dir={IMAGES}", "--checkpoint_name=tiny", "--receipts", f"--output={name}")


def _write(name: str, text: str, folder: Path) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")


def _weights(name: str, folder: Path) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    weights = TorchvisionNetwork(1000, 64, "squeezenet1_1").network.state_dict()
    if name.endswith(".pth"):
        torch.save(weights, folder / name)
    else:
        save_file(dict(weights), folder / name)


def _exported(folder: Path) -> None:
    run(folder, "export", "tiny")


def _evaluated(folder: Path) -> None:
    run(folder, "evaluate", "tiny")


def _recorded(folder: Path) -> None:
    run(folder, "sync", "tiny")


def _corrections(folder: Path) -> None:
    for seed in range(5):
        correct(CorrectionStore(folder / "corrections.db"), encoded(seed), "cat")


def _photo_store(folder: Path) -> None:
    run(folder, *PHOTOS)


def _zip(folder: Path) -> None:
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        for path in sorted((folder / IMAGES).rglob("*.png")):
            archive.write(path, path.name)


def _tar(folder: Path) -> None:
    with tarfile.open(folder / "photos.tar.gz", "w:gz") as archive:
        archive.add(folder / IMAGES, "photos")


def _list(folder: Path) -> None:
    _write("list.txt", "".join(f"{path}\n" for path in sorted((folder / IMAGES).rglob("*.png"))), folder)


def _cifar_batch(folder: Path) -> None:
    batch = folder / "cifar" / "cifar-10-batches-py" / "data_batch_1"
    batch.parent.mkdir(parents=True)
    batch.write_bytes(pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1]}, protocol=2))


def _second_run(folder: Path) -> None:
    run(folder, "train", *TINY, "run_name=second", "seed=1")


_POINTER = "outs:\n- md5: c58f30108f718f92721af3b95e74349a\n  path: cifar-10-python.tar.gz\n  remote: mine\n"
_GROUPING = "groups:\n  round: [disk, ring]\n  straight: [square, cross]\nthreshold: 0.3\nrest: other\n"
_SERVICE = (Path(__file__).resolve().parents[2] / "conf" / "serving" / "default.yaml").read_text(encoding="utf-8")


def copy_photo(folder: Path) -> None:
    """Make the photo that SIMILAR names."""
    shutil.copy(min((folder / IMAGES).glob("ring/*.png")), folder / _PHOTO)


def _embedded(folder: Path) -> None:
    copy_photo(folder)
    run(folder, *SIMILAR)


def _of_run(name: str, *words: str, **more: object) -> Reader:
    return Reader(f"models/tiny/{name}", list(words), **more)  # type: ignore[arg-type]


READERS: dict[str, Reader] = {
    "an exported network": Reader(str(EXPORTED), [*_ON_IMAGES, f"--checkpoint_name={EXPORTED}"], _exported),
    "weights in PyTorch's format": Reader(
        "w.pth", [*_PRETRAINED, "model.weights=w.pth"], partial(_weights, "w.pth"), is_checked=False
    ),
    "weights in the safetensors format": Reader(
        "w.safetensors", [*_PRETRAINED, "model.weights=w.safetensors"], partial(_weights, "w.safetensors"), False
    ),
    "published weights in PyTorch's cache": Reader(
        _CACHED, _PRETRAINED, partial(_weights, _CACHED), environment={"TORCH_HOME": "torch"}, works=False
    ),
    "receipts in CSV": Reader("a.csv", ["verify", "a.csv"], partial(_receipts, "a.csv"), False, True),
    "receipts in JSON Lines": Reader("a.jsonl", ["verify", "a.jsonl"], partial(_receipts, "a.jsonl"), False, True),
    "receipts in Parquet": Reader("a.parquet", ["verify", "a.parquet"], partial(_receipts, "a.parquet"), False, True),
    "a grouping": Reader(
        "g.yaml", [*_LISTED, f"--test_dir={IMAGES}", "grouping=g.yaml"], partial(_write, "g.yaml", _GROUPING), False
    ),
    "settings of the service": Reader(
        "s.yaml", ["serve", "tiny", "serving=s.yaml", "--port=0"], partial(_write, "s.yaml", _SERVICE), works=False
    ),
    "a fitted temperature": Reader(
        "models/tiny/evaluation/report.json",
        ["export", "tiny", "--temperature=models/tiny/evaluation", "--output=out"],
        _evaluated,
        False,
    ),
    "a list of paths": Reader("list.txt", [*_LISTED, "--test_dir=list.txt"], _list, False),
    "a zip archive of images": Reader("photos.zip", [*_LISTED, "--test_dir=photos.zip"], _zip, False),
    "a tar archive of images": Reader("photos.tar.gz", [*_LISTED, "--test_dir=photos.tar.gz"], _tar, False),
    "the configuration of a run": _of_run("config.yaml", "compare", "tiny", "second", make=_second_run),
    "the scores of a run": _of_run("scores.json", "compare", "tiny", "second", make=_second_run),
    "the epochs of a run": _of_run("history.csv", "compare", "tiny", "second", make=_second_run),
    "the configuration of a finished run": _of_run("config.yaml", "train", "--resume=tiny", "tracking=none"),
    "the scores of a finished run": _of_run("scores.json", "train", "--resume=tiny", "tracking=none"),
    "the newest run's configuration": _of_run("config.yaml", "infer", f"--test_dir={IMAGES}"),
    "the newest run's scores": _of_run("scores.json", "infer", f"--test_dir={IMAGES}"),
    "the configuration of a run to record": _of_run("config.yaml", "sync", "tiny", is_checked=False, packages=_MLFLOW),
    "the scores of a run to record": _of_run("scores.json", "sync", "tiny", is_checked=False, packages=_MLFLOW),
    "the epochs of a run to record": _of_run("history.csv", "sync", "tiny", is_checked=False, packages=_MLFLOW),
    "the record of a run": _of_run("run.json", "sync", "tiny", is_checked=False, packages=_MLFLOW),
    "a batch of CIFAR": Reader("cifar/cifar-10-batches-py/data_batch_1", _CIFAR, _cifar_batch, works=False),
    "the archive of CIFAR": Reader(_ARCHIVE, _CIFAR, partial(_write, _ARCHIVE, ""), works=False),
    "a pointer of DVC": Reader(f"{_ARCHIVE}.dvc", _CIFAR, partial(_write, f"{_ARCHIVE}.dvc", _POINTER), works=False),
    "the pixels of decoded photos": Reader("data/cache/test-*/pixels.npy", PHOTOS, _photo_store, False),
    "the records of decoded photos": Reader("data/cache/test-*/records.npy", PHOTOS, _photo_store),
    "embeddings": Reader("data/cache/embeddings-*/*.npz", SIMILAR, _embedded),
    "corrections": Reader("corrections.db", ["feedback", "--store=corrections.db", "--details"], _corrections, False),
    "the database of MLflow": Reader("mlruns/mlflow.db", ["sync", "tiny"], _recorded, False, packages=_MLFLOW),
    **READERS_OF_RESULTS,
}
"""By what the file is."""
