"""Checkpoints: they explain themselves, and what is not one is refused in words."""

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cifar10.checkpoints import digest_of, load_checkpoint
from cifar10.compose import load_config
from cifar10.errors import CheckpointError
from cifar10.networks.simple_cnn import SimpleCNN


def make_raw(**changes: Any) -> dict[str, Any]:
    network = SimpleCNN(num_classes=3, image_size=16, width=4)
    config = load_config(["data_loading=shapes", "model=simple_cnn", "model.width=4"])
    identity = {
        "format": 1,
        "class_names": ["a", "b", "c"],
        "image_size": 16,
        "data_digest": "0" * 64,
        "precision": "fp32",
        "run_id": None,
        "history": [],
        "config": config.plain(),
    }
    return {
        "state_dict": {f"network.{key}": value for key, value in network.state_dict().items()},
        "cifar10": {**identity, **changes},
    }


def save(path: Path, raw: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(raw, path)
    return path


class Payload:
    """What an attacker would put in: unpickling it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (os.mkdir, (str(self.marker),))


def test_a_checkpoint_gives_back_network_names_and_configuration(tmp_path: Path) -> None:
    raw = make_raw()
    checkpoint = load_checkpoint(save(tmp_path / "a.ckpt", raw))
    assert checkpoint.class_names == ("a", "b", "c")
    assert checkpoint.config.model.arguments["width"] == 4
    network = checkpoint.network()
    assert not network.training
    assert digest_of(network.state_dict()) == checkpoint.weights_digest


def test_the_weights_digest_sees_one_changed_bit(tmp_path: Path) -> None:
    raw = make_raw()
    before = load_checkpoint(save(tmp_path / "a.ckpt", raw)).weights_digest
    raw["state_dict"]["network.head.bias"].view(torch.int32)[0] ^= 1
    assert load_checkpoint(save(tmp_path / "b.ckpt", raw)).weights_digest != before


def _truncated(path: Path) -> None:
    data = save(path, make_raw()).read_bytes()
    path.write_bytes(data[: len(data) // 2])


def _compressed(path: Path) -> None:
    save(path.with_suffix(".raw"), make_raw())
    with (
        zipfile.ZipFile(path.with_suffix(".raw")) as source,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))


def _flipped_bytes(path: Path) -> None:
    data = bytearray(save(path, make_raw()).read_bytes())
    data[60:4000] = bytes(b ^ 0x55 for b in data[60:4000])
    path.write_bytes(data)


def _without(key: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        raw = make_raw()
        del raw["cifar10"][key]
        save(path, raw)

    return make


def _with(**changes: Any) -> Callable[[Path], None]:
    return lambda path: _discard(save(path, make_raw(**changes)))


def _discard(_: object) -> None: ...


MALFORMED: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not a checkpoint"),
    "truncated": _truncated,
    "compressed": _compressed,
    "flipped bytes": _flipped_bytes,
    "old pickle": lambda path: path.write_bytes(pickle.dumps({"state_dict": {}})),
    "empty zip": lambda path: zipfile.ZipFile(path, "w").close(),
    "a list": lambda path: save(path, [1, 2]),
    "a tensor": lambda path: save(path, torch.zeros(3)),
    "foreign": lambda path: save(path, {"state_dict": {}, "epoch": 3}),
    "no state_dict": lambda path: save(path, {"cifar10": make_raw()["cifar10"]}),
    "wrong format": _with(format=99),
    "no class names": _without("class_names"),
    "no config": _without("config"),
    "no digest": _without("data_digest"),
    "class names a string": _with(class_names="abc"),
    "image size a string": _with(image_size="32"),
    "config of another kind": _with(config={"epochs": 3}),
    "a folder": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_what_is_no_checkpoint_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.ckpt"
    MALFORMED[kind](path)
    with pytest.raises(CheckpointError) as refusal:
        load_checkpoint(path)
    assert str(path) in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1


def test_code_in_a_checkpoint_does_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "owned"
    path = save(tmp_path / "evil.ckpt", {**make_raw(), "extra": Payload(marker)})
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        load_checkpoint(path)
    assert not marker.exists()


def test_a_checkpoint_older_than_a_setting_still_loads(tmp_path: Path) -> None:
    raw = make_raw()
    del raw["cifar10"]["config"]["training"]["chunk_seconds"]
    assert load_checkpoint(save(tmp_path / "a.ckpt", raw)).config.training.chunked is False


def test_weights_that_do_not_fit_are_refused_in_one_line(tmp_path: Path) -> None:
    raw = make_raw()
    raw["state_dict"]["network.head.weight"] = torch.zeros(3, 99)
    with pytest.raises(CheckpointError, match="do not fit") as refusal:
        load_checkpoint(save(tmp_path / "a.ckpt", raw)).network()
    assert len(str(refusal.value).splitlines()) == 1


def test_a_target_outside_the_trusted_prefixes_is_not_built(tmp_path: Path) -> None:
    raw = make_raw()
    raw["cifar10"]["config"]["model"] = {"_target_": "os.mkdir", "path": str(tmp_path / "owned")}
    checkpoint_path = save(tmp_path / "a.ckpt", raw)
    with pytest.raises(ValueError, match=r"os\.mkdir"):
        load_checkpoint(checkpoint_path).network()
    assert not (tmp_path / "owned").exists()
