"""CIFAR-10 and CIFAR-100 in small: random pixels in files of the published form, whose MD5 sums torchvision is told."""

import dataclasses
import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision.datasets import CIFAR10, CIFAR100

from cifar10.constants import CIFAR10_ARCHIVE, CIFAR100_ARCHIVE

NAMES10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
FINE = [f"fine_{index}" for index in range(98)] + ["maple_tree", "bicycle"]
COARSE = [f"coarse_{index}" for index in range(20)]


def make_tiny_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """Write batches of 20 images, two a class, into `root`; return what they hold by file name."""
    batches = {name: _batch(20, seed, labels=list(range(10)) * 2) for seed, (name, _) in enumerate(CIFAR10.train_list)}
    batches["test_batch"] = _batch(20, 9, labels=list(range(10)) * 2)
    files = batches | {"batches.meta": {"label_names": NAMES10}}
    _publish(files, root, CIFAR10, monkeypatch)
    archive = dataclasses.replace(CIFAR10_ARCHIVE, members=_write(files, root / CIFAR10.base_folder), urls=())
    monkeypatch.setattr("cifar10.data.cifar.CIFAR10_ARCHIVE", archive)
    return batches


def make_tiny_cifar100(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """Write 200 training and 100 test images; class i belongs to the coarse class i % 20."""
    labels = {count: list(range(100)) * (count // 100) for count in (200, 100)}
    batches = {
        name: _batch(count, seed, fine_labels=labels[count], coarse_labels=[label % 20 for label in labels[count]])
        for seed, (name, count) in enumerate({"train": 200, "test": 100}.items())
    }
    files = batches | {"meta": {"fine_label_names": FINE, "coarse_label_names": COARSE}}
    _publish(files, root, CIFAR100, monkeypatch)
    archive = dataclasses.replace(CIFAR100_ARCHIVE, members=_write(files, root / CIFAR100.base_folder), urls=())
    monkeypatch.setattr("cifar10.data.cifar.CIFAR100_ARCHIVE", archive)
    return batches


def _batch(count: int, seed: int, **labels: list[int]) -> dict[str, Any]:
    return {"data": np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8), **labels}


def _write(files: dict[str, dict[str, Any]], folder: Path) -> tuple[tuple[str, str], ...]:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    return tuple((name, _md5(content)) for name, content in files.items())


def _publish(files: dict[str, dict[str, Any]], root: Path, published: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for attribute in ("train_list", "test_list"):
        names = [name for name, _ in getattr(published, attribute)]
        monkeypatch.setattr(published, attribute, [[name, _md5(files[name])] for name in names])
    meta = published.meta["filename"]
    monkeypatch.setattr(published, "meta", published.meta | {"md5": _md5(files[meta])})


def _md5(content: dict[str, Any]) -> str:
    return hashlib.md5(pickle.dumps(content, protocol=2)).hexdigest()
