"""The atomic writer: the old content or the new one, and no temporary files."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cifar10.errors import UserError
from cifar10.files import atomic_write, link_or_copy, read_file, read_text, write_text


def test_the_new_content_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with atomic_write(path) as file:
        file.write("кот".encode())
        assert path.read_text() == "old"
    assert path.read_text(encoding="utf-8") == "кот"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_an_exception_of_the_block_leaves_the_old_content_and_is_raised_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail(error: Exception) -> None:
        with atomic_write(path) as file:
            file.write(b"new")
            raise error

    for error in (FileNotFoundError(2, "of another file"), RuntimeError("of something else"), KeyError("x")):
        with pytest.raises(type(error)) as caught:
            fail(error)
        assert caught.value is error
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_a_folder_that_is_not_there_is_told_without_advice_on_room(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"a\.txt could not be written \(No such file or directory: there is no folder "
    ):
        write_text(tmp_path / "absent" / "a.txt", "x")


def test_a_file_system_without_room_for_another_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = os.statvfs_result((4096, 4096, 10, 9, 9, 26, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: full)

    def write() -> None:
        with atomic_write(tmp_path / "a.txt"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(UserError, match="the file system holds as many files as it can; remove some"):
        write()


def test_a_folder_that_is_deleted_meanwhile_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()

    def write_and_delete() -> None:
        with atomic_write(folder / "last.ckpt") as file:
            file.write(b"x")
            shutil.rmtree(folder)

    with pytest.raises(UserError, match=r"last\.ckpt could not be written .*: there is no folder .*run\)"):
        write_and_delete()
    with pytest.raises(UserError, match=r"best\.ckpt could not be written .*: there is no folder .*run\)"):
        link_or_copy(folder / "last.ckpt", folder / "best.ckpt")


@pytest.mark.parametrize("write", [write_text, lambda path, _text: link_or_copy(path.with_name("source"), path)])
def test_a_folder_that_may_not_be_written_any_more_is_told(
    write: Callable[[Path, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*paths: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(paths[0]))

    path = tmp_path / "scores.json"
    path.write_text("before")
    (tmp_path / "source").write_text("after")
    with monkeypatch.context() as patch:  # as after a chmod, which does not hold back a superuser
        patch.setattr(os, "replace", refuse)
        patch.setattr(os, "unlink", refuse)
        with pytest.raises(UserError, match=r"scores.json could not be written \(Permission denied\)"):
            write(path, "after")
    assert path.read_text() == "before"


def test_a_folder_in_place_of_the_file_is_told_and_kept(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(
        UserError, match=r"report\.html is a folder, and a file of this name is to be written; rename it"
    ):
        write_text(tmp_path / "report.html", "x")
    assert os.listdir(tmp_path) == ["report.html"] and (tmp_path / "report.html").is_dir()


@pytest.mark.parametrize("has_links", [True, False])
def test_a_second_name_has_the_same_content_and_stays_when_the_first_is_replaced(
    has_links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    if not has_links:
        monkeypatch.setattr(os, "link", refuse)
    first, second = tmp_path / "last", tmp_path / "best"
    write_text(second, "before")
    for content in ("one", "two", "two"):
        write_text(first, content)
        link_or_copy(first, second)
        link_or_copy(first, second)  # already links to the same file
        assert second.read_text() == content
    write_text(first, "three")
    assert second.read_text() == "two" and sorted(os.listdir(tmp_path)) == ["best", "last"]


def test_pipes_devices_folders_and_large_files_are_not_read(tmp_path: Path) -> None:
    write_text(tmp_path / "text", "äöü")
    assert read_text(tmp_path / "text") == "äöü" and read_file(tmp_path / "text", 6) == "äöü".encode()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name in ("pipe", "device", "."):
        with pytest.raises(OSError, match=r"it is not a file|Is a directory"):
            read_file(tmp_path / name)
    with pytest.raises(OSError, match="more than"):
        read_file(tmp_path / "text", 5)
