"""Scores of classes are what their definitions say, and folder names mean the classes a person would think of."""

from pathlib import PurePath

import numpy as np
import pytest

from cifar10.analysis.classification_report import Score
from cifar10.data.class_names import ClassFolders

CIFAR = ("airplane", "automobile", "bird", "cat")


def scored(confusion: list[list[int]], names: tuple[str, ...] = ("a", "b", "c")) -> Score:
    score = Score(names)
    for label, answers in enumerate(confusion):
        for answer, count in enumerate(answers):
            for _ in range(count):
                score.add(label, answer)
    return score


def test_precision_recall_and_f1_follow_their_definitions() -> None:
    score = scored([[8, 2, 0], [4, 6, 0], [0, 0, 0]])
    a, b = score.classes
    assert (a.name, a.support, a.recall) == ("a", 10, 0.8)
    assert a.precision == pytest.approx(8 / 12)
    assert a.f1 == pytest.approx(2 * 0.8 * (8 / 12) / (0.8 + 8 / 12))
    assert (b.precision, b.recall) == (6 / 8, 0.6)
    assert score.accuracy == 14 / 20


def test_a_class_that_is_never_right_scores_zero_and_nothing_divides_by_zero() -> None:
    never_there, never_said = scored([[0, 0], [3, 0]], ("a", "b")).classes
    assert (never_there.precision, never_there.recall, never_there.f1) == (0.0, None, 0.0)
    assert (never_said.precision, never_said.recall, never_said.f1) == (None, 0.0, 0.0)
    assert Score(("a", "b")).accuracy is None


def test_the_most_frequent_mistakes_come_first() -> None:
    score = scored([[1, 2, 0], [5, 9, 0], [0, 1, 1]])
    assert score.confusions == [("b", "a", 5), ("a", "b", 2), ("c", "b", 1)]
    assert score.report().splitlines()[-1] == (
        "most frequent mistakes: b taken for a 5x, a taken for b 2x, c taken for b 1x"
    )


def test_the_report_is_an_aligned_table() -> None:
    lines = scored([[8, 2, 0], [4, 6, 0], [0, 0, 1]], ("a", "a long name", "c")).report().splitlines()
    assert lines[0].split() == ["class", "precision", "recall", "f1", "images"]
    assert lines[1].split() == ["a", "0.667", "0.800", "0.727", "10"]
    assert len({len(line) for line in lines[:-1]}) == 1


def test_of_many_classes_the_worst_are_shown() -> None:
    confusion = np.diag([10] * 50)
    confusion[44] = np.eye(50, dtype=int)[7]
    lines = scored(confusion.tolist(), tuple(f"class{n}" for n in range(50))).report().splitlines()
    assert len(lines) == 32 and lines[0].startswith("class (30 of 50") and lines[1].startswith("class44")


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("cat", 3),
        ("Cat", 3),
        ("plane", 0),
        ("aeroplane", 0),
        ("airplane", 0),
        ("car", 1),
        ("Automobile", 1),
        ("cats", None),
        ("", None),
    ],
)
def test_folder_names_are_understood_as_people_write_them(folder: str, expected: int | None) -> None:
    assert ClassFolders(CIFAR).find(folder) == expected


def test_aliases_work_in_both_directions_but_never_against_a_name_that_is_a_class() -> None:
    assert ClassFolders(("plane", "car")).find("airplane") == 0
    both = ClassFolders(("plane", "airplane"))
    assert (both.find("plane"), both.find("airplane"), both.find("aeroplane")) == (0, 1, None)


def test_names_that_differ_only_in_case_are_told_apart() -> None:
    folders = ClassFolders(("Cat", "cat"))
    assert (folders.find("Cat"), folders.find("cat"), folders.find("CAT")) == (0, 1, None)


def test_the_outermost_folder_that_is_a_class_is_the_label_as_in_training() -> None:
    folders = ClassFolders(CIFAR)
    assert folders.label(PurePath("test/cat/tabby/1.png")) == 3
    assert folders.label(PurePath("cat/bird/1.png")) == 3
    assert folders.label(PurePath("cat.png")) is None
    assert folders.label(PurePath("cat")) is None
