"""Compiled kernels in files: found again, and not trusted where they are damaged or others could have written them."""

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from cifar10.files import cache_folder
from cifar10.kernels import jit, object_cache
from cifar10.kernels.arrays import float_array
from cifar10.kernels.codegen import Integer, KernelBuilder
from tests.conftest import ROOT

KEY, CODE = object_cache.key_of(["x"]), bytes(range(256))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "cifar10" / "kernels"


def test_what_is_stored_is_found_by_its_key_only(folder: Path) -> None:
    assert object_cache.load(KEY) is None
    object_cache.store(KEY, CODE)
    assert object_cache.load(KEY) == CODE
    assert object_cache.load(object_cache.key_of(["y"])) is None
    assert [path.name for path in folder.iterdir()] == [f"{KEY}.o"]
    assert (folder.stat().st_mode & 0o777, (folder / f"{KEY}.o").stat().st_mode & 0o777) == (0o700, 0o600)


def test_a_key_tells_facts_apart_and_where_they_end() -> None:
    keys = {object_cache.key_of(facts) for facts in (["ab", "c"], ["a", "bc"], ["abc"], ["ab", "c", ""], ["c", "ab"])}
    assert len(keys) == 5


@pytest.mark.parametrize("changed", range(0, 32 + len(CODE), 7))
def test_a_changed_byte_is_noticed(folder: Path, changed: int) -> None:
    object_cache.store(KEY, CODE)
    path = folder / f"{KEY}.o"
    content = bytearray(path.read_bytes())
    content[changed] ^= 1
    path.write_bytes(content)
    assert object_cache.load(KEY) is None
    object_cache.store(KEY, CODE)
    assert object_cache.load(KEY) == CODE


@pytest.mark.parametrize("length", [0, 10, 32, 100])
def test_a_file_that_is_cut_short_is_noticed(folder: Path, length: int) -> None:
    object_cache.store(KEY, CODE)
    path = folder / f"{KEY}.o"
    path.write_bytes(path.read_bytes()[:length])
    assert object_cache.load(KEY) is None


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_a_folder_that_others_may_write_to_is_not_used(folder: Path, mode: int) -> None:
    object_cache.store(KEY, CODE)
    folder.chmod(mode)
    assert object_cache.load(KEY) is None
    object_cache.store(object_cache.key_of(["y"]), CODE)
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_file_that_others_may_write_to_is_not_read(folder: Path, mode: int) -> None:
    object_cache.store(KEY, CODE)
    (folder / f"{KEY}.o").chmod(mode)
    assert object_cache.load(KEY) is None


@pytest.mark.parametrize("of_another", ["folder", "file"])
def test_what_another_user_owns_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch, of_another: str) -> None:
    object_cache.store(KEY, CODE)
    inode = (folder if of_another == "folder" else folder / f"{KEY}.o").stat().st_ino
    fstat = os.fstat

    def owned_by_another(descriptor: int) -> os.stat_result:
        status = fstat(descriptor)
        fields = list(status)
        fields[4] += status.st_ino == inode  # st_uid
        return os.stat_result(fields)

    monkeypatch.setattr(os, "fstat", owned_by_another)
    assert object_cache.load(KEY) is None


@pytest.mark.parametrize("linked", ["folder", "file"])
def test_links_are_not_followed(folder: Path, tmp_path: Path, linked: str) -> None:
    object_cache.store(KEY, CODE)
    path = folder if linked == "folder" else folder / f"{KEY}.o"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert object_cache.load(KEY) is None


def test_the_code_of_another_key_is_noticed(folder: Path) -> None:
    object_cache.store(KEY, CODE)
    other = object_cache.key_of(["y"])
    (folder / f"{KEY}.o").rename(folder / f"{other}.o")
    assert object_cache.load(other) is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to_is_read(folder: Path) -> None:
    object_cache.store(KEY, CODE)
    (folder / f"{KEY}.o").chmod(0o400)
    folder.chmod(0o500)
    try:
        assert object_cache.load(KEY) == CODE
        object_cache.store(object_cache.key_of(["y"]), CODE)
        assert len(list(folder.iterdir())) == 1
    finally:
        folder.chmod(0o700)


def test_code_whose_time_of_use_cannot_be_noted_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def utime(path: str, dir_fd: int) -> None:
        raise OSError(30, "Read-only file system")

    object_cache.store(KEY, CODE)
    monkeypatch.setattr(os, "utime", utime)
    assert object_cache.load(KEY) == CODE


def test_a_pipe_does_not_block(folder: Path) -> None:
    object_cache.store(KEY, CODE)
    (folder / f"{KEY}.o").unlink()
    os.mkfifo(folder / f"{KEY}.o", 0o600)
    assert object_cache.load(KEY) is None


def test_where_nothing_can_be_stored_nothing_is_raised(folder: Path) -> None:
    folder.parent.mkdir()
    folder.write_text("in the way")
    object_cache.store(KEY, CODE)
    assert object_cache.load(KEY) is None
    assert list(folder.parent.iterdir()) == [folder]


def test_a_failed_write_leaves_nothing_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def replace(source: Path, target: Path, **folders: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", replace)
    object_cache.store(KEY, CODE)
    assert list(folder.iterdir()) == []


def test_files_that_were_not_used_for_longest_are_removed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_cache, "_MOST_FILES", 4)
    folder.mkdir(parents=True, mode=0o700)
    others = [folder / f"{number}.txt" for number in range(9)]
    for other in others:
        other.touch()
    keys = [object_cache.key_of([str(number)]) for number in range(5)]
    for age, key in enumerate(keys[:4]):
        object_cache.store(key, CODE)
        os.utime(folder / f"{key}.o", (1000 + age, 1000 + age))
    assert object_cache.load(keys[0]) == CODE  # used now
    object_cache.store(keys[4], CODE)
    assert {key for key in keys if object_cache.load(key)} == {keys[0], keys[4]}
    assert all(other.exists() for other in others)


def test_without_a_home_folder_nothing_is_stored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="no home folder is known"):
        cache_folder("kernels")
    object_cache.store(KEY, CODE)
    assert object_cache.load(KEY) is None
    assert list(tmp_path.iterdir()) == []


# -- kernels ---------------------------------------------------------------------------------------------------------


def emit_doubling(builder: KernelBuilder, first: Integer, end: Integer, arguments: Sequence[Integer]) -> None:
    source, target = (float_array(builder, argument) for argument in arguments)
    with builder.loop(first, end) as vector:
        target.store(source.load(vector * 16) * 2.0, vector * 16)


def doubled(kernel: jit.Kernel) -> list[float]:
    source, target = torch.arange(64.0), torch.zeros(64)
    kernel(4, source, target)
    return list(target.tolist())


@pytest.mark.slow
@pytest.mark.skipif(not jit.is_available(), reason="needs llvmlite and GNU's OpenMP")
def test_a_kernel_is_compiled_once_and_loaded_then(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit, "_loaded", {})
    expected = [2.0 * number for number in range(64)]
    assert doubled(jit.Kernel(emit_doubling, num_arguments=2)) == expected
    [path] = folder.iterdir()
    monkeypatch.setattr(jit, "_object_code", lambda *arguments: pytest.fail("compiled again"))
    assert doubled(jit.Kernel(emit_doubling, num_arguments=2)) == expected  # in this process
    program = (
        "from tests.kernels.test_object_cache import *\n"
        "jit._object_code = lambda *arguments: sys.exit('compiled again')\n"
        "print(doubled(jit.Kernel(emit_doubling, num_arguments=2)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{expected}\n"), done.stderr  # in another one
    path.write_bytes(b"damaged")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "compiled again\n")


@pytest.mark.skipif(not jit.is_available(), reason="needs llvmlite and GNU's OpenMP")
def test_object_code_is_kept_for_one_cpu_and_compiler(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit, "_loaded", {})
    target = jit._target()
    llvmlite = pytest.importorskip("llvmlite")
    assert {llvmlite.__version__, llvmlite.binding.get_host_cpu_name()} <= set(target)
    jit.Kernel(emit_doubling, num_arguments=2)
    for position in range(len(target)):
        other = (*target[:position], "other", *target[position + 1 :])
        monkeypatch.setattr(jit, "_target", lambda other=other: other)
        jit.Kernel(emit_doubling, num_arguments=2)
    assert len(list(folder.iterdir())) == 1 + len(target)


@pytest.mark.skipif(not jit.is_available(), reason="needs llvmlite and GNU's OpenMP")
def test_threads_that_need_the_same_kernel_compile_it_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    object_code = jit._object_code

    def counted(text: str, machine: object) -> bytes:
        compiled.append(text)
        return object_code(text, machine)

    monkeypatch.setattr(jit, "_loaded", {})
    monkeypatch.setattr(jit, "_object_code", counted)
    with ThreadPoolExecutor(4) as pool:
        kernels = list(pool.map(lambda number: jit.Kernel(emit_doubling, num_arguments=2), range(8)))
    assert len(compiled) == 1
    assert all(doubled(kernel) == [2.0 * number for number in range(64)] for kernel in kernels)
