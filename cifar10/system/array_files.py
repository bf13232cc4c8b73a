"""NumPy's files of arrays, .npy and .npz: what reading a damaged one raises."""

import tokenize
import zipfile
import zlib

DAMAGED_ARRAYS: tuple[type[Exception], ...] = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    TypeError,
    OverflowError,
    SyntaxError,
    tokenize.TokenError,
    AttributeError,
    RuntimeError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)
"""NumPy parses a header as an expression of Python, and as tokens if that fails. An .npz file is a ZIP archive, in
which a bit says that a file is encrypted."""
