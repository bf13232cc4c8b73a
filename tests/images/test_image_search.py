"""The search finds every image once, in order, whatever it is called, and is drawn nowhere else."""

import os
import socket
import subprocess
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from cifar10.cli.checks import require_images
from cifar10.errors import UsageError, UserError
from cifar10.images.decode import ImageError, decode_image
from cifar10.images.search import SYSTEM_FOLDERS, ImageSearch, describe_skipped

NAMES = [
    "plain.png",
    "UPPER.JPEG",
    "two words.jpg",
    "new\nline.png",
    "quote\"s and 'these'.png",
    "emoji-\N{CAT}.png",
    "\u043a\u043e\u0442.png",
    "=cmd|' /C calc'!A0.png",
    "-n.png",
    "a[1].png",
    "back\\slash.png",
    os.fsdecode(b"latin-\xe9.png"),
    "tab\t.png",
    "x" * 200 + ".png",
]


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def searched(root: Path | str, follow_links: bool = False) -> tuple[list[str], Counter[str]]:
    """Return the names that are found and what was passed over."""
    search = ImageSearch(str(root), follow_links)
    return [str(path.relative_to(search.root)) for path in search], search.skipped


def found(root: Path | str) -> list[str]:
    return searched(root)[0]


def test_strange_names_survive(tmp_path: Path) -> None:
    touch(tmp_path, *NAMES)
    assert found(tmp_path) == sorted(NAMES)


def test_folders_are_searched_in_the_order_of_paths(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.png", "b/10.png", "a.png", "a/z/1.png", "a/1.png", "a-b/1.png", "c.png")
    assert [tmp_path / name for name in found(tmp_path)] == sorted(ImageSearch(str(tmp_path)))
    assert len(found(tmp_path)) == 7


def test_what_is_passed_over_is_counted_by_its_reason(tmp_path: Path) -> None:
    touch(tmp_path, "1.png", "notes.txt", "README", "a/._1.png", ".git/1.png", ".png")
    names, skipped = searched(tmp_path)
    assert names == ["1.png"]
    assert skipped == {"not named as an image": 2, "hidden": 3}


def test_whether_there_is_an_image_is_told_without_losing_it(tmp_path: Path) -> None:
    touch(tmp_path, "1.png", "2.png", "notes.txt")
    search = ImageSearch(str(tmp_path))
    assert not search.is_empty() and not search.is_empty()
    assert [path.name for path in search] == ["1.png", "2.png"]
    assert search.is_empty() and search.skipped == {"not named as an image": 1}


def test_folders_that_systems_make_are_passed_over_and_counted(tmp_path: Path) -> None:
    made = ["@eaDir", "__MACOSX", "lost+found", "$RECYCLE.BIN", "System Volume Information", "a/@eaDir/1.png"]
    touch(tmp_path, "a/1.png", "Thumbs.db", ".DS_Store", "a/._1.png", *(f"{folder}/thumbnail.png" for folder in made))
    names, skipped = searched(tmp_path)
    assert names == ["a/1.png"]
    assert skipped == {"system folder": 6, "hidden": 2, "not named as an image": 1}


def test_photos_in_other_formats_and_videos_are_counted_as_what_they_are(tmp_path: Path) -> None:
    files = ["1.jxl", "3.DNG", "4.cr2", "5.nef", "6.ARW", "7.MOV", "8.mp4", "9.zip", "b.txt"]
    touch(tmp_path, *files)
    names, skipped = searched(tmp_path)
    assert names == []
    assert skipped == {
        **{"raw photo": 4, "video": 2, "archive": 1, "not named as an image": 1},
        "JPEG XL or JPEG 2000 picture": 1,
    }
    assert describe_skipped(skipped).startswith("passed over: 4 raw photo, 2 video")


def test_a_system_folder_is_known_in_any_case_and_searched_if_it_is_named_itself(tmp_path: Path) -> None:
    assert all(name == name.casefold() for name in SYSTEM_FOLDERS)
    touch(tmp_path / "photos", "@EADIR/1.png", "recycled/1.png", ".git/1.png")
    assert searched(tmp_path / "photos") == (["recycled/1.png"], {"system folder": 1, "hidden": 1})
    touch(tmp_path, "lost+found/1.png")
    assert found(tmp_path / "lost+found") == ["1.png"]
    assert found(str(tmp_path / "lost+found" / "*.png")) == ["1.png"]


def test_pipes_and_sockets_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    os.mkfifo("pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
        names, skipped = searched(tmp_path)
        assert names == []
    assert skipped == {"not a regular file": 2}


def test_links_stay_inside_and_never_loop(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    touch(root, "real.png", "folder/2.png")
    touch(outside, "secret.png")
    (root / "inside.png").symlink_to("real.png")
    (root / "broken.png").symlink_to("deleted.png")
    (root / "self.png").symlink_to("self.png")
    (root / "secret.png").symlink_to(outside / "secret.png")
    (root / "null.png").symlink_to("/dev/null")
    (root / "folder" / "up").symlink_to("..")
    (root / "away").symlink_to(outside)
    names, skipped = searched(root)
    assert names == ["broken.png", "folder/2.png", "inside.png", "real.png"]
    assert skipped == {"link to a folder": 2, "link out of the folder": 2, "link that loops": 1}
    with pytest.raises(ImageError, match="No such file"):
        decode_image(root / "broken.png")


def test_links_are_followed_where_that_is_asked_for_but_never_in_a_circle(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    touch(root, "real.png", "folder/2.png")
    touch(outside, "1.png", "@eaDir/1.png", ".git/1.png")
    (root / "away").symlink_to(outside)
    (root / "single.png").symlink_to(outside / "1.png")
    (root / "self.png").symlink_to("self.png")
    (root / "folder" / "up").symlink_to("..")
    (outside / "back").symlink_to(root)
    paths, skipped = searched(root, follow_links=True)
    assert paths == ["away/1.png", "folder/2.png", "real.png", "single.png"]
    assert skipped == {"link that loops": 3, "hidden": 1, "system folder": 1}


def test_a_folder_of_nothing_but_links_is_refused_with_the_reason_and_the_way_out(tmp_path: Path) -> None:
    touch(tmp_path, "pool/1.png", "my set/train/cat/notes.txt")
    link = tmp_path / "my set" / "train" / "cat" / "1.png"
    link.symlink_to(tmp_path / "pool" / "1.png")
    with pytest.raises(UsageError, match=r"passed over: 1 link out of the folder, 1 not named as an image") as caught:
        require_images(str(tmp_path / "my set"))
    line = str(caught.value).partition("or copy them: ")[2]
    subprocess.run(["sh", "-c", line.replace("COPY", str(tmp_path / "copy"))], check=True)
    assert found(tmp_path / "copy") == ["train/cat/1.png"]


def test_a_root_that_is_itself_a_link_is_searched(tmp_path: Path) -> None:
    touch(tmp_path, "real/1.png")
    (tmp_path / "link").symlink_to("real")
    assert found(tmp_path / "link") == ["1.png"]


def test_a_folder_that_cannot_be_listed_is_yielded_and_gives_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a/1.png", "locked/2.png", "z/3.png")
    list_folder = os.scandir

    def refuse(path: str | Path) -> object:
        if os.path.basename(path) == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return list_folder(path)

    monkeypatch.setattr(os, "scandir", refuse)  # tests may run as root, who may read everything
    assert found(tmp_path) == ["a/1.png", "locked", "z/3.png"]
    with pytest.raises(ImageError, match="cannot be read: Permission denied"):
        decode_image(tmp_path / "locked")


def test_a_single_file_is_taken_whatever_its_name(tmp_path: Path) -> None:
    touch(tmp_path, "picture.dat")
    assert found(tmp_path / "picture.dat") == ["picture.dat"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.png", ["top.png"]),
        ("*/*.png", ["a/1.png", "b/1.png", "b/2.png"]),
        ("*/1.*", ["a/1.png", "b/1.png"]),
        ("?", ["a/1.png", "a/deep/3.jpg", "b/1.png", "b/2.png"]),
        ("[!b]", ["a/1.png", "a/deep/3.jpg"]),
        ("**/*.jpg", ["a/deep/3.jpg"]),
        ("**/1.png", ["a/1.png", "b/1.png"]),
        ("a/**", ["1.png", "deep/3.jpg"]),
        ("**", ["a/1.png", "a/deep/3.jpg", "b/1.png", "b/2.png", "top.png"]),
        ("b/*", ["1.png", "2.png"]),
        ("*.gif", []),
    ],
)
def test_globs_find_what_a_shell_would(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    touch(tmp_path, "top.png", "a/1.png", "a/deep/3.jpg", "b/1.png", "b/2.png", "b/notes.txt")
    assert found(str(tmp_path / pattern)) == expected


def test_a_folder_named_like_a_glob_is_that_folder(tmp_path: Path) -> None:
    touch(tmp_path, "set[1]/1.png", "set1/2.png")
    assert found(tmp_path / "set[1]") == ["1.png"]


def test_a_glob_does_not_look_into_folders_it_cannot_match(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "cat/1.png", "dog/1.png")
    listed: list[str] = []
    list_folder = os.scandir

    def remember(path: str) -> object:
        listed.append(os.path.basename(path))
        return list_folder(path)

    monkeypatch.setattr(os, "scandir", remember)
    assert found(str(tmp_path / "c*" / "*.png")) == ["cat/1.png"]
    assert listed == [tmp_path.name, "cat"]


def test_the_search_is_lazy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, *(f"{folder}/{file}.png" for folder in "abcdefgh" for file in range(3)))
    listed: list[str] = []
    list_folder = os.scandir

    def remember(path: str) -> object:
        listed.append(str(path))
        return list_folder(path)

    monkeypatch.setattr(os, "scandir", remember)
    assert len(list(islice(ImageSearch(str(tmp_path)), 4))) == 4
    assert [Path(path).name for path in listed] == [tmp_path.name, "a", "b"]


@pytest.mark.slow
def test_folders_may_nest_deeper_than_python_recurses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    depth = 1200
    for _ in range(depth):
        os.mkdir("d")
        os.chdir("d")
    Path("1.png").touch()
    monkeypatch.chdir(tmp_path)
    assert found(".") == ["d/" * depth + "1.png"]
    while os.path.isdir("d"):  # pytest's own removal recurses
        os.chdir("d")
    os.remove("1.png")
    while Path.cwd() != tmp_path:
        os.chdir("..")
        os.rmdir("d")


@pytest.mark.parametrize("root", ["", "missing", "missing/*.png", "mis\0sing"])
def test_a_place_that_does_not_exist_is_named_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="there is no folder or file"):
        ImageSearch(root)
