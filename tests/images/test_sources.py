"""Archives, lists and addresses are read as folders are: every image once, in order, and no other file."""

import bz2
import gzip
import io
import lzma
import os
import stat
import struct
import tarfile
import threading
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cifar10.errors import UserError
from cifar10.images import parallel
from cifar10.images.decode import ImageError
from cifar10.images.parallel import decode_images
from cifar10.images.sources import addresses, is_collection, open_source, path_list, zip_archive
from tests.malformed import encode, picture

SIZE = 16
NAMES = ["cat/1.png", "cat/2.png", "dog/3.png", "4.png"]
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "tar": lambda data: data,
    "tar.gz": gzip.compress,
    "tar.bz2": bz2.compress,
    "tar.xz": lzma.compress,
    "tar.zst": lambda data: pa.compress(data, "zstd", asbytes=True),
}


def image(seed: int) -> bytes:
    return encode(picture(seed, SIZE), "PNG")


def tar_of(files: dict[str, bytes], *extra: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for member in extra:
            archive.addfile(member)
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def zip_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def images() -> dict[str, bytes]:
    return {name: image(seed) for seed, name in enumerate(NAMES)}


def read(given: Path | str) -> dict[str, str]:
    """Return each image of a source with the reason for its refusal, after a check of the pixels of the others."""
    expected = {name: picture(seed, SIZE) for seed, name in enumerate(NAMES)}
    found: dict[str, str] = {}
    for source, pixels, _, _ in decode_images(open_source(str(given)), SIZE, look_ahead=3):
        assert source.name not in found
        found[source.name] = str(pixels) if isinstance(pixels, ImageError) else ""
        if source.name in expected and not isinstance(pixels, ImageError):
            np.testing.assert_array_equal(pixels, expected[source.name])
    return found


def test_a_zip_archive_has_the_images_and_names_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zip_of(images()))
    assert read(tmp_path / "a.zip") == dict.fromkeys(NAMES, "")
    assert open_source(str(tmp_path / "a.zip")).count() == len(NAMES)


@pytest.mark.parametrize("kind", COMPRESSIONS)
def test_a_tar_archive_has_them_too_however_it_is_compressed(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "any name"
    path.write_bytes(COMPRESSIONS[kind](tar_of(images())))
    assert is_collection(str(path))
    assert read(path) == dict.fromkeys(NAMES, "")


@pytest.mark.parametrize("make", [tar_of, zip_of])
def test_what_is_passed_over_in_a_folder_is_passed_over_in_an_archive(
    tmp_path: Path, make: Callable[[dict[str, bytes]], bytes]
) -> None:
    others = ["__MACOSX/cat/._1.png", "a/@eaDir/1.png", ".hidden/1.png", "a/.1.png", "notes.txt", "clip.MOV"]
    (tmp_path / "a").write_bytes(make({**images(), **dict.fromkeys(others, b"x")}))
    source = open_source(str(tmp_path / "a"))
    assert [image.name for image in source] == NAMES
    assert source.skipped == {"hidden": 3, "system folder": 1, "not named as an image": 1, "video": 1}


@pytest.mark.parametrize("make", [tar_of, zip_of])
def test_names_that_lead_out_of_an_archive_are_names_and_nothing_is_written(
    tmp_path: Path, make: Callable[[dict[str, bytes]], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["../../secret/1.png", "/etc/2.png", "new\nline.png", "=cmd.png", "\N{CAT}.png"]
    Path("a").write_bytes(make({name: image(0) for name in names}))
    assert list(read("a")) == names
    assert os.listdir() == ["a"]


def test_links_and_devices_in_an_archive_are_passed_over(tmp_path: Path) -> None:
    members = []
    for name, kind in {"1.png": tarfile.SYMTYPE, "2.png": tarfile.LNKTYPE, "3.png": tarfile.CHRTYPE}.items():
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc/passwd"
        members.append(member)
    (tmp_path / "a.tar").write_bytes(tar_of(images(), *members))
    source = open_source(str(tmp_path / "a.tar"))
    assert [image.name for image in source] == NAMES
    assert source.skipped == {"link in an archive": 2, "not a regular file": 1}
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        link = zipfile.ZipInfo("1.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    assert open_source(str(tmp_path / "a.zip")).is_empty()


@pytest.mark.slow
def test_members_that_claim_to_be_huge_are_rows_and_are_not_read(tmp_path: Path) -> None:
    huge = b"\x89PNG\r\n\x1a\n" + bytes(200 * 2**20)
    (tmp_path / "a.zip").write_bytes(zip_of({"huge.png": huge, **images()}))
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(tar_of({"huge.png": huge, **images()}), 1))
    del huge
    for name in ("a.zip", "a.tar.gz"):
        tracemalloc.start()
        found = read(tmp_path / name)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found == {"huge.png": "too large: 200 MiB, the limit is 128 MiB", **dict.fromkeys(NAMES, "")}
        assert peak < 20 * 2**20


def test_a_zip_member_that_is_larger_than_it_claims_is_refused(tmp_path: Path) -> None:
    data = zip_of({"1.png": encode(np.zeros((900, 900, 3), np.uint8), "BMP")})
    at = data.rindex(b"PK\x01\x02") + 24
    (tmp_path / "a.zip").write_bytes(data[:at] + struct.pack("<I", 1000) + data[at + 4 :])
    assert "damaged" in read(tmp_path / "a.zip")["1.png"]


def test_an_encrypted_member_says_so(tmp_path: Path) -> None:
    data = bytearray(zip_of({"1.png": image(0)}))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    assert "encrypted" in read(tmp_path / "a.zip")["1.png"]


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.xz", "tar.bz2", "tar.zst"])
@pytest.mark.parametrize("part", [0.4, 0.99])
def test_an_archive_that_is_cut_off_ends_with_its_reason(tmp_path: Path, kind: str, part: float) -> None:
    whole = {f"{number:03}.png": image(number) for number in range(30)}
    data = COMPRESSIONS[kind](tar_of(whole)[:-9000])
    data = data[: int(len(data) * part)] if kind != "tar" else tar_of(whole)[: int(30_000 * part)]
    (tmp_path / "a").write_bytes(data)
    names = [image.name for image in open_source(str(tmp_path / "a"))]
    assert names[-1] == "a" and names[:-1] == list(whole)[: len(names) - 1]
    assert "damaged" in read(tmp_path / "a")["a"]


def test_a_tar_that_ends_between_two_members_is_not_taken_for_whole(tmp_path: Path) -> None:
    files = {f"{number}.png": bytes(512) for number in range(4)}
    (tmp_path / "a.tar").write_bytes(tar_of(files)[: 3 * 1024])
    assert list(read(tmp_path / "a.tar").items())[-1] == ("a.tar", "damaged: the archive ends early, after 3 images")


def test_headers_of_a_tar_that_claim_memory_are_refused(tmp_path: Path) -> None:
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 2**32
    data = header.tobuf(tarfile.USTAR_FORMAT) + bytes(2**22)
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(data))
    tracemalloc.start()
    [reason] = read(tmp_path / "a.tar.gz").values()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "a header of 4,29" in reason and peak < 8 * 2**20


def test_a_gzip_that_holds_no_tar_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"a text, and no tar archive" * 100))
    assert "damaged or not a tar archive" in read(tmp_path / "a.gz")["a.gz"]


@pytest.mark.parametrize("length", [10, 300, -30])
def test_a_zip_that_is_cut_off_is_refused_at_once(tmp_path: Path, length: int) -> None:
    (tmp_path / "a.zip").write_bytes(zip_of(images())[:length])
    with pytest.raises(UserError, match="cannot be read as a zip archive"):
        open_source(str(tmp_path / "a.zip"))


@pytest.mark.parametrize("cut", [1, 21, 60, 90])
def test_an_archive_within_one_that_is_cut_off_is_not_taken_for_it(tmp_path: Path, cut: int) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("a.png", image(0))
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as archive:
        archive.writestr("inner.zip", inner.getvalue())
        archive.writestr("b.png", image(1))
    whole = (tmp_path / "outer.zip").read_bytes()
    assert read(tmp_path / "outer.zip") == {"b.png": ""}
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) - cut])
    with pytest.raises(UserError, match="cannot be read as a zip archive"):
        open_source(str(tmp_path / "cut.zip"))


def test_a_zip_whose_directory_takes_too_much_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.zip").write_bytes(zip_of(images()))
    monkeypatch.setattr(zip_archive, "MAX_DIRECTORY", 100)
    with pytest.raises(UserError, match="unpack it first"):
        open_source(str(tmp_path / "a.zip"))


def test_images_of_an_archive_wait_in_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8), "BMP")
    (tmp_path / "a.tar").write_bytes(tar_of({f"{number}.bmp": data for number in range(60)}))
    monkeypatch.setattr(parallel, "_MOST_HELD", 4 * len(data))
    tracemalloc.start()
    assert len(list(decode_images(open_source(str(tmp_path / "a.tar")), SIZE, look_ahead=60))) == 60
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * len(data)


def write_files(folder: Path) -> None:
    for name, data in images().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


@pytest.mark.parametrize("separator", ["\n", "\r\n", "\0"])
def test_a_list_names_files_relative_to_its_folder(tmp_path: Path, separator: str) -> None:
    write_files(tmp_path / "set")
    names = [*NAMES[:2], "", str(tmp_path / "set" / NAMES[2]), "gone.png", NAMES[3]]
    (tmp_path / "set" / "list.txt").write_text("\ufeff" + separator.join(names))
    found = read(tmp_path / "set" / "list.txt")
    assert list(found) == [name for name in names if name]
    assert found.pop("gone.png") == "cannot be read: No such file or directory" and not any(found.values())
    assert open_source(str(tmp_path / "set" / "list.txt")).count() == 5


def test_strange_names_and_long_lines_in_a_list_are_rows(tmp_path: Path) -> None:
    names = [b"latin-\xe9.png", b" two words.png", b"-n.png", b"new\nline.png"]
    for name in names:
        (tmp_path / os.fsdecode(name)).write_bytes(image(0))
    (tmp_path / "list").write_bytes(b"\0".join([*names, b"x" * 300_000, b"."]))
    found = read(tmp_path / "list")
    assert list(found)[:4] == [os.fsdecode(name) for name in names]
    assert list(found.values())[4:] == ["not a path: a line of more than 8,192 bytes", "a folder"]
    assert not any(list(found.values())[:4])


def test_a_list_is_read_in_bounded_memory(tmp_path: Path) -> None:
    stream = io.BytesIO(b"1.png\n" * 200_000 + b"y" * 5_000_000)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    assert sum(1 for _ in path_list.split(stream)) == 200_001
    assert tracemalloc.get_traced_memory()[1] - before < 2**21
    tracemalloc.stop()


@pytest.mark.parametrize("content", [b"\0", b"\n", b"x"])
def test_a_list_without_an_end_or_a_path_is_given_up(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(path_list, "_MOST_EMPTY", 2**20)
    endless = io.BytesIO(content)
    monkeypatch.setattr(endless, "read1", lambda size: content * size, raising=False)
    with pytest.raises(UserError, match="the list has no path in 1 MB"):
        list(path_list.split(endless))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_a_list_in_another_encoding_is_refused_by_its_name(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "list.txt").write_text("./cat 1.png\n" * 50, encoding=encoding)
    with pytest.raises(UserError, match=r"list\.txt is in UTF-16; save it as UTF-8"):
        open_source(str(tmp_path / "list.txt"))


def test_a_malformed_address_in_a_list_is_a_row(tmp_path: Path) -> None:
    write_files(tmp_path)
    (tmp_path / "list.txt").write_text(f"{NAMES[0]}\nhttp://[x\nhttp://[::1\n")
    found = read(tmp_path / "list.txt")
    assert found.pop(NAMES[0]) == ""
    assert list(found) == ["http://[x", "http://[::1"] and all(x.startswith("not an address: ") for x in found.values())


def test_another_text_is_not_taken_for_a_list(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("A folder of photos.\n\nTaken in spring.\n")
    with pytest.raises(UserError, match=r"is a text file, and its first line is no file in .*: 'A folder of photos.'"):
        open_source(str(tmp_path / "README"))


def test_standard_input_is_a_list_relative_to_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\n".join(NAMES).encode())))
    assert read("-") == dict.fromkeys(NAMES, "")


class Handler(BaseHTTPRequestHandler):
    """Serves images, lists and trouble by their paths."""

    def do_GET(self) -> None:
        name = self.path.lstrip("/")
        if name == "list.txt":
            return self.reply(b"cat/1.png\n/cat/2.png\nfile:///etc/passwd\n../../etc/passwd\n404.png\n")
        if name.startswith("to-"):
            self.send_response(302)
            self.send_header("Location", {"to-file": "file:///etc/passwd", "to-1": "/cat/1.png"}.get(name, self.path))
            self.end_headers()
        elif name == "huge.png":
            self.reply(b"", length=10**12)
        elif name == "cut.png":
            self.reply(image(0)[:100], length=1000)
        elif name == "unstated.png":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(image(0))
        elif name == "page":
            self.reply(b"<!DOCTYPE html>\n<title>Photos</title>")
        elif name == "a.zip":
            self.reply(zip_of(images()))
        elif name in NAMES:
            self.reply(image(NAMES.index(name)))
        else:
            self.send_error(404)
        return None

    def reply(self, body: bytes, length: int | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("NO_PROXY", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_an_address_is_an_image_or_a_list_and_failures_are_rows(site: str) -> None:
    assert read(f"{site}/cat/1.png") == {f"{site}/cat/1.png": ""}
    assert read(f"{site}/to-1") == {f"{site}/to-1": ""}
    assert read(f"{site}/list.txt") == {
        f"{site}/cat/1.png": "",
        f"{site}/cat/2.png": "",
        "file:///etc/passwd": "not an address of http or https",
        f"{site}/etc/passwd": "the server responds with 404 Not Found",
        f"{site}/404.png": "the server responds with 404 Not Found",
    }


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing", "the server responds with 404 Not Found"),
        ("to-file", "cannot be fetched: it redirects to something else than http or https"),
        ("to-itself", "cannot be fetched: more than 5 redirects"),
        ("huge.png", "too large: 953674 MiB, the limit is 128 MiB"),
        ("cut.png", "cannot be fetched: the connection ended early"),
        ("page", "not a PNG"),
        ("a.zip", "download it first"),
    ],
)
def test_what_cannot_be_fetched_has_a_clear_reason(site: str, name: str, reason: str) -> None:
    [found] = read(f"{site}/{name}").values()
    assert reason in found and len(found) < 130


def test_a_server_that_is_not_there_or_stalls_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(addresses, "_TIMEOUT", (0.3, 0.3))
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        assert list(read(f"http://127.0.0.1:{port}/1.png").values()) == ["cannot be fetched: no connection"]
        silent.listen()
        assert list(read(f"http://127.0.0.1:{port}/1.png").values()) == ["cannot be fetched: the server stalled"]
    assert list(read("http://[/1.png").values()) == ["cannot be fetched: not an address"]


def test_more_than_the_limit_is_not_read_if_the_length_is_not_stated(
    site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "MAX_BYTES", 50)
    assert "too large: more than the limit" in read(f"{site}/unstated.png")[f"{site}/unstated.png"]


def test_remote_images_come_in_short_lists() -> None:
    from cifar10.images.decode import EncodedImage
    from cifar10.images.named_image import NamedImage

    data = image(0)
    assert EncodedImage(data).num_pixels == SIZE * SIZE
    remote = [NamedImage(str(number), lambda before: data, is_remote=True) for number in range(40)]
    assert [len(part) for part in parallel.decode_batches(remote, SIZE, batch_size=1000)] == [16, 16, 8]
