"""Obtain a published archive from a local copy, DVC or a mirror, verify it, and unpack it.

The SHA-256 of the archive and the MD5 of each file are checked before anything reads them as data, so every source is
as trustworthy as the original one.
"""

import errno
import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from cifar10.config.advice import setting
from cifar10.constants import Archive
from cifar10.data.download import Patience, SourceFailed, download_verified
from cifar10.data.image_dataset import DataError, MissingDataError
from cifar10.errors import first_line
from cifar10.files import file_sha256, read_text

PATIENT = Patience()
_may_fetch = ContextVar("may_fetch", default=True)

Source = tuple[str, Callable[[], None]]
"""Its name in messages, and the function that puts the files in place (or raises SourceFailed)."""


@contextmanager
def without_fetching() -> Iterator[None]:
    """Within this block, `obtain` raises an error for incomplete data and writes nothing: the root is not trusted."""
    token = _may_fetch.set(False)
    try:
        yield
    finally:
        _may_fetch.reset(token)


def obtain(archive: Archive, root: Path, sources: Sequence[str] = (), patience: Patience = PATIENT) -> None:
    """Make sure that `root/archive.folder` holds the archive's files, each with its MD5.

    A complete folder is only read. Otherwise one process at a time tries, in this order: `sources` (a copy of the
    archive, a folder that holds the files, or a URL), the archive in `root`, your own DVC remote, the archive's URLs.

    Raises:
        DataError: No source provides the archive, or `root` cannot be written.
        MissingDataError: The folder is incomplete, and `without_fetching` is active.
    """
    if is_complete(archive, root / archive.folder):
        return
    if not _may_fetch.get():
        raise MissingDataError(f"{archive.folder} is not in {root}, or incomplete")
    with _disk_errors_as_data_errors(archive, root):
        root.mkdir(parents=True, exist_ok=True)
        with _only_one_process(archive, root):
            if not is_complete(archive, root / archive.folder):
                _try_all(archive, root, list(_sources(archive, root, sources, patience)))


def is_complete(archive: Archive, folder: Path) -> bool:
    """Return whether every file of the archive is in `folder` with its MD5."""
    return all(_has_md5(folder / name, md5) for name, md5 in archive.members)


def _try_all(archive: Archive, root: Path, sources: list[Source]) -> None:
    failures: dict[str, list[str]] = {}
    for label, fetch in sources:
        try:
            fetch()
            return
        except SourceFailed as failure:
            _report(f"{archive.name}: {label}: {failure}")
            failures.setdefault(str(failure), []).append(label)
    own_images = ""
    if (root / "train").is_dir():
        words = f"data_loading=folder {setting('data_loading.root', str(root))}"
        own_images = f"\nIf the images in {root / 'train'} are meant: {words}"
    raise DataError(
        f"{archive.folder} is not in {root} and unavailable: "
        + "; ".join(f"{', '.join(labels)}: {reason}" for reason, labels in failures.items())
        + f"\nPut {archive.name} ({archive.size:,} bytes, SHA-256 {archive.sha256}) into {root}/, "
        f"or name a copy of it: data_loading.sources=[/path/to/{archive.name}]{own_images}"
    )


def _sources(archive: Archive, root: Path, named: Sequence[str], patience: Patience) -> Iterator[Source]:
    """Yield every source, the nearest first."""
    for source in named:
        if source.startswith(("http://", "https://")):
            yield _host(source), partial(_fetch_url, archive, root, source, patience, not archive.urls)
        else:
            yield source, partial(_take_path, archive, root, Path(source).expanduser())
    local = root / archive.name
    if local.exists():
        yield str(local), partial(_unpack, archive, root, local)
    if has_own_remote(local):
        yield "dvc pull", partial(_pull_with_dvc, archive, root)
    for url in archive.urls:
        yield _host(url), partial(_fetch_url, archive, root, url, patience, url == archive.urls[-1])


def _take_path(archive: Archive, root: Path, path: Path) -> None:
    """Take a copy of the archive, or a folder that holds it or its files."""
    if not path.is_dir():
        _unpack(archive, root, path)
    elif (path / archive.name).is_file():
        _unpack(archive, root, path / archive.name)
    else:
        folder = path / archive.folder if (path / archive.folder).is_dir() else path
        with _install(archive, root) as fresh:
            for name, _ in archive.members:
                if not _is_readable(folder / name):
                    raise SourceFailed(f"has no readable {name}")
                shutil.copyfile(folder / name, fresh / name)


def _unpack(archive: Archive, root: Path, path: Path) -> None:
    if not _is_readable(path):
        raise SourceFailed("there is no such file, or it is not readable")
    if (found := file_sha256(path)) != archive.sha256:
        raise SourceFailed(f"not the published archive: its SHA-256 is {found[:12]}..., not {archive.sha256[:12]}...")
    wanted = {f"{archive.folder}/{name}": name for name, _ in archive.members}
    try:
        with _install(archive, root) as fresh, tarfile.open(path) as tar:
            for member in tar:
                if member.isfile() and member.name in wanted:  # only regular files with a known name
                    tar.extract(member.replace(name=wanted[member.name], deep=False), fresh, filter="data")
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise SourceFailed(f"cannot be unpacked: {first_line(error).rstrip(': ')}") from error


def _pull_with_dvc(archive: Archive, root: Path) -> None:
    pull = [sys.executable, "-m", "dvc", "pull", f"{archive.name}.dvc"]
    # What DVC unpickles lies in /var/tmp/dvc by default, where each user of the machine may write (CVE-2025-69872).
    with tempfile.TemporaryDirectory() as private:
        variables = {"DVC_SITE_CACHE_DIR": private, **os.environ}
        if subprocess.run(pull, check=False, cwd=root, env=variables, stdout=subprocess.DEVNULL).returncode:
            raise SourceFailed("failed")
    _unpack(archive, root, root / archive.name)


def _fetch_url(archive: Archive, root: Path, url: str, patience: Patience, is_last: bool) -> None:
    """Download, check, unpack."""
    part = root / f"{archive.name}.part"
    download_verified(url, part, archive.size, archive.sha256, patience, is_last)
    _report(f"{archive.name}: {archive.size / 1e6:.0f} MB from {_host(url)}, SHA-256 as published; unpacking")
    part.replace(root / archive.name)
    _unpack(archive, root, root / archive.name)


@contextmanager
def _install(archive: Archive, root: Path) -> Iterator[Path]:
    """Provide an empty folder to fill; then check every file in it, and move it or its files to their final place.

    Raises:
        SourceFailed: A file is missing or has another MD5. Nothing has changed then.
    """
    prefix = f".unpacking-{archive.folder}-"
    for abandoned in root.glob(f"{prefix}*"):  # left by a process that was killed; we hold the lock
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
        for name, _ in archive.members:  # complete the folder; other files in it stay
            (fresh / name).replace(root / archive.folder / name)


def has_own_remote(path: Path) -> bool:
    """Return whether DVC tracks `path` in a remote that a user set up, not at its public URL (which ends in #)."""
    pointer = path.with_name(f"{path.name}.dvc")
    if not pointer.exists():
        return False
    import yaml  # here, because training on local files does not need it

    from cifar10.config.foreign_yaml import parse_yaml

    try:
        remote = parse_yaml(read_text(pointer))["outs"][0].get("remote")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, yaml.YAMLError):
        return False  # no file of DVC
    query = [sys.executable, "-m", "dvc", "config", f"remote.{remote}.url" if remote else "core.remote"]
    result = subprocess.run(query, check=False, cwd=path.parent, capture_output=True, text=True)
    return result.returncode == 0 and not result.stdout.strip().endswith("#")


def _only_one_process(archive: Archive, root: Path) -> AbstractContextManager[object]:
    lock = FileLock(root / f".{archive.folder}.lock")
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        _report(f"{archive.name}: waiting for another process, which is fetching it")
        return lock.acquire()


@contextmanager
def _disk_errors_as_data_errors(archive: Archive, root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = "set data_loading.root to another folder"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            needed = 2.2 * archive.size / 1e6  # archive and unpacked files, which hardly compress
            raise DataError(
                f"{root}: the disk is full; {archive.name} needs {needed:.0f} MB in all. "
                f"Free some and start again (the download resumes), or {remedy}"
            ) from error
        raise DataError(f"{error.filename or root} cannot be used ({error.strerror or error}); {remedy}") from error


def _is_readable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.R_OK)


def _host(url: str) -> str:
    return urlsplit(url).netloc


def _report(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _has_md5(path: Path, md5: str) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == md5
