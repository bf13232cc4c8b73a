"""Checkpoints: they explain themselves, and what is not one is refused in words."""

import os
import pickle
import resource
import struct
import time
import zipfile
from collections.abc import Callable, Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from cifar10.config.build import build
from cifar10.config.compose import load_config
from cifar10.config.conf_folder import options
from cifar10.config.schema import RENAMED_TARGETS, TrainingConfig
from cifar10.config.targets import MODEL, SELECTION
from cifar10.errors import CheckpointError
from cifar10.networks.simple_cnn import SimpleCNN
from cifar10.runs.checkpoints import _at_most_parameters, digest_of, load_checkpoint, read_checkpoint


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


@pytest.mark.slow
@pytest.mark.parametrize("model", ["torchvision.models.regnet_x_400mf", *options("model")])
def test_every_network_of_conf_is_loaded_from_its_checkpoint(model: str, tmp_path: Path) -> None:
    choice = ["model=torchvision", f"model._target_={model}"] if "." in model else [f"model={model}"]
    config = load_config(["data_loading=shapes", *choice])
    network = build(MODEL, config.model, num_classes=3, image_size=32)
    weights = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    path = save(tmp_path / "a.ckpt", {**make_raw(config=config.plain(), image_size=32), "state_dict": weights})
    assert load_checkpoint(path).weights_digest == digest_of(network.state_dict())


def test_the_weights_digest_sees_one_changed_bit(tmp_path: Path) -> None:
    raw = make_raw()
    before = load_checkpoint(save(tmp_path / "a.ckpt", raw)).weights_digest
    raw["state_dict"]["network.head.bias"].view(torch.int32)[0] ^= 1
    assert load_checkpoint(save(tmp_path / "b.ckpt", raw)).weights_digest != before


@pytest.mark.slow
def test_a_checkpoint_after_as_many_epochs_as_can_be_configured_is_loaded(tmp_path: Path) -> None:
    (most,) = (bound.le for bound in TrainingConfig.model_fields["epochs"].metadata if hasattr(bound, "le"))
    names = ("train/loss", "train/accuracy", "val/loss", "val/accuracy", "lr", "seconds")
    history = [{"epoch": n, "step": 98 * n, **dict.fromkeys(names, n / 7)} for n in range(most)]
    state = {n: {"step": float(n), "momentum": float(n)} for n in range(1000)}  # of a thousand tensors
    raw = {**make_raw(history=history), "optimizer_states": [state]}
    assert load_checkpoint(save(tmp_path / "a.ckpt", raw)).history == history


@pytest.mark.parametrize(("old", "new"), RENAMED_TARGETS.items())
def test_a_target_of_an_older_checkpoint_has_its_name_of_today(old: str, new: str, tmp_path: Path) -> None:
    raw = make_raw()
    raw["cifar10"]["config"]["selection"] = {"_target_": old}
    section = load_checkpoint(save(tmp_path / "a.ckpt", raw)).config.selection
    assert section.target == new and SELECTION.locate(section.target).__module__ == new.rpartition(".")[0]


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


def _with_config(section: str, **changes: Any) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        raw = make_raw()
        raw["cifar10"]["config"][section] |= changes
        save(path, raw)

    return make


def _with_weight(name: str, tensor: Any) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        raw = make_raw()
        raw["state_dict"][name] = tensor
        save(path, raw)

    return make


def _with_history(entry: Any) -> Callable[[Path], None]:
    return _with(history=[entry])


def _pickled(pickled: bytes) -> Callable[[Path], None]:
    """Return what writes an archive with these bytes in the place of the pickled values, and 64 bytes of numbers."""

    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in {
                "data.pkl": pickled,
                "version": b"3\n",
                "byteorder": b"little",
                "data/0": bytes(64),
            }.items():
                archive.writestr(f"archive/{name}", data)

    return make


def _tensor(shape: Sequence[int] = (4,), stride: Sequence[int] = (1,), numbers: int = 16, offset: int = 0) -> bytes:
    """Return the operations that pickle a tensor of float32 whose numbers are in data/0."""
    return b"ctorch._utils\n_rebuild_tensor_v2\n(%b%b%b%b\x89ccollections\nOrderedDict\n)RtR" % (
        _storage(numbers),
        _long(offset),
        _tuple(shape),
        _tuple(stride),
    )


def _storage(numbers: int) -> bytes:
    kind, key, device = (b"X%b%b" % (struct.pack("<I", len(text)), text) for text in (b"storage", b"0", b"cpu"))
    return b"(%bctorch\nFloatStorage\n%b%b%btQ" % (kind, key, device, _long(numbers))


def _tuple(numbers: Sequence[int]) -> bytes:
    return b"(%bt" % b"".join(map(_long, numbers))


def _long(number: int) -> bytes:
    size = number.bit_length() // 8 + 1
    return b"\x8a%b%b" % (bytes([size]), number.to_bytes(size, "little", signed=True))


def _of_plain(value: Any) -> bytes:
    return pickle.dumps(value, protocol=2)


def _endless() -> dict[str, Any]:
    raw: dict[str, Any] = make_raw()
    raw["cifar10"]["config"]["seed"] = raw
    return raw


def _unfolding(levels: int) -> list[Any]:
    value: list[Any] = [0]
    for _ in range(levels):
        value = [value, value]
    return value


def _overlapping(path: Path) -> None:
    """Two records of the archive's directory that are the same bytes of the file."""
    save(path, make_raw())
    data = path.read_bytes()
    path.write_bytes(data.replace(b"data/1", b"data/0"))


_ARRAY_OF_2_GB = b"\x80\x02cbuiltins\nbytearray\nJ\x00\x00\x00\x77\x85R."
"""A pickle that PyTorch takes for a plain value: what would be loaded if it could be got past the outline."""


def _records(raw: Any = None) -> dict[str, bytes]:
    """Return the records of a good checkpoint."""
    file = BytesIO()
    torch.save(raw or make_raw(), file)
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _archive(records: Iterable[tuple[str, bytes]]) -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in records:
            archive.writestr(name, data)
    return file.getvalue()


def _with_operations(operations: bytes) -> Callable[[Path], None]:
    """Return what writes a good checkpoint with one entry more, which these operations of the pickle machine make."""

    def make(path: Path) -> None:
        records = _records()
        records["archive/data.pkl"] = records["archive/data.pkl"][:-1] + b"X\x01\x00\x00\x00z" + operations + b"s."
        path.write_bytes(_archive(records.items()))

    return make


def _other_case(path: Path) -> None:
    """PyTorch finds records whatever the case of their names, so it could take either of these two."""
    path.write_bytes(_archive([*_records().items(), ("archive/DATA.PKL", _ARRAY_OF_2_GB)]))


def _old_kind_before_an_archive(path: Path) -> None:
    """Python finds an archive by its end, PyTorch by its beginning, and else reads the file as it was saved once."""
    old = [pickle.dumps(value, protocol=2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    path.write_bytes(b"".join(old) + _ARRAY_OF_2_GB + pickle.dumps([], protocol=2) + _archive(_records().items()))


def _two_directories(path: Path) -> None:
    """Python reads the directory that lies before the end, PyTorch the one that the end points to."""
    good = _records()
    archives = [_archive(good.items()), _archive((good | {"archive/data.pkl": _ARRAY_OF_2_GB}).items())]
    (records, directory), (evil_records, evil_directory) = (_parted(archive) for archive in archives)
    moved, position = bytearray(directory), 0
    while position < len(moved):  # Python adds the distance between the two directories to each record's place
        lengths = struct.unpack_from("<3H", moved, position + 28)
        place = struct.unpack_from("<I", moved, position + 42)[0] + len(evil_records) - len(directory)
        struct.pack_into("<I", moved, position + 42, max(place, 0))
        position += 46 + sum(lengths)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, *[len(good)] * 2, len(moved), len(evil_records + records), 0)
    path.write_bytes(evil_records + records + evil_directory + moved + end)


def _parted(archive: bytes) -> tuple[bytes, bytes]:
    """Return the records of an archive and their directory, without its end."""
    *_, size, offset, _ = struct.unpack("<4s4H2IH", archive[-22:])
    return archive[:offset], archive[offset : offset + size]


def _nested_tuples(levels: int) -> bytes:
    return b"K\x00" + b"q\xf0h\xf0\x86" * levels


def _numbers_of_one_hash(count: int) -> bytes:
    return b"".join(_long(number * (2**61 - 1)) + b"N" for number in range(1, count))


def _state_of_one_tensor(path: Path) -> None:
    raw = make_raw()
    once = torch.zeros(100_000, dtype=torch.float64)
    save(path, {**raw, "optimizer_states": [{"state": {0: {f"moment{number}": once for number in range(1000)}}}]})


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
    "class names that are numbers": _with(class_names=[1, 2, 3]),
    "class names that are lists": _with(class_names=[["a"], ["b"], ["c"]]),
    "a class name of a lone surrogate": _with(class_names=["a", "b", "\udcff"]),
    "an empty class name": _with(class_names=["a", "b", ""]),
    "a class named twice": _with(class_names=["a", "b", "a"]),
    "one class": _with(class_names=["a"]),
    "no class": _with(class_names=[]),
    "image size 0": _with(image_size=0),
    "image size -5": _with(image_size=-5),
    "image size True": _with(image_size=True),
    "image size 10^18": _with(image_size=10**18),
    "image size of 600 digits": _with(image_size=10**600),
    "image size not a number": _with(image_size=float("nan")),
    "format True": _with(format=True),
    "format a list": _with(format=[1]),
    "digest a number": _with(data_digest=5),
    "digest of other letters": _with(data_digest="x" * 64),
    "precision unknown": _with(precision="fp7"),
    "precision null": _with(precision=None),
    "run id with a path": _with(run_id="../../etc"),
    "history a dict": _with(history={"epoch": 1}),
    "history of numbers": _with(history=[1, 2]),
    "history of strings": _with_history({"epoch": "one"}),
    "history of tensors": _with_history({"epoch": torch.zeros(2)}),
    "history with numbers as keys": _with_history({1: 1.0}),
    "versions of lists": _with(versions={"torch": [2, 15]}),
    "config with a tensor": _with_config("training", epochs=torch.zeros(1)),
    "config with a negative number": _with_config("training", epochs=-1),
    "config with NaN": _with_config("training", label_smoothing=float("nan")),
    "config with an unknown key": _with_config("training", epoch=1),
    "config with a number as a key": _with(config={1: 2}),
    "config without a model": lambda path: save(path, _without_section("model")),
    "config within itself": lambda path: save(path, _endless()),
    "values that unfold to a billion": _with(versions={"torch": _unfolding(30)}),
    "values nested a thousand deep": _with(versions=eval("[" * 90 + "]" * 90)),
    "a width of a million": _with_config("model", width=10**6),
    "a width of 10^18": _with_config("model", width=10**18),
    "a width of 600 digits": _with_config("model", width=10**600),
    "a width that is a string": _with_config("model", width="4"),
    "a setting that the network lacks": _with_config("model", depth=4),
    "keys that are numbers": lambda path: save(path, {**make_raw(), "state_dict": {1: torch.zeros(2)}}),
    "keys that are tuples": lambda path: save(path, {**make_raw(), "state_dict": {("a", 1): torch.zeros(2)}}),
    "weights that are no tensors": _with_weight("network.head.bias", [1.0, 2.0, 3.0]),
    "weights that are missing": lambda path: save(path, {**make_raw(), "state_dict": {}}),
    "a weight too many": _with_weight("network.more", torch.zeros(3)),
    "a weight of another shape": _with_weight("network.head.bias", torch.zeros(99)),
    "a weight of another type": _with_weight("network.head.bias", torch.zeros(3, dtype=torch.float64)),
    "a complex weight": _with_weight("network.head.bias", torch.zeros(3, dtype=torch.complex64)),
    "an int8 weight": _with_weight("network.head.bias", torch.zeros(3, dtype=torch.int8)),
    "a sparse weight": _with_weight("network.head.bias", torch.zeros(3).to_sparse()),
    "a weight without numbers": _with_weight("network.head.bias", torch.zeros(3, device="meta")),
    "a weight of one number, expanded": _with_weight("network.head.bias", torch.zeros(1).expand(3)),
    "a weight expanded to a terabyte": _with_weight("network.head.bias", torch.zeros(1).expand(2**38)),
    "a storage that claims more than it has": _pickled(b"\x80\x02" + _tensor(numbers=10**9) + b"."),
    "a tensor that claims more than its storage": _pickled(b"\x80\x02" + _tensor(shape=(400,)) + b"."),
    "a tensor that begins before its storage": _pickled(b"\x80\x02" + _tensor(offset=-4) + b"."),
    "an array of ten gigabytes": _pickled(b"\x80\x02cbuiltins\nbytearray\n(L10000000000L\ntR."),
    "a memo of two billion places": _pickled(b"\x80\x02Nr\xff\xff\xff\x7f."),
    "a pickle of protocol 5": _pickled(pickle.dumps(bytearray(9), protocol=5)),
    "a pickle that ends early": _pickled(_of_plain({"state_dict": {}})[:-3]),
    "a pickle that is only a stop": _pickled(b"\x80\x02."),
    "a pickle with no values": _pickled(b""),
    "ten million values": _pickled(b"\x80\x02](" + b"N" * 10**7 + b"e."),
    "records twice": _overlapping,
    "a network that cannot be built without memory": _with(
        config={
            **load_config(["data_loading=shapes"]).plain(),
            "model": {"_target_": "torchvision.models.regnet_y_128gf"},
        }
    ),
    "records of one name but for the case": _other_case,
    "a checkpoint of the old kind before an archive": _old_kind_before_an_archive,
    "an archive with two directories": _two_directories,
    "a text after the archive": lambda path: path.write_bytes(_archive(_records().items()) + b"PK"),
    "a tensor that is expanded later": _with_operations(
        _tensor(shape=(3,), numbers=3) + b"(" + _storage(3) + _long(0) + _tuple([2**38]) + _tuple([0]) + b"tb"
    ),
    "an ordered dict without its methods": _with_operations(b"ccollections\nOrderedDict\n)R}X\x05\0\0\0itemsK\1sb"),
    "keys that take an hour to hash": _with_operations(b"}" + _nested_tuples(40) + b"Ns"),
    "keys of one hash": _with_operations(b"}(" + _numbers_of_one_hash(50_000) + b"u"),
    "a shape of giant numbers": _with_operations(_tensor([2**2000] * 30_000, [0] * 30_000, numbers=3)),
    "a string that occurs three thousand times": _with_config("model", width=["a" * 900_000] * 3000),
    "a tensor that occurs a thousand times": _state_of_one_tensor,
    "thirty thousand tensors": _with_operations(b"](" + _tensor(shape=(3,), numbers=3) * 30_000 + b"e"),
}


def _without_section(name: str) -> dict[str, Any]:
    raw = make_raw()
    del raw["cifar10"]["config"][name]
    return raw


@pytest.mark.slow
@pytest.mark.parametrize("kind", MALFORMED)
def test_what_is_no_checkpoint_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.ckpt"
    MALFORMED[kind](path)
    torchvision.models.list_models()  # imported before the clock starts
    memory, started = peak_memory(), time.process_time()
    with pytest.raises(CheckpointError) as refusal:
        load_checkpoint(path)
    assert time.process_time() - started < 1.0
    assert peak_memory() - memory < 300e6
    assert str(path) in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1
    assert len(str(refusal.value)) < len(str(path)) + 300


def peak_memory() -> float:
    """Return the most bytes that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def test_one_bit_of_a_tensor_that_differs_is_noticed(tmp_path: Path) -> None:
    path = save(tmp_path / "a.ckpt", make_raw())
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        largest = max((archive.read(name) for name in archive.namelist() if "/data/" in name), key=len)
    content[content.index(largest) + len(largest) // 2] ^= 4
    path.write_bytes(content)
    for read in (load_checkpoint, read_checkpoint):
        with pytest.raises(CheckpointError, match=r"is damaged: the checksum of \S+ differs"):
            read(path)


def test_building_stops_once_there_are_more_parameters_than_the_file_can_have() -> None:
    with pytest.raises(ValueError, match="more parameters"), _at_most_parameters(3):
        SimpleCNN(num_classes=3, image_size=16)
    SimpleCNN(num_classes=3, image_size=16)


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
        load_checkpoint(save(tmp_path / "a.ckpt", raw))
    assert len(str(refusal.value).splitlines()) == 1


HOSTILE_TARGETS = [
    "os.mkdir",
    "cifar10.data.download.download",
    "cifar10.training.checkpointing.amend_checkpoint",
    "cifar10.demo.demo",
    "cifar10.data.shapes.shapes",
    "torch.optim.SGD",
    "torchvision.models.get_model",
    "torchvision.models.detection.fasterrcnn_resnet50_fpn",
]


@pytest.mark.parametrize("target", HOSTILE_TARGETS)
def test_a_checkpoint_names_a_network_or_is_refused_and_nothing_is_called(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    raw = make_raw()
    raw["cifar10"]["config"]["model"] = {
        "_target_": target,
        "path": "owned",
        "url": "http://127.0.0.1:9/x",
        "part": "p",
    }
    path = save(tmp_path / "a.ckpt", raw)
    with pytest.raises(CheckpointError, match="cannot be built") as refusal:
        load_checkpoint(path)
    assert len(str(refusal.value).splitlines()) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["a.ckpt"]
