"""Read the outline of a checkpoint file: everything but the tensor data, before anything is loaded.

A checkpoint may come from a stranger. `torch.load(weights_only=True)` runs no code, but it does not check sizes: a few
bytes can claim a tensor, a list or a byte array of any length. So the file is first read by an unpickler that accepts
only the types in a checkpoint of this program, and creates an `OutlinedTensor` in place of a tensor. This needs bounded
memory and time. The outline can then be checked against the network.
"""

import math
import os
import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, NamedTuple

from cifar10.errors import CheckpointError, first_line

_MOST_PICKLE_BYTES = 16 * 2**20  # a ResNet-50 with AdamW, after a thousand epochs, takes 0.4 MB
_MOST_OPERATIONS = 1_000_000  # of the pickle machine, and values in the outline
_MOST_CHARACTERS = 16 * 2**20  # of all strings, one that occurs twice counted twice
_MOST_TENSORS = 20_000  # EfficientNet-V2-L with AdamW and averaged weights has 8,000
_MOST_VIEWS = 2  # bytes of all tensors, as a multiple of the file's: tensors may share a storage, but not all of them
_MOST_DIMENSIONS = 16
_DEEPEST = 64  # containers within containers

_ZIP_START = b"PK\x03\x04"
_ZIP_END = struct.Struct("<4s 4H 2I H")  # the last bytes of an archive without a comment
_ZIP64_LOCATOR, _ZIP64_END = struct.Struct("<4s I Q I"), struct.Struct("<4s Q 2H 2I 4Q")  # PyTorch writes them as well

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
_WIDTHS = dict(_BYTES_OF_TYPE.values())
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
    """Type and shape of a tensor in a file."""

    dtype: str
    """As `torch.dtype` is printed, without `torch.`."""
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * _WIDTHS[self.dtype]


class _Storage(NamedTuple):
    dtype: str
    length: int
    """Number of elements, all of them in the file."""


def read_outline(file: BinaryIO, path: Path) -> Any:
    """Return the content of the checkpoint in `file`: plain values, and an `OutlinedTensor` for each tensor.

    Args:
        file: Opened for reading bytes; its position afterwards is undefined.
        path: For error messages.

    Raises:
        CheckpointError: It is damaged, claims more than it holds, or holds more than plain values and dense tensors.
    """
    try:
        num_bytes = file.seek(0, os.SEEK_END)
        _refuse_two_readings(file, num_bytes)
        with zipfile.ZipFile(file) as archive:
            pickled, sizes = _read_archive(archive, num_bytes, path)
    except CheckpointError:
        raise
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, struct.error) as error:
        raise CheckpointError(f"{path} is not a checkpoint, or was cut off: {short_reason(error)}") from None
    try:
        _refuse_strange_operations(pickled)
        outline = _OutlineUnpickler(BytesIO(pickled), sizes).load()
        _refuse_endless(outline, _MOST_VIEWS * num_bytes)
    except _Foreign as error:
        raise CheckpointError(f"{path} holds more than tensors and plain values ({error}); it was not loaded") from None
    except Exception as error:  # damaged bytes make the unpickler raise nearly anything
        raise CheckpointError(f"{path} is damaged: {short_reason(error)}") from None
    return outline


def short_reason(error: BaseException) -> str:
    """Return the first line of the message of `error`, cut at 160 characters, because it may quote the file."""
    return first_line(error)[:160]


class _Foreign(Exception):
    """The file contains something that no checkpoint of this program contains."""


def _refuse_two_readings(file: BinaryIO, num_bytes: int) -> None:
    """Refuse a file in which PyTorch could find another archive than Python's `zipfile`, or one in an old format.

    Python reads the directory just before the end record, PyTorch at the position in the end record. These are equal in
    a file that begins with a record and ends with the directory, as `torch.save` writes it.
    """
    file.seek(0)
    if file.read(len(_ZIP_START)) != _ZIP_START:
        raise ValueError("it does not begin as an archive of PyTorch")
    end = num_bytes - _ZIP_END.size
    mark, *_, size, offset, _ = _ZIP_END.unpack(_read_at(file, end, _ZIP_END.size))
    if mark != b"PK\x05\x06":
        raise ValueError("it does not end as an archive of PyTorch")
    locator = end - _ZIP64_LOCATOR.size
    mark, _, position, _ = _ZIP64_LOCATOR.unpack(_read_at(file, locator, _ZIP64_LOCATOR.size))
    if mark == b"PK\x06\x07":
        end = locator - _ZIP64_END.size
        mark, *_, size, offset = _ZIP64_END.unpack(_read_at(file, end, _ZIP64_END.size))
        if mark != b"PK\x06\x06" or position != end:
            raise ValueError("its end is at another position than it states")
    if offset + size != end:
        raise ValueError("its directory is at another position than it states")


def _read_at(file: BinaryIO, position: int, size: int) -> bytes:
    file.seek(max(position, 0))
    return file.read(size)


def _read_archive(archive: zipfile.ZipFile, num_bytes: int, path: Path) -> tuple[bytes, dict[str, int]]:
    """Return the pickle, and the size of each record in bytes by its name without the archive's own folder."""
    entries = archive.infolist()
    if any(entry.filename != entry.orig_filename for entry in entries):  # PyTorch would look for the original
        raise CheckpointError(f"{path} has records of two names; it was not loaded")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):  # PyTorch stores, it never compresses
        raise CheckpointError(f"{path} is compressed inside, as no checkpoint of PyTorch is; it was not loaded")
    records = {entry.filename.partition("/")[2]: entry for entry in entries}
    sizes = {name: record.file_size for name, record in records.items()}
    names = {name.lower() for name in records}  # PyTorch reads DATA.PKL as data.pkl
    if len(names) < len(entries) or sum(sizes.values()) > num_bytes:
        raise CheckpointError(f"{path} claims to hold more than its own size; it was not loaded")
    if "data.pkl" not in records:
        raise CheckpointError(f"{path} is not a checkpoint of PyTorch: it holds no data.pkl")
    if sizes["data.pkl"] > _MOST_PICKLE_BYTES:
        raise CheckpointError(f"{path} holds more plain values than any checkpoint of this program; it was not loaded")
    return archive.read(records["data.pkl"]), sizes


def _refuse_strange_operations(pickled: bytes) -> None:
    num_tensors = 0
    for number, (operation, _, _) in enumerate(pickletools.genops(pickled)):
        if operation.name not in _PICKLE_OPERATIONS:
            raise _Foreign(f"pickle operation {operation.name}")
        num_tensors += operation.name == "BINPERSID"  # one for the storage of each
        if number > _MOST_OPERATIONS or num_tensors > _MOST_TENSORS:
            raise ValueError("more values than any checkpoint of this program")


_PythonUnpickler: Any = pickle._Unpickler  # the one in C does not check sizes in memos


class _OutlineUnpickler(_PythonUnpickler):  # type: ignore[misc]
    """Unpickles plain values, ordered dicts and outlines of tensors; it calls nothing else."""

    def __init__(self, file: BinaryIO, sizes: dict[str, int]) -> None:
        super().__init__(file, encoding="utf-8")
        self._sizes = sizes

    def find_class(self, module: str, name: str) -> Callable[..., Any] | str:
        if (module, name) == ("collections", "OrderedDict"):
            return _empty_ordered_dict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _outlined_tensor
        if module == "torch" and name in _BYTES_OF_TYPE:
            return name
        raise _Foreign(f"{module}.{name}")

    def load_build(self) -> None:
        """Drop the attributes of an object, which may only be versions of modules."""
        state = self.stack.pop()
        if type(self.stack[-1]) is not OrderedDict or not _is_versions(state):
            raise _Foreign("attributes of an object")

    def load_setitem(self) -> None:
        value = self.stack.pop()
        self._set_items([self.stack.pop(), value])

    def load_setitems(self) -> None:
        self._set_items(self.pop_mark())

    def _set_items(self, items: list[Any]) -> None:
        """Set alternating keys and values. Hashing of tuples or long numbers could take minutes."""
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise ValueError("a key of a value that is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not (type(key) is str or (type(key) is int and abs(key) < 2**31)):
                raise ValueError("a key that is neither a string nor a small number")
            target[key] = value

    dispatch: ClassVar = {
        **_PythonUnpickler.dispatch,
        pickle.BUILD[0]: load_build,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
    }

    def persistent_load(self, pid: Any) -> _Storage:
        """Return a storage whose claimed size is that of its record."""
        kind, type_name, key, _, length = pid
        dtype, width = _BYTES_OF_TYPE[type_name]
        if kind != "storage" or not _is_count(length) or self._sizes[f"data/{key}"] != length * width:
            raise ValueError(f"storage {key} is not {length} numbers of {dtype}")
        return _Storage(dtype, length)


def _empty_ordered_dict() -> OrderedDict[Any, Any]:
    return OrderedDict()


def _is_versions(state: Any) -> bool:
    """Whether `state` is the metadata of a state_dict: the version of each module, {"conv": {"version": 1}}."""
    if not isinstance(state, dict) or list(state) != ["_metadata"] or not isinstance(state["_metadata"], dict):
        return False
    modules = state["_metadata"].values()
    return all(isinstance(module, dict) and all(map(_is_count, module.values())) for module in modules)


def _outlined_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> OutlinedTensor:
    """Return the outline of a dense tensor: the storage has an element for each of its elements."""
    if not isinstance(storage, _Storage) or not all(map(_is_count, (offset, *shape, *stride))):
        raise ValueError("a tensor without sizes")
    if len(shape) != len(stride) or len(shape) > _MOST_DIMENSIONS:
        raise ValueError("a tensor whose strides do not fit its shape")
    numbers = math.prod(shape)
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if numbers and (last >= storage.length or offset + numbers > storage.length):
        raise ValueError(f"a tensor of shape {shape} claims more numbers than its storage has")
    return OutlinedTensor(storage.dtype, tuple(shape))


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _refuse_endless(outline: Any, most_bytes: int) -> None:
    """Refuse recursive containers, and shared values that would expand to more than the limits when copied."""
    level, num_values, num_characters, num_tensors, num_bytes = [outline], 0, 0, 0, 0
    for _ in range(_DEEPEST):
        below: list[Any] = []
        for value in level:
            items = _items(value)
            num_values += len(items)
            if isinstance(value, str):
                num_characters += len(value)
            if isinstance(value, OutlinedTensor):
                num_tensors, num_bytes = num_tensors + 1, num_bytes + value.num_bytes
            if num_values > _MOST_OPERATIONS or num_characters > _MOST_CHARACTERS or num_tensors > _MOST_TENSORS:
                raise ValueError("more values within values than in any checkpoint of this program")
            if num_bytes > most_bytes:
                raise ValueError("its tensors claim more numbers than the file has")
            below += items
        if not below:
            return
        level = below
    raise ValueError("values within values, deeper than in any checkpoint of this program")


def _items(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    return list(value) if isinstance(value, list | tuple) and not isinstance(value, OutlinedTensor) else []
