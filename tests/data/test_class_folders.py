"""What lies in a folder of class folders is found, or told, or refused: nothing is left out in silence."""

import os
import shlex
import subprocess
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cifar10.config.compose import ConfigError, load_config
from cifar10.data.class_folders import find_classes, find_splits, labelled_files
from cifar10.data.class_names import ClassFolders
from cifar10.data.image_dataset import DataError, ImageDataset, Split, hold_out
from cifar10.prepare_data import describe


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def found(split: Path, names: list[str], present: list[str] | None = None) -> list[tuple[str, int]]:
    return [(str(path.relative_to(split)), label) for path, label in labelled_files(split, names, present or names)]


def test_what_is_passed_over_is_told_by_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "cat/1.png", "cat/notes.txt", "cat/@eaDir/1.png", "loose.png", ".DS_Store", "Thumbs.db")
    touch(tmp_path, "__MACOSX/cat/1.png", "lost+found/1.png", "$RECYCLE.BIN/2.png", ".Trash-1000/3.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "gone").symlink_to("nowhere")
    assert found(tmp_path, ["cat"]) == [("cat/1.png", 0)]
    [record] = caplog.records
    assert record.getMessage() == (
        f"{tmp_path}: passed over: 4 system folder, 2 hidden, 2 not named as an image, 1 folder without an image, "
        "1 image outside of the class folders, 1 link that leads nowhere"
    )


def test_links_are_followed_wherever_they_lead_but_never_upwards(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pool, train = tmp_path / "pool", tmp_path / "train"
    touch(pool, "red/1.png", "red/2.png", "green/3.png", "more/deep/4.png")
    touch(train, "red/batch1/0.png")
    (train / "red" / "batch2").symlink_to(pool / "red")
    (train / "red" / "single.png").symlink_to(pool / "green" / "3.png")
    (train / "green").symlink_to(pool / "green")
    (pool / "green" / "more").symlink_to(pool / "more")
    (pool / "more" / "back").symlink_to(pool / "green")  # a loop through two links
    (pool / "green" / "up").symlink_to("..")  # would label red images green
    (train / "red" / "up").symlink_to(train)
    (train / "all").symlink_to(".")
    assert found(train, ["green", "red"]) == [
        *(("green/3.png", 0), ("green/more/deep/4.png", 0)),
        *(("red/batch1/0.png", 1), ("red/batch2/1.png", 1), ("red/batch2/2.png", 1), ("red/single.png", 1)),
    ]
    [record] = caplog.records
    assert record.getMessage() == f"{train}: passed over: 4 link that loops"


def test_a_folder_that_is_no_class_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    touch(tmp_path, "red/1.png", "blau/1.png", "grin/1.png")
    with pytest.raises(DataError, match=r"folder blau is not a class of the training images; did you mean blue\?"):
        found(tmp_path, ["red", "blue", "grin"])
    with pytest.raises(DataError, match=r"folders blau, grin are not among the classes .* which are blue, green, red"):
        found(tmp_path, ["blue", "green", "red"])


def test_a_class_that_was_not_chosen_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "red/1.png", "blue/1.png")
    assert found(tmp_path, ["red"], ["red", "blue"]) == [("red/1.png", 0)]
    assert not caplog.records


def test_names_compare_in_nfc(tmp_path: Path) -> None:
    composed = ["caf\u00e9", "th\u00e9"]
    decomposed = [unicodedata.normalize("NFD", name) for name in composed]
    touch(tmp_path, *(f"test/{name}/1.png" for name in decomposed), *(f"train/{name}/1.png" for name in composed))
    assert [label for _, label in found(tmp_path / "test", composed)] == [0, 1]
    assert find_classes(tmp_path / "train", list(decomposed))[0] == decomposed
    assert ClassFolders(decomposed).find("TH\u00c9") == 1


def test_two_folders_of_one_name_in_nfc_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "caf\u00e9/1.png", "cafe\u0301/1.png")
    with pytest.raises(DataError, match="two folders of the same name in other Unicode forms: caf\u00e9"):
        find_classes(tmp_path, None)


def test_whole_numbers_are_in_numerical_order(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{number}/1.png" for number in range(12)))
    assert find_classes(tmp_path, None)[0] == [str(number) for number in range(12)]
    touch(tmp_path, "x/1.png")
    assert find_classes(tmp_path, None)[0] == sorted([*map(str, range(12)), "x"])


def test_numbers_in_a_list_of_classes_are_names(tmp_path: Path) -> None:
    touch(tmp_path, "0/1.png", "1/1.png", "10/1.png")
    words = ["data_loading=folder", f"data_loading.root={tmp_path}"]
    config = load_config([*words, "data_loading.classes=[10,0,'1']"])
    assert find_classes(tmp_path, config.data_loading.arguments["classes"])[0] == ["10", "0", "1"]
    config = load_config([*words, "data_loading.classes=[01,1]"])
    with pytest.raises(DataError, match=r"no folder .*/01; did you mean 1\?"):
        find_classes(tmp_path, config.data_loading.arguments["classes"])
    for wrong in ("1e3", "true", "null"):
        with pytest.raises(ConfigError, match=r"data_loading\.classes(\.1)?: must be a"):
            load_config([*words, f"data_loading.classes=[0,{wrong}]"])


def test_a_number_that_yaml_makes_of_another_name_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "01/1.png", "010/1.png", "8/1.png")
    with pytest.raises(DataError, match=r'YAML reads 01 as 1; write the name in quotes, as in classes: \["01"\]'):
        find_classes(tmp_path, [1, 8])
    with pytest.raises(DataError, match="YAML reads 8 and 010 as 8"):
        find_classes(tmp_path, [8, "01"])
    assert find_classes(tmp_path, ["8", "01"])[0] == ["8", "01"]


def test_a_class_name_that_is_no_utf8_is_refused_with_a_line_that_renames_it(tmp_path: Path) -> None:
    train = tmp_path / "my train"
    touch(train, "a/1.png", os.fsdecode(b"caf\xe9 1/1.png"))
    with pytest.raises(DataError, match=r"class folder caf\\xe9 1 in .* is not UTF-8; rename it: mv ") as caught:
        find_classes(train, None)
    line = str(caught.value).partition("rename it: ")[2]
    subprocess.run(["bash", "-c", line.replace("NAME", "cafe")], check=True)
    assert find_classes(train, None)[0] == ["a", "cafe"]
    assert shlex.split(line)[0] == "mv"


def test_strange_bytes_in_other_splits_are_told_in_utf8(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", os.fsdecode(b"caf\xe9/1.png"))
    with pytest.raises(DataError, match=r"folder caf\\xe9 is not a class") as caught:
        found(tmp_path, ["a", "b"])
    str(caught.value).encode()


def test_a_data_set_with_a_lone_surrogate_in_a_class_name_cannot_be_made() -> None:
    split = Split(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.arange(2))
    with pytest.raises(DataError, match=r"cannot be written in UTF-8: caf\\xe9"):
        ImageDataset("odd", ("a", "caf\udce9"), split, split, split)


def test_folders_beside_the_splits_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "train/a/1.png", "test/a/1.png", "holdout/a/1.png", "@eaDir/1.png", "labels.csv")
    assert find_splits(tmp_path).test == tmp_path / "test"
    assert [r.getMessage() for r in caplog.records] == [
        "folders beside train are not a split and are not used: holdout"
    ]


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> object:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)  # tests may run as root, who may read everything
    with pytest.raises(DataError, match="cannot be listed: Permission denied"):
        find_splits(tmp_path)


def test_a_misspelt_root_is_named_with_the_nearest(tmp_path: Path) -> None:
    touch(tmp_path, "flowers/train/a/1.png")
    with pytest.raises(DataError, match=r"no folder .*/flower; did you mean .*/flowers\?"):
        find_splits(tmp_path / "flower")


def tiny(num_classes: int) -> ImageDataset:
    labels = torch.arange(2 * num_classes) % num_classes
    split = Split(torch.zeros(len(labels), 3, 1, 1, dtype=torch.uint8), labels)
    return ImageDataset("many", tuple(f"class {number}" for number in range(num_classes)), split, split, split)


@pytest.mark.slow
@pytest.mark.parametrize(
    "work",
    [
        lambda data: ClassFolders(data.class_names).find("class_7"),
        describe,
        lambda data: hold_out(data.train, data.num_classes // 2, seed=0),
    ],
    ids=["ClassFolders", "describe", "hold_out"],
)
def test_the_work_grows_with_the_number_of_classes_and_not_with_its_square(
    work: Callable[[ImageDataset], object],
) -> None:
    seconds = []
    for num_classes in (1_000, 20_000):
        data = tiny(num_classes)
        started = time.process_time()
        work(data)
        seconds.append(time.process_time() - started)
    assert seconds[1] < 100 * seconds[0] + 0.5  # 20 times if linear, 400 if square
