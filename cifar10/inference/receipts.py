"""Prediction receipts: columns of a row that say which image, model, engine and program it was computed with.

`verify` computes rows again from them. Columns: image_sha256 of the encoded image, empty if it could not be read;
checkpoint, weights_digest and engine as in a result's provenance; program, its version and a digest of its code; and
settings, JSON with everything else that the row depends on.
"""

import json
import os
from collections.abc import Mapping

from cifar10 import __version__
from cifar10.images.named_image import ImageSource
from cifar10.inference.prediction import ImageResult
from cifar10.runs.provenance import code_digest

RECEIPT_COLUMNS = ("image_sha256", "checkpoint", "weights_digest", "engine", "program", "settings")
TEST_DIR = "test_dir"
"""Key in `settings`: the absolute path of the folder that paths of images are relative to, or of an archive or list."""

_OWN_COLUMNS = ("checkpoint", "weights_digest", "engine")


def shared_columns(provenance: Mapping[str, str], images: ImageSource | None) -> dict[str, str]:
    """Return the columns that are the same for all results of a predictor with this `provenance` for `images`.

    None: images that are in no folder of this machine, such as uploaded ones; `verify` then needs --test_dir.
    """
    settings = {key: value for key, value in provenance.items() if key not in _OWN_COLUMNS}
    if images is not None:
        settings[TEST_DIR] = os.path.abspath(images.root if os.path.lexists(images.root) else os.curdir)
    return {
        **{name: provenance.get(name, "") for name in _OWN_COLUMNS},
        "program": f"cifar10 {__version__}+{code_digest()[:12]}",
        "settings": json.dumps(settings, sort_keys=True),
    }


def complete(shared: Mapping[str, str], result: ImageResult) -> dict[str, str | None]:
    """Return all columns of the receipt of `result`."""
    return {"image_sha256": result.sha256, **shared}
