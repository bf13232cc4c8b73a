"""What is seen to be wrong with a command before anything heavy is imported: above all, files that are not there."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from cifar10.checkpoint_names import BEST, LAST, find_locally
from cifar10.errors import CheckpointError, Misuse, UserError
from cifar10.image_search import find_images, no_images
from cifar10.nearest import did_you_mean

_WHERE_DATA_LIE = ("data_loading.root", "data_loading.sources")


def require_images(test_dir: str) -> None:
    """Refuse a folder, file or glob that is not there or holds no image."""
    is_glob = any(magic in test_dir for magic in "*?[")
    if not os.path.lexists(test_dir) and not is_glob:
        raise Misuse(f"--test_dir: there is no folder or file {test_dir}{_nearest_beside(test_dir)}")
    skipped: Counter[str] = Counter()
    try:
        found = next(find_images(test_dir, skipped), None)
    except UserError as error:
        raise Misuse(f"--test_dir: {error}") from None
    if found is None:
        nothing = f"nothing matches {test_dir}" if is_glob and not skipped else no_images(test_dir, skipped)
        raise Misuse(f"--test_dir: {nothing}")


def require_folder(output: str) -> None:
    """Refuse a name under which no folder can be or be made."""
    path = Path(output)
    if path.exists() and not path.is_dir():
        raise Misuse(f"--output: {output} is a file; name a folder")
    if not path.exists() and not path.absolute().parent.is_dir():
        raise Misuse(f"--output: there is no folder {path.parent}; make it first")


def require_checkpoint(name: str, models_dir: str = "models", prefer: str = BEST) -> None:
    """Refuse a name that nothing bears; what only MLflow can tell shows later. Arguments as for `find_locally`."""
    try:
        find_locally(name, models_dir, prefer)
    except CheckpointError as error:
        raise Misuse(str(error)) from None


def require_resumable(name: str, overrides: Sequence[str]) -> None:
    """Refuse a name that nothing bears, and settings: the checkpoint has its own. Only `models_dir` may be said."""
    places = [override for override in overrides if override.startswith("models_dir=")]
    if len(places) < len(overrides):
        refused = " ".join(override for override in overrides if override not in places)
        raise Misuse(f"--resume goes on with the settings of the checkpoint; leave out {refused}")
    require_checkpoint(name, places[-1].partition("=")[2] if places else "models", prefer=LAST)


def refuse_other_settings(keys: Iterable[str]) -> None:
    """Refuse to change anything about a checkpoint but where its data lie; what they are, it says itself.

    Args:
        keys: Dotted keys of the settings to change.
    """
    others = [key for key in keys if key not in _WHERE_DATA_LIE]
    if others:
        raise Misuse(
            f"{', '.join(others)}: a checkpoint carries its own configuration; "
            f"only {' and '.join(_WHERE_DATA_LIE)} may be set"
        )


def require_device(device: str) -> None:
    """Refuse what is no device anywhere; whether this machine has it shows later."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        advice = did_you_mean({"gpu": "cuda"}.get(device, device), ["auto", "cpu", "cuda"])
        raise Misuse(f"--device={device}: must be auto, cpu, cuda or cuda:N{advice}")


def _nearest_beside(path: str) -> str:
    """Return `; did you mean X?` with the name in the same folder that is most like `path`."""
    folder, name = os.path.split(path.rstrip(os.sep))
    try:
        beside = os.listdir(folder or os.curdir)
    except OSError:
        return ""
    return did_you_mean(os.path.join(folder, name), [os.path.join(folder, entry) for entry in beside])
