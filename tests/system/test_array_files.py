"""Whatever was changed in a file of arrays, NumPy raises one of the errors that are named."""

import io
import random
import warnings
from collections.abc import Callable

import numpy as np
import pytest

from cifar10.system.array_files import DAMAGED_ARRAYS

_ARRAY = np.zeros(3, np.dtype([("state", "u1"), ("file", "<u8"), ("reason", "S20")]))


def _npy() -> bytes:
    file = io.BytesIO()
    np.save(file, _ARRAY)
    return file.getvalue()


def _npz() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, numbers=np.arange(100), others=_ARRAY)
    return file.getvalue()


@pytest.mark.parametrize("make", [_npy, _npz])
def test_no_other_error_is_raised(make: Callable[[], bytes]) -> None:
    whole, errors, chance = make(), set(), random.Random(0)
    for number in range(4000):
        data = bytearray(whole)
        for _ in range(chance.choice([1, 2, 10, 300])):
            place = chance.randrange(min(len(data), 128)) if number % 2 else chance.randrange(len(data))
            data[place] ^= 1 << chance.randrange(8)
        if number % 7 == 0:
            del data[chance.randrange(len(data)) :]
        try:
            with warnings.catch_warnings(action="ignore"):
                found = np.load(io.BytesIO(data), allow_pickle=False)
                if not isinstance(found, np.ndarray):
                    [np.asarray(found[name]) for name in found.files]
        except DAMAGED_ARRAYS as error:
            errors.add(type(error).__name__)
    assert len(errors) >= 3, errors
