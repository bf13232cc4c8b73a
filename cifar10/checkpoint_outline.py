"""The outline of a checkpoint file: everything in it but the numbers of its tensors, read before anything is loaded.

A checkpoint may come from a stranger. `torch.load(weights_only=True)` runs no code, but it believes sizes: a few bytes
can claim a tensor, a list or a byte array of any length. So the file is first read by an unpickler that knows only the
types in a checkpoint of this program, and that builds an `OutlinedTensor` where a tensor would be. What it accepts is
bounded in memory and time, and can be checked against the network that it is for.
"""

import math
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, NamedTuple

from cifar10.errors import CheckpointError

_MOST_PICKLE_BYTES = 16 * 2**20  # a ResNet-50 with AdamW, after a thousand epochs, takes 0.4 MB
_MOST_OPERATIONS = 1_000_000  # of the pickle machine, and values in the outline
_DEEPEST = 64  # containers within containers

_BYTES_OF_TYPE = {
    "DoubleStorage": ("float64", 8),
    "FloatStorage": ("float32", 4),
    "HalfStorage": ("float16", 2),
    "BFloat16Storage": ("bfloat16", 2),
    "LongStorage": ("int64", 8),
    "IntStorage": ("int32", 4),
    "ByteStorage": ("uint8", 1),
    "BoolStorage": ("bool", 1),
}
_PICKLE_OPERATIONS = frozenset(
    [
        *("PROTO", "STOP", "MARK", "GLOBAL", "REDUCE", "BUILD", "BINPERSID"),
        *("BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
        *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
        *("BINUNICODE", "SHORT_BINUNICODE", "EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_LIST", "APPEND", "APPENDS"),
        *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    ]
)
"""What `torch.save` writes for plain values and tensors."""


class OutlinedTensor(NamedTuple):
    """A tensor in a file, without its numbers."""

    dtype: str
    """As `torch.dtype` is printed, without `torch.`."""
    shape: tuple[int, ...]


class _Storage(NamedTuple):
    dtype: str
    length: int
    """Numbers, all of them in the file."""


def read_outline(file: BinaryIO, path: Path) -> Any:
    """Return what the checkpoint in `file` holds: plain values, and an `OutlinedTensor` for each tensor.

    Args:
        file: Opened for reading bytes; where it stands afterwards is undefined.
        path: For error messages.

    Raises:
        CheckpointError: It is damaged, claims more than it holds, or holds more than plain values and dense tensors.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            sizes = _record_sizes(archive, path)
            pickled = _read_pickle(archive, path)
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
        raise CheckpointError(f"{path} is not a checkpoint, or was cut off: {first_line(error)}") from None
    try:
        _refuse_strange_operations(pickled)
        outline = _OutlineUnpickler(BytesIO(pickled), sizes).load()
        _refuse_endless(outline)
    except _Foreign as error:
        raise CheckpointError(f"{path} holds more than tensors and plain values ({error}); it was not loaded") from None
    except Exception as error:  # damaged bytes make the unpickler raise nearly anything
        raise CheckpointError(f"{path} is damaged: {first_line(error)}") from None
    return outline


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__


class _Foreign(Exception):
    """Something that no checkpoint of this program holds."""


def _record_sizes(archive: zipfile.ZipFile, path: Path) -> dict[str, int]:
    """Return the bytes of each record, named without the archive's own folder. PyTorch stores, it never compresses."""
    entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise CheckpointError(f"{path} is compressed inside, as no checkpoint of PyTorch is; it was not loaded")
    sizes = {entry.filename.partition("/")[2]: entry.file_size for entry in entries}
    end = archive.fp.seek(0, 2) if archive.fp is not None else 0
    if len(sizes) < len(entries) or sum(sizes.values()) > end:
        raise CheckpointError(f"{path} claims to hold more than its own size; it was not loaded")
    return sizes


def _read_pickle(archive: zipfile.ZipFile, path: Path) -> bytes:
    names = [name for name in archive.namelist() if name.partition("/")[2] == "data.pkl"]
    if len(names) != 1:
        raise CheckpointError(f"{path} is not a checkpoint of PyTorch: it holds no data.pkl")
    if archive.getinfo(names[0]).file_size > _MOST_PICKLE_BYTES:
        raise CheckpointError(f"{path} holds more plain values than any checkpoint of this program; it was not loaded")
    return archive.read(names[0])


def _refuse_strange_operations(pickled: bytes) -> None:
    for number, (operation, _, _) in enumerate(pickletools.genops(pickled)):
        if operation.name not in _PICKLE_OPERATIONS:
            raise _Foreign(f"pickle operation {operation.name}")
        if number > _MOST_OPERATIONS:
            raise ValueError("more values than any checkpoint of this program")


_PythonUnpickler: Any = pickle._Unpickler  # the one in C believes sizes in memos


class _OutlineUnpickler(_PythonUnpickler):  # type: ignore[misc]
    """Unpickles plain values, ordered dicts and outlines of tensors, and calls nothing else."""

    def __init__(self, file: BinaryIO, sizes: dict[str, int]) -> None:
        super().__init__(file, encoding="utf-8")
        self._sizes = sizes

    def find_class(self, module: str, name: str) -> Callable[..., Any] | str:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _outlined_tensor
        if module == "torch" and name in _BYTES_OF_TYPE:
            return name
        raise _Foreign(f"{module}.{name}")

    def load_build(self) -> None:
        """Drop what would be set on an object: of an ordered dict, versions of modules."""
        self.stack.pop()

    dispatch: ClassVar = {**_PythonUnpickler.dispatch, pickle.BUILD[0]: load_build}

    def persistent_load(self, pid: Any) -> _Storage:
        """Return a storage; what a file claims of it must be what its record has."""
        kind, type_name, key, _, length = pid
        dtype, width = _BYTES_OF_TYPE[type_name]
        if kind != "storage" or not _is_count(length) or self._sizes[f"data/{key}"] != length * width:
            raise ValueError(f"storage {key} is not {length} numbers of {dtype}")
        return _Storage(dtype, length)


def _outlined_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> OutlinedTensor:
    """Return the outline of a dense tensor: each of its numbers has a place of its own in the storage."""
    if not isinstance(storage, _Storage) or not all(map(_is_count, (offset, *shape, *stride))):
        raise ValueError("a tensor without sizes")
    if len(shape) != len(stride):
        raise ValueError("a tensor whose strides do not fit its shape")
    numbers = math.prod(shape)
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if numbers and (last >= storage.length or offset + numbers > storage.length):
        raise ValueError(f"a tensor of shape {shape} claims more numbers than are there")
    return OutlinedTensor(storage.dtype, tuple(shape))


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _refuse_endless(outline: Any) -> None:
    """Refuse containers that hold themselves, and few that hold each other so often that they would unfold to many."""
    level, num_values = [outline], 0
    for _ in range(_DEEPEST):
        below: list[Any] = []
        for value in level:
            items = _items(value)
            num_values += len(items)
            if num_values > _MOST_OPERATIONS:
                raise ValueError("more values within values than in any checkpoint of this program")
            below += items
        if not below:
            return
        level = below
    raise ValueError("values within values, deeper than in any checkpoint of this program")


def _items(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    return list(value) if isinstance(value, list | tuple) and not isinstance(value, OutlinedTensor) else []
