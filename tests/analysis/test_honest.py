"""Honest accuracy: which images are left out, and how people are counted."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cifar10.analysis.honest import (
    CLASS_NAMES,
    Findings,
    honest_scores,
    is_published_test_split,
    people_score,
    read_findings,
)
from cifar10.data.cifar import cifar10
from cifar10.data.image_dataset import Split
from cifar10.data.published_labels import DUPLICATES, FILES, PEOPLE, VERDICTS, obtain_labels
from cifar10.errors import UserError
from tests.conftest import SHARED_DATA

EXTRA = SHARED_DATA / "cifar10_extra"


def test_images_are_left_out_and_counted() -> None:
    probabilities = np.eye(10)[[0, 1, 2, 3]]
    labels = np.array([0, 1, 2, 9])  # the last answer is wrong
    twins, rejected = np.array([True, False, False, False]), np.array([False, False, False, True])
    scores = honest_scores(probabilities, labels, Findings(twins, rejected, None))
    assert [(score.num_images, score.accuracy) for score in scores] == [
        *((4, 0.75), (3, pytest.approx(2 / 3)), (3, 1.0), (2, 1.0)),
        *((1, 1.0), (1, 0.0)),
    ]
    assert [score.is_remainder for score in scores] == [False] * 4 + [True] * 2
    assert scores[0].interval.low < 0.75 < scores[0].interval.high
    assert len(honest_scores(probabilities, labels, Findings(None, None, None))) == 1


def test_people_are_counted_by_the_names_of_the_classes() -> None:
    order = [3, 5, *(index for index in range(10) if index not in (3, 5))]
    names = [{"airplane": "plane"}.get(CLASS_NAMES[index], CLASS_NAMES[index]) for index in order]
    people = np.zeros((2, 10))
    people[0, 3], people[0, 5] = 0.75, 0.25  # of four people, three say cat and one dog
    people[1, 0] = 1.0
    probabilities = np.full((2, 10), 1e-9)
    probabilities[:, :3] = [[0.5, 0.5, 0], [0.1, 0.1, 0.8]]  # cat (and dog), airplane
    score = people_score(probabilities, np.array([0, 2]), names, people)
    assert score.accuracy == pytest.approx((0.75 + 1) / 2) == score.label_accuracy
    assert people_score(probabilities, np.array([1, 2]), names, people).label_accuracy == pytest.approx((0.25 + 1) / 2)
    assert score.agreement == pytest.approx((0.75**2 + 0.25**2 + 1) / 2)
    assert score.cross_entropy == pytest.approx((np.log(2) - np.log(0.8)) / 2)
    assert score.entropy == pytest.approx(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)) / 2)
    assert score.scaled_cross_entropy is None
    same = people_score(probabilities, np.array([0, 2]), names, people, temperature=1.0)
    assert same.scaled_cross_entropy == pytest.approx(score.cross_entropy, abs=1e-6)


def test_files_are_read_by_the_columns_that_count(tmp_path: Path) -> None:
    (tmp_path / DUPLICATES).write_text("TestID,TrainID,Distance,Judgment\n6611,49007,0.07,1\n159,25768,0.08,2\n")
    verdicts = [{"id": number, "mturk": {"given": number % 6}} for number in range(12)]
    (tmp_path / VERDICTS).write_text(json.dumps(verdicts))
    np.save(tmp_path / PEOPLE, np.full((10000, 10), 0.1))
    found = read_findings({name: tmp_path / name for name in FILES})
    assert found.has_twin is not None and np.flatnonzero(found.has_twin).tolist() == [159, 6611]
    assert found.is_rejected is not None and np.flatnonzero(found.is_rejected).tolist() == [0, 1, 2, 6, 7, 8]
    assert found.people is not None and found.people.shape == (10000, 10)


@pytest.mark.parametrize(
    ("name", "content"),
    [(DUPLICATES, b"a,b\n1,2\n"), (VERDICTS, b"{"), (PEOPLE, b"\x80pickle"), (VERDICTS, b'[{"id":1}]')],
)
def test_a_damaged_file_is_named(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} cannot be read: .*; delete it"):
        read_findings({name: tmp_path / name})


def test_without_a_network_missing_files_are_named_with_their_addresses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new"
    with pytest.raises(UserError, match=r"none of the files is in .*, and none can be fetched; put them") as caught:
        obtain_labels(folder)
    assert all(published.url in str(caught.value) for published in FILES.values())
    assert capsys.readouterr().err.count("raw.githubusercontent.com: no connection") == 3


def test_another_file_than_the_published_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / DUPLICATES).write_text("TestID\n1\n")
    with pytest.raises(UserError, match=r"is not the published file \(SHA-256\)"):
        obtain_labels(tmp_path)


def test_other_images_than_the_published_test_split_are_told_apart() -> None:
    assert not is_published_test_split(Split(torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.zeros(4).long()))
    full = Split(torch.zeros(10000, 3, 32, 32, dtype=torch.uint8), torch.zeros(10000).long())
    assert not is_published_test_split(full)


@pytest.mark.real
def test_the_published_files_belong_to_the_order_of_the_test_split(real_data_root: Path) -> None:
    data = cifar10(str(real_data_root), classes=None, validation_size=0, seed=0, sources=None)
    assert is_published_test_split(data.test)
    assert data.class_names == CLASS_NAMES
    assert not is_published_test_split(data.test.take(torch.arange(9999, -1, -1)))
    names: list[str | int] = [*reversed(CLASS_NAMES)]
    relabelled = cifar10(str(real_data_root), classes=names, validation_size=0, seed=0, sources=None)
    assert is_published_test_split(relabelled.test) and relabelled.class_names == tuple(names)
    found = read_findings(obtain_labels(EXTRA))
    assert found.has_twin is not None and found.has_twin.sum() == 286
    assert found.is_rejected is not None and found.is_rejected.sum() == 54
    verdicts = json.loads((EXTRA / VERDICTS).read_text())
    given = [entry["given_original_label"] for entry in verdicts]
    assert data.test.labels[[entry["id"] for entry in verdicts]].tolist() == given
    labels = data.test.labels.numpy()
    assert found.people is not None
    perfect = people_score(np.eye(10)[labels], labels, data.class_names, found.people)
    assert perfect.accuracy == perfect.label_accuracy == pytest.approx(0.95, abs=0.01)
