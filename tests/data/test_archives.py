import errno
import multiprocessing
import resource
import signal
import stat
import subprocess
import tarfile
from collections.abc import Callable
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import pytest

from cifar10.constants import Archive
from cifar10.data import archives
from cifar10.data.archives import is_complete, obtain
from cifar10.data.download import Patience, SourceFailed
from cifar10.data.image_dataset import DataError
from tests.archive_server import CONTENT, FILES, TINY, describe, pack, serve

FORK = multiprocessing.get_context("fork")
NOWHERE = "http://127.0.0.1:1/tiny.tar.gz"


def holds_the_files(root: Path) -> bool:
    return all((root / "batches" / name).read_bytes() == content for name, content in FILES.items())


def make_folder(folder: Path, files: dict[str, bytes] = FILES) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def test_archive_is_fetched_unpacked_and_kept(tmp_path: Path) -> None:
    root = tmp_path / "new" / "data"
    with serve() as web:
        obtain(describe(CONTENT, web.url), root)
    assert holds_the_files(root)
    assert (root / "tiny.tar.gz").read_bytes() == CONTENT
    assert {path.name for path in root.iterdir()} - {".batches.lock"} == {"batches", "tiny.tar.gz"}


@pytest.mark.slow
@pytest.mark.parametrize("cut", [0.1, 0.5, 0.99])
def test_mirror_that_breaks_off_is_finished_by_the_next(tmp_path: Path, cut: float) -> None:
    with serve(cuts=[cut, 0, 0, 0]) as bad, serve() as good:
        obtain(describe(CONTENT, bad.url, good.url), tmp_path)
    assert holds_the_files(tmp_path)
    assert good.requests == [f"bytes={int(len(CONTENT) * cut)}-"]


def test_mirrors_that_are_down_missing_or_slow_are_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    patience = Patience(slowest=1e6, window=0.1)
    with serve(status=404) as missing, serve(seconds_per_kilobyte=0.005) as slow, serve() as good:
        obtain(describe(CONTENT, NOWHERE, missing.url, slow.url, good.url), tmp_path, patience=patience)
    assert holds_the_files(tmp_path)
    said = capsys.readouterr()
    assert said.out == ""
    for reason in ("127.0.0.1:1: no connection", "responds with 404", "slower than 1000 kB/s", "SHA-256 as published"):
        assert reason in said.err


def test_wrong_bytes_are_deleted_and_the_next_mirror_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve(content=CONTENT[:-1] + b"?") as bad, serve() as good:
        obtain(describe(CONTENT, bad.url, good.url), tmp_path)
    assert holds_the_files(tmp_path)
    assert good.requests == [None]
    assert "the SHA-256 is wrong, so the download was deleted" in capsys.readouterr().err


@pytest.mark.slow
def test_good_mirror_is_not_blamed_for_the_part_of_a_bad_one(tmp_path: Path) -> None:
    with serve(content=b"?" + CONTENT[1:], cuts=[0.5, 0, 0, 0]) as bad, serve() as good:
        obtain(describe(CONTENT, bad.url, good.url), tmp_path)
    assert holds_the_files(tmp_path)
    assert good.requests == [f"bytes={len(CONTENT) // 2}-", None]


def test_nothing_is_unpacked_before_its_hash_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("opened an archive that is not the published one")

    monkeypatch.setattr(tarfile, "open", never)
    (tmp_path / "tiny.tar.gz").write_bytes(CONTENT[:-1] + b"?")
    with pytest.raises(DataError, match="not the published archive: its SHA-256 is"):
        obtain(TINY, tmp_path)


def symbolic_link(name: str, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, target
    return member


@pytest.mark.parametrize(
    "poison",
    [
        tarfile.TarInfo("../evil"),
        tarfile.TarInfo("batches/../../evil"),
        tarfile.TarInfo("/tmp/evil-absolute"),
        symbolic_link("batches/batch_1", "/etc/passwd"),
        symbolic_link("batches", ".."),
        tarfile.TarInfo("batches/unexpected"),
    ],
    ids=lambda member: member.name,
)
def test_only_expected_regular_files_leave_an_archive(tmp_path: Path, poison: tarfile.TarInfo) -> None:
    """Even if somebody published a hostile archive under the right SHA-256."""
    content = pack(FILES, extra=(poison,))
    root = tmp_path / "deep" / "data"
    root.mkdir(parents=True)
    (root / "tiny.tar.gz").write_bytes(content)
    obtain(describe(content), root)
    assert holds_the_files(root)
    assert {path.name for path in (root / "batches").iterdir()} == set(FILES)
    assert not any(path.is_symlink() for path in tmp_path.rglob("*"))
    assert not list(tmp_path.rglob("*evil*")) and not Path("/tmp/evil-absolute").exists()


def test_archive_with_another_file_inside_changes_nothing(tmp_path: Path) -> None:
    content = pack(FILES | {"batch_2": b"forged"})
    (tmp_path / "tiny.tar.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"batch_2 is missing or not the published one \(MD5\)"):
        obtain(describe(content), tmp_path)
    assert not (tmp_path / "batches").exists()


@pytest.mark.parametrize("content", [b"no archive", CONTENT[: len(CONTENT) // 2], CONTENT[:100] + b"?" + CONTENT[101:]])
def test_an_archive_that_cannot_be_unpacked_is_told_in_a_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tiny.tar.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"tiny\.tar\.gz: (cannot be unpacked|batch_\d is missing)") as refusal:
        obtain(describe(content), tmp_path)
    assert len(str(refusal.value).splitlines()) == 2


def test_incomplete_folder_is_mended_and_what_else_lies_there_is_left(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "batches", {"batch_1": b"truncated", "notes.txt": b"mine"})
    (tmp_path / "tiny.tar.gz").write_bytes(CONTENT)
    obtain(TINY, tmp_path)
    assert holds_the_files(tmp_path) and (folder / "notes.txt").read_bytes() == b"mine"


def test_complete_folder_is_neither_locked_nor_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path / "batches")
    monkeypatch.setattr(archives, "FileLock", None)
    tmp_path.chmod(0o555)
    try:
        obtain(TINY, tmp_path)
    finally:
        tmp_path.chmod(0o755)
    assert [path.name for path in tmp_path.iterdir()] == ["batches"]


@pytest.mark.parametrize(
    "place",
    [
        lambda there: (there / "renamed.tgz").write_bytes(CONTENT) and there / "renamed.tgz",
        lambda there: (there / "tiny.tar.gz").write_bytes(CONTENT) and there,
        lambda there: make_folder(there / "batches"),
        lambda there: make_folder(there / "batches").parent,
    ],
    ids=["archive", "folder with the archive", "folder of the files", "folder above it"],
)
def test_local_sources_are_used_and_left_as_they_are(tmp_path: Path, place: Callable[[Path], Path]) -> None:
    there = tmp_path / "there"
    there.mkdir()
    source = place(there)
    before = {path: path.stat().st_mtime_ns for path in there.rglob("*")}
    obtain(describe(CONTENT, NOWHERE), tmp_path / "data", [str(source)])
    assert holds_the_files(tmp_path / "data")
    assert before == {path: path.stat().st_mtime_ns for path in there.rglob("*")}


def test_named_url_comes_before_the_mirrors(tmp_path: Path) -> None:
    with serve() as named, serve() as mirror:
        obtain(describe(CONTENT, mirror.url), tmp_path, [named.url])
    assert named.requests == [None] and mirror.requests == []


def test_sources_that_are_wrong_are_passed_over_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = make_folder(tmp_path / "half", {"batch_1": FILES["batch_1"]})
    forged = make_folder(tmp_path / "forged", FILES | {"batch_2": b"forged"})
    (tmp_path / "copy.tar.gz").write_bytes(CONTENT)
    sources = [str(tmp_path / "absent.tar.gz"), str(half), str(forged), str(tmp_path / "copy.tar.gz")]
    obtain(TINY, tmp_path / "data", sources)
    assert holds_the_files(tmp_path / "data")
    said = capsys.readouterr().err
    assert "absent.tar.gz: there is no such file" in said
    assert "half: has no readable batch_2" in said
    assert "forged: batch_2 is missing or not the published one (MD5)" in said


def test_offline_says_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        obtain(describe(CONTENT, NOWHERE, "http://nowhere.invalid/tiny.tar.gz"), tmp_path)
    first, second = str(caught.value).splitlines()
    assert first.endswith("unavailable: 127.0.0.1:1, nowhere.invalid: no connection")
    assert second == (
        f"Put tiny.tar.gz ({len(CONTENT):,} bytes, SHA-256 {TINY.sha256}) into {tmp_path}/, "
        "or name a copy of it: data_loading.sources=[/path/to/tiny.tar.gz]"
    )


def obtain_on_a_small_disk(archive: Archive, root: Path, outbox: SimpleQueue[str]) -> None:
    """A limit on the size of a file, under the name of a full disk's error, stands for the end of the disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    vars(errno)["ENOSPC"] = errno.EFBIG
    try:
        obtain(archive, root)
    except DataError as error:
        outbox.put(str(error))


def test_who_means_the_images_that_lie_there_is_told_how_to_say_so(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    for folder in ("train/cat", "train/dog"):
        (root / folder).mkdir(parents=True)
    with pytest.raises(DataError, match="unavailable") as caught:
        obtain(describe(CONTENT, NOWHERE), root)
    last = str(caught.value).splitlines()[-1]
    assert last == f"If the images in {root / 'train'} are meant: data_loading=folder data_loading.root={root}"


def test_full_disk_is_told_in_words_and_keeps_the_part(tmp_path: Path) -> None:
    outbox: SimpleQueue[str] = FORK.SimpleQueue()
    with serve() as web:
        process = FORK.Process(target=obtain_on_a_small_disk, args=(describe(CONTENT, web.url), tmp_path, outbox))
        process.start()
        process.join()
    assert outbox.get().startswith(f"{tmp_path}: the disk is full; tiny.tar.gz needs 1 MB in all.")
    assert (tmp_path / "tiny.tar.gz.part").read_bytes() == CONTENT[:100_000]


def test_root_that_cannot_be_written_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=r"file/data cannot be used \(Not a directory\); set data_loading\.root"):
        obtain(TINY, tmp_path / "file" / "data")


def test_abandoned_unpacking_is_cleared_away(tmp_path: Path) -> None:
    make_folder(tmp_path / ".unpacking-batches-abc")
    (tmp_path / "tiny.tar.gz").write_bytes(CONTENT)
    obtain(TINY, tmp_path)
    assert not list(tmp_path.glob(".unpacking-*"))


def obtain_in_another_process(archive: Archive, root: Path) -> None:
    obtain(archive, root)
    assert holds_the_files(root)


def test_four_processes_at_once_download_once(tmp_path: Path) -> None:
    with serve(seconds_per_kilobyte=0.001) as web:
        archive = describe(CONTENT, web.url)
        processes = [FORK.Process(target=obtain_in_another_process, args=(archive, tmp_path)) for _ in range(4)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    assert web.requests == [None]


@pytest.mark.slow
def test_remote_of_your_own_comes_before_the_mirrors(tmp_path: Path) -> None:
    stored = tmp_path / "storage" / "files" / "md5" / TINY.md5[:2] / TINY.md5[2:]
    stored.parent.mkdir(parents=True)
    stored.write_bytes(CONTENT)
    root = make_dvc_project(tmp_path / "project", url=str(tmp_path / "storage"))
    with serve() as web:
        obtain(describe(CONTENT, web.url), root)
    assert holds_the_files(root) and web.requests == []


@pytest.mark.slow
def test_public_address_in_the_dvc_files_is_no_remote_of_your_own(tmp_path: Path) -> None:
    root = make_dvc_project(tmp_path / "project", url="https://nowhere.invalid/tiny.tar.gz#")
    assert not archives.has_own_remote(root / "tiny.tar.gz")


@pytest.mark.slow
def test_dvc_remote_that_fails_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_dvc_project(tmp_path / "project", url=str(tmp_path / "empty"))
    with serve() as web:
        obtain(describe(CONTENT, web.url), root)
    assert holds_the_files(root)
    assert "tiny.tar.gz: dvc pull: failed" in capsys.readouterr().err


def test_what_dvc_unpickles_lies_where_no_other_user_can_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []

    def run(command: list[str], env: dict[str, str], **_: object) -> "subprocess.CompletedProcess[str]":
        modes.append(stat.S_IMODE(Path(env["DVC_SITE_CACHE_DIR"]).stat().st_mode))
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.delenv("DVC_SITE_CACHE_DIR", raising=False)
    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(SourceFailed, match="failed"):
        archives._pull_with_dvc(TINY, tmp_path)
    assert modes == [0o700]


@pytest.mark.parametrize(
    "pointer", [b"", b"outs: []", b"[" * 5000, b"outs: [\0", b"\xff", b"outs: !!python/name:os.system"]
)
def test_a_damaged_file_of_dvc_names_no_remote(pointer: bytes, tmp_path: Path) -> None:
    (tmp_path / "tiny.tar.gz.dvc").write_bytes(pointer)
    assert not archives.has_own_remote(tmp_path / "tiny.tar.gz")


def make_dvc_project(project: Path, url: str) -> Path:
    """Make a DVC project that keeps tiny.tar.gz in a remote at `url`; return its data folder."""
    root = project / "data"
    root.mkdir(parents=True)
    (project / ".dvc").mkdir()
    settings = f'[core]\n    analytics = false\n    no_scm = true\n[\'remote "tiny"\']\n    url = "{url}"\n'
    (project / ".dvc" / "config").write_text(settings)
    pointer = f"outs:\n- md5: {TINY.md5}\n  hash: md5\n  path: tiny.tar.gz\n  remote: tiny\n"
    (root / "tiny.tar.gz.dvc").write_text(pointer)
    return root


def test_is_complete_looks_at_the_content(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "batches")
    assert is_complete(TINY, folder)
    (folder / "batch_2").write_bytes(FILES["batch_2"][:-1] + b"?")
    assert not is_complete(TINY, folder)
