"""What others published about CIFAR-10's test images: optional files, which are read from a folder or fetched into it.

Their licences allow use; they are not part of this program.
"""

import errno
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock

from cifar10.data.download import Patience, SourceFailed, download_verified
from cifar10.errors import UserError
from cifar10.files import file_sha256

DUPLICATES, VERDICTS, PEOPLE = "duplicates_cifar10.csv", "cifar10_mturk.json", "cifar10h-probs.npy"


@dataclass(frozen=True)
class PublishedLabels:
    """A file, at an address that always has the same content."""

    about: str
    url: str
    size: int
    """Bytes."""
    sha256: str


_GITHUB = "https://raw.githubusercontent.com"
FILES = {
    DUPLICATES: PublishedLabels(
        "test images with a near-duplicate in the training split (ciFAIR)",
        f"{_GITHUB}/cvjena/cifair/4c2764277f5fda8fec6784a78c1818eab13236c5/meta/duplicates_cifar10.csv",
        9_576,
        "4cb7e99a7dfff346082c9d8fa4c2989a196e4a37d1e58f75936046696f1ba6a4",
    ),
    VERDICTS: PublishedLabels(
        "suspected labels, judged by five people each (cleanlab, Apache-2.0)",
        f"{_GITHUB}/cleanlab/label-errors/5457895eee26e49187de5c4d6617b9de6f172221/mturk/cifar10_mturk.json",
        88_252,
        "81b2c16c9eee060d6cc2390f6bbce1e0e7be0a050574be5177c9428f3596b5b5",
    ),
    PEOPLE: PublishedLabels(
        "how about fifty people labelled each test image (CIFAR-10H, CC BY-NC-SA 4.0)",
        f"{_GITHUB}/jcpeterson/cifar-10h/48da312b193b82e6939ec20f23d1f09cbdd849c8/data/cifar10h-probs.npy",
        800_128,
        "436ae98620e00073f9d08585ac870573b588853e7af9f54eb1647408114af77d",
    ),
}
PATIENT = Patience(connect=5, read=15)


def obtain_labels(folder: Path, patience: Patience = PATIENT) -> dict[str, Path]:
    """Return name -> file of those that are in `folder` or can be fetched into it; others are named on stderr.

    Raises:
        UserError: None is there, one has another content than the published file, or the folder cannot be written.
    """
    found: dict[str, Path] = {}
    reasons: dict[str, str] = {}
    for name, published in FILES.items():
        path = folder / name
        try:
            if not path.is_file():
                _fetch(published, path, patience)
        except SourceFailed as failure:
            reasons[name] = str(failure)
            print(f"note: {path} is missing, and {_host(published)}: {failure}", file=sys.stderr, flush=True)
            continue
        if file_sha256(path) != published.sha256:
            raise UserError(f"{path} is not the published file (SHA-256); delete it to have it fetched again")
        found[name] = path
    if not found:
        listed = " ".join(FILES[name].url for name in reasons)
        raise UserError(f"none of the files is in {folder}, and none can be fetched; put them there: {listed}")
    return found


def _fetch(published: PublishedLabels, path: Path, patience: Patience) -> None:
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            if path.is_file():  # another process has fetched it meanwhile
                return
            download_verified(published.url, part, published.size, published.sha256, patience, is_last=True)
            os.replace(part, path)
    except OSError as error:
        reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or error
        raise UserError(f"--honest: {path.parent} cannot be written: {reason}; name another folder") from error
    print(f"{path.name}: {published.about}, from {_host(published)}", file=sys.stderr, flush=True)


def _host(published: PublishedLabels) -> str:
    return urlsplit(published.url).netloc
