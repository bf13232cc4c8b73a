"""Obtain a published archive from a local copy, DVC or a mirror, verify it, and unpack it.

Nothing is believed: an archive counts by its SHA-256, a file of it by its MD5, and both before anything reads them as
data. So every source is as good as the original one.
"""

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from cifar10.config.advice import setting
from cifar10.constants import Archive
from cifar10.data.download import Patience, SourceFailed, download
from cifar10.data.image_dataset import DataError, MissingDataError

PATIENT = Patience()
_may_fetch = ContextVar("may_fetch", default=True)

Source = tuple[str, Callable[[], None]]
"""What to call it, and what to do so that the files are in place (or SourceFailed)."""


@contextmanager
def without_fetching() -> Iterator[None]:
    """Within this block, let `obtain` refuse what is not complete, and write nothing: the folder was not the user's."""
    token = _may_fetch.set(False)
    try:
        yield
    finally:
        _may_fetch.reset(token)


def obtain(archive: Archive, root: Path, sources: Sequence[str] = (), patience: Patience = PATIENT) -> None:
    """Make sure that `root/archive.folder` holds the archive's files, each with its MD5.

    A complete folder is only read. Else one process at a time tries, in this order: `sources` (a copy of the archive,
    a folder that holds the files, or a URL), the archive in `root`, a DVC remote of your own, the archive's URLs.

    Raises:
        DataError: No source has it, or `root` cannot be written.
        MissingDataError: It is not complete, `without_fetching`.
    """
    if is_complete(archive, root / archive.folder):
        return
    if not _may_fetch.get():
        raise MissingDataError(f"{archive.folder} is not in {root}, or not whole")
    with _plain_words_for_disk_errors(archive, root):
        root.mkdir(parents=True, exist_ok=True)
        with _only_one_process(archive, root):
            if not is_complete(archive, root / archive.folder):
                _try_all(archive, root, list(_sources(archive, root, sources, patience)))


def is_complete(archive: Archive, folder: Path) -> bool:
    """Say whether every file of the archive is in `folder` with its MD5."""
    return all(_has_md5(folder / name, md5) for name, md5 in archive.members)


def _try_all(archive: Archive, root: Path, sources: list[Source]) -> None:
    failures: dict[str, list[str]] = {}
    for label, bring in sources:
        try:
            bring()
            return
        except SourceFailed as failure:
            _say(f"{archive.name}: {label}: {failure}")
            failures.setdefault(str(failure), []).append(label)
    raise DataError(
        f"{archive.folder} is not in {root} and unavailable: "
        + "; ".join(f"{', '.join(labels)}: {reason}" for reason, labels in failures.items())
        + f"\nPut {archive.name} ({archive.size:,} bytes, SHA-256 {archive.sha256}) into {root}/, "
        f"or name a copy of it: data_loading.sources=[/path/to/{archive.name}]{_own_images_told(root)}"
    )


def _own_images_told(root: Path) -> str:
    """Return a line for whoever means images of their own, if `root` is laid out as class folders are."""
    if not (root / "train").is_dir():
        return ""
    words = f"data_loading=folder {setting('data_loading.root', str(root))}"
    return f"\nIf the images in {root / 'train'} are meant: {words}"


def _sources(archive: Archive, root: Path, named: Sequence[str], patience: Patience) -> Iterator[Source]:
    """Yield every source, the nearest first."""
    for source in named:
        if _is_url(source):
            yield _host(source), partial(_bring_from_url, archive, root, source, patience, not archive.urls)
        else:
            yield source, partial(_bring_from_path, archive, root, Path(source).expanduser())
    at_hand = root / archive.name
    if at_hand.exists():
        yield str(at_hand), partial(_bring_from_archive, archive, root, at_hand)
    if has_own_remote(at_hand):
        yield "dvc pull", partial(_bring_from_dvc, archive, root)
    for url in archive.urls:
        is_last = url == archive.urls[-1]
        yield _host(url), partial(_bring_from_url, archive, root, url, patience, is_last)


def _bring_from_path(archive: Archive, root: Path, path: Path) -> None:
    """Take a copy of the archive, or a folder that holds it or its files."""
    if not path.is_dir():
        _bring_from_archive(archive, root, path)
    elif (path / archive.name).is_file():
        _bring_from_archive(archive, root, path / archive.name)
    else:
        folder = path / archive.folder if (path / archive.folder).is_dir() else path
        _bring_from_folder(archive, root, folder)


def _bring_from_folder(archive: Archive, root: Path, folder: Path) -> None:
    with _install(archive, root) as fresh:
        for name, _ in archive.members:
            if not _is_readable(folder / name):
                raise SourceFailed(f"has no readable {name}")
            shutil.copyfile(folder / name, fresh / name)


def _bring_from_archive(archive: Archive, root: Path, path: Path) -> None:
    if not _is_readable(path):
        raise SourceFailed("there is no such file that can be read")
    if (found := _sha256(path)) != archive.sha256:
        raise SourceFailed(f"not the published archive: its SHA-256 is {found[:12]}..., not {archive.sha256[:12]}...")
    wanted = {f"{archive.folder}/{name}": name for name, _ in archive.members}
    try:
        with _install(archive, root) as fresh, tarfile.open(path) as tar:
            for member in tar:
                if member.isfile() and member.name in wanted:  # nothing but regular files that we know by name
                    tar.extract(member.replace(name=wanted[member.name], deep=False), fresh, filter="data")
    except tarfile.TarError as error:
        raise SourceFailed(f"cannot be unpacked: {error}") from error


def _bring_from_dvc(archive: Archive, root: Path) -> None:
    pull = [sys.executable, "-m", "dvc", "pull", f"{archive.name}.dvc"]
    if subprocess.run(pull, check=False, cwd=root, stdout=subprocess.DEVNULL).returncode:
        raise SourceFailed("failed")
    _bring_from_archive(archive, root, root / archive.name)


def _bring_from_url(archive: Archive, root: Path, url: str, patience: Patience, is_last: bool) -> None:
    """Download, check, unpack. A part left by somebody else's bytes gets one fresh start."""
    part = root / f"{archive.name}.part"
    is_mixed = part.exists()
    download(url, part, archive.size, patience, is_last)
    if is_mixed and _sha256(part) != archive.sha256:
        _say(f"{archive.name}: the pieces do not fit together (SHA-256); starting anew")
        part.unlink()
        download(url, part, archive.size, patience, is_last)
    if _sha256(part) != archive.sha256:
        part.unlink()
        raise SourceFailed("sends something else: its SHA-256 is wrong, so it was deleted")
    _say(f"{archive.name}: {archive.size / 1e6:.0f} MB from {_host(url)}, SHA-256 as published; unpacking")
    part.replace(root / archive.name)
    _bring_from_archive(archive, root, root / archive.name)


@contextmanager
def _install(archive: Archive, root: Path) -> Iterator[Path]:
    """Give an empty folder to fill; then check every file in it and put the whole in its place.

    Raises:
        SourceFailed: A file is missing or has another MD5. Nothing has changed then.
    """
    prefix = f".unpacking-{archive.folder}-"
    for abandoned in root.glob(f"{prefix}*"):  # by a process that was killed; we hold the lock
        shutil.rmtree(abandoned)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=root) as temporary:
        fresh = Path(temporary) / archive.folder
        fresh.mkdir()
        yield fresh
        for name, md5 in archive.members:
            if not _has_md5(fresh / name, md5):
                raise SourceFailed(f"{name} is missing or not the published one (MD5)")
        if not (root / archive.folder).exists():
            fresh.rename(root / archive.folder)
            return
        for name, _ in archive.members:  # mend an incomplete folder; what else lies there is not ours
            (fresh / name).replace(root / archive.folder / name)


def has_own_remote(path: Path) -> bool:
    """Say whether DVC tracks `path` in a remote that somebody set up, not at its public URL (which ends in #)."""
    pointer = path.with_name(f"{path.name}.dvc")
    if not pointer.exists():
        return False
    from omegaconf import OmegaConf  # here, since training on files that are at hand does without it

    remote = OmegaConf.select(OmegaConf.load(pointer), "outs[0].remote")
    ask = [sys.executable, "-m", "dvc", "config", f"remote.{remote}.url" if remote else "core.remote"]
    answer = subprocess.run(ask, check=False, cwd=path.parent, capture_output=True, text=True)
    return answer.returncode == 0 and not answer.stdout.strip().endswith("#")


@contextmanager
def _only_one_process(archive: Archive, root: Path) -> Iterator[None]:
    lock = FileLock(root / f".{archive.folder}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _say(f"{archive.name}: another process is fetching it; waiting for that")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _plain_words_for_disk_errors(archive: Archive, root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = "set data_loading.root to another folder"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            needed = 2.2 * archive.size / 1e6  # archive and unpacked files, which hardly compress
            raise DataError(
                f"{root}: the disk is full; {archive.name} needs {needed:.0f} MB in all. "
                f"Free some and start again (it goes on where it stopped), or {remedy}"
            ) from error
        raise DataError(f"{error.filename or root} cannot be used ({error.strerror or error}); {remedy}") from error


def _is_url(source: str) -> bool:
    return source.startswith(("http://", "https://"))


def _is_readable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.R_OK)


def _host(url: str) -> str:
    return urlsplit(url).netloc


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _has_md5(path: Path, md5: str) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == md5
