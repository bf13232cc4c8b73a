"""What is seen to be wrong with a command before anything heavy is imported: above all, files that are not there."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from cifar10.checkpoint_names import BEST, LAST, find_locally
from cifar10.errors import CheckpointError, Misuse, UserError
from cifar10.image_search import describe_skipped, find_images
from cifar10.nearest import did_you_mean
from cifar10.other_formats import kind_of_collection, kind_of_name


def require_images(test_dir: str) -> None:
    """Refuse a folder, file or glob that is not there or holds no image."""
    is_glob = any(magic in test_dir for magic in "*?[")
    if not os.path.lexists(test_dir) and not is_glob:
        raise Misuse(f"--test_dir: there is no folder or file {test_dir}{_nearest_beside(test_dir)}")
    if os.path.isfile(test_dir):
        _refuse_other_format(test_dir)
    skipped: Counter[str] = Counter()
    try:
        found = next(find_images(test_dir, skipped), None)
    except UserError as error:
        raise Misuse(f"--test_dir: {error}") from None
    if found is None:
        passed_over = f"; {describe_skipped(skipped)}" if skipped else ""
        raise Misuse(
            f"--test_dir: {'nothing matches' if is_glob else 'there are no images in'} {test_dir}{passed_over}"
        )


def _refuse_other_format(test_dir: str) -> None:
    """Refuse an archive of images, a list of their names, and a raw photo, of which only a thumbnail can be read."""
    if kind_of_name(test_dir) == "raw photo":
        raise Misuse(f"--test_dir: {test_dir} is a raw photo, which is not read; convert it to JPEG or PNG first")
    try:
        with open(test_dir, "rb") as file:
            start = file.read(4096)
    except OSError:  # the decoder gives the reason
        return
    if (kind := kind_of_collection(start)) is not None:
        raise Misuse(f"--test_dir: {test_dir} is {kind}")


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
