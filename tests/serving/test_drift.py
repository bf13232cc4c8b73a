"""Drift: incoming images are counted whatever happens to the file, and only a real difference is called drift."""

import logging
import multiprocessing
import sqlite3
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from cifar10.errors import UserError
from cifar10.inference.reference import EDGES, Reference, counts_of
from cifar10.serving import drift
from cifar10.serving.database import writing
from cifar10.serving.drift import LAYOUT, DriftLog
from cifar10.serving.drift_report import Drift, read_drift
from cifar10.serving.histogram_difference import chi_square_tail, difference

NAMES = ("a", "b", "c")
DIGEST = "d" * 64
NOON = 1_000 * 3600.0


def pictures(count: int, seed: int = 0, brighter: int = 0) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    levels = rng.integers(20, 160, (count, 1, 1, 1)) + rng.integers(-20, 20, (count, 8, 8, 3)) + brighter
    return levels.clip(0, 255).astype(np.uint8)


def answers(count: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).dirichlet(np.ones(3) * 0.3, count).astype(np.float32)


@pytest.fixture(scope="module")
def reference() -> Reference:
    counts = {name: numbers.tolist() for name, numbers in counts_of(pictures(2000), answers(2000)).items()}
    return Reference.model_validate({"num_images": 2000, "num_held_out": 2000, "tta": "none", "counts": counts})


def log_of(path: Path, now: float = NOON) -> DriftLog:
    return DriftLog(DIGEST, path / "some" / "incoming.db", clock=lambda: now)


def read(log: DriftLog, reference: Reference, since: float = 0.0) -> Drift:
    return read_drift(log.path, reference, DIGEST, NAMES, since)


def test_images_like_the_reference_are_no_drift_and_other_ones_are_named(tmp_path: Path, reference: Reference) -> None:
    log = log_of(tmp_path)
    log.add(pictures(400, seed=1), answers(400, seed=1))
    log.flush()
    assert read(log, reference).verdict == "no drift in 400 images"
    log.add(pictures(400, seed=2, brighter=60), answers(400, seed=2))
    log.close()
    found = read(log, reference)
    assert found.drifted == ("brightness",)
    assert found.verdict == "drift in brightness of 800 images"
    assert [each.measure for each in found.comparisons] == ["brightness", "contrast", "confidence", "classes"]


def test_one_class_only_is_drift_in_classes(tmp_path: Path, reference: Reference) -> None:
    log, rows = log_of(tmp_path), answers(300, seed=1)
    rows = np.sort(rows, axis=1)  # the last class is always the most probable
    log.add(pictures(300, seed=1), rows)
    log.close()
    assert read(log, reference).drifted == ("classes",)


def test_a_tenth_of_unlike_images_is_drift_and_a_hundredth_is_none(tmp_path: Path, reference: Reference) -> None:
    for share, drifted in ((0.01, ()), (0.15, ("unlike",))):
        log = log_of(tmp_path / str(share))
        log.add(pictures(1000, seed=1), answers(1000, seed=1), np.arange(1000) < 1000 * share)
        log.close()
        assert read(log, reference).drifted == drifted


@pytest.mark.parametrize("brighter", [0, 90])
def test_of_50_images_nothing_is_said(brighter: int, tmp_path: Path, reference: Reference) -> None:
    log = log_of(tmp_path)
    log.add(pictures(50, brighter=brighter), answers(50))
    log.close()
    found = read(log, reference)
    assert found.drifted == () and found.verdict == "too few images to tell: 50, at least 200 are needed"


def test_no_alarm_in_300_samples_of_the_reference(reference: Reference) -> None:
    rng = np.random.default_rng(0)
    counts = np.array(reference.counts["brightness"], np.float64)
    found = [
        difference(counts, rng.multinomial(200, counts / counts.sum()).astype(np.float64), is_ordered=True)
        for _ in range(300)
    ]
    assert max(each.index for each in found) < 0.2
    assert 0.02 < np.mean([each.p_value < 0.05 for each in found]) < 0.09


@pytest.mark.parametrize("degrees", [1, 2, 7, 10, 99, 1000])
def test_the_chi_square_tail_is_that_of_scipy(degrees: int) -> None:
    for value in (0.0, 0.3, degrees, 1.5 * degrees, 4.0 * degrees + 10):
        assert chi_square_tail(value, degrees) == pytest.approx(stats.chi2.sf(value, degrees), abs=1e-9, rel=1e-6)


def test_confidence_that_leaves_a_bin_that_held_all_is_seen() -> None:
    before, after = np.zeros(28), np.zeros(28)
    before[27], after[27], after[10] = 2000, 150, 50
    assert difference(before, after, is_ordered=True).p_value < 1e-9
    assert difference(before, before, is_ordered=True).index == 0


def test_hours_before_and_other_networks_are_left_out(tmp_path: Path, reference: Reference) -> None:
    for now in (NOON, NOON + 7200):
        log = log_of(tmp_path, now)
        log.add(pictures(3), answers(3))
        log.close()
    other = DriftLog("e" * 64, log.path, clock=lambda: NOON)
    other.add(pictures(9), answers(9))
    other.close()
    found = read(log, reference)
    assert found.num_images == 6
    assert (found.hours.tolist(), found.images_by_hour.tolist()) == ([1000, 1002], [3, 3])
    assert read(log, reference, since=NOON + 3600).num_images == 3


def test_bins_hold_the_ends_of_their_range() -> None:
    black, white = np.zeros((1, 8, 8, 3), np.uint8), np.full((1, 8, 8, 3), 255, np.uint8)
    sure = np.array([[1, 0, 0], [0.34, 0.33, 0.33]], np.float32)
    counts = counts_of(np.concatenate([black, white]), sure)
    assert counts["brightness"].tolist() == [1, *[0] * 30, 1]
    assert counts["contrast"].tolist() == [2, *[0] * 31]
    assert counts["confidence"][-1] == 1 and counts["confidence"].sum() == 2
    assert all(len(counts[name]) == len(edges) - 1 for name, edges in EDGES.items())


def test_an_answer_that_is_no_number_is_counted_without_a_class(tmp_path: Path, reference: Reference) -> None:
    log = log_of(tmp_path)
    log.add(pictures(2), np.array([[np.nan] * 3, [0.1, 0.2, 0.7]], np.float32))
    log.close()
    found = {each.measure: each.incoming.sum() for each in read(log, reference).comparisons}
    assert found == {"brightness": 2, "contrast": 2, "confidence": 1, "classes": 1}


def _add_some(path: Path, times: int) -> None:
    log = DriftLog(DIGEST, path, clock=lambda: NOON)
    for _ in range(times):
        log.add(pictures(2), answers(2))
        log.flush()
    log.close()


@pytest.mark.slow
def test_processes_and_threads_lose_no_image(tmp_path: Path, reference: Reference) -> None:
    path = tmp_path / "incoming.db"
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_add_some, args=(path, 20)) for _ in range(3)]
    for process in processes:
        process.start()
    shared = DriftLog(DIGEST, path, clock=lambda: NOON)

    def add_one_by_one() -> None:
        for _ in range(50):
            shared.add(pictures(1), answers(1))

    threads = [threading.Thread(target=add_one_by_one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for process in processes:
        process.join()
    shared.close()
    assert all(process.exitcode == 0 for process in processes)
    assert read_drift(path, reference, DIGEST, NAMES).num_images == 3 * 20 * 2 + 4 * 50


@pytest.mark.parametrize("obstacle", ["locked", "text", "folder", "full"])
def test_a_file_that_cannot_be_written_costs_one_warning_and_no_exception(
    obstacle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("cifar10.serving.database._LOCKED_SECONDS", 0.05)
    log = DriftLog(DIGEST, tmp_path / "incoming.db")
    log.add(pictures(3), answers(3))
    if obstacle in ("locked", "full"):
        log.flush()
        log.add(pictures(3), answers(3))
    if obstacle == "text":
        log.path.write_text("this is no database, but a text of some length" * 30)
    elif obstacle == "folder":
        log.path.mkdir()
    elif obstacle == "full":
        monkeypatch.setattr(drift, "LAYOUT", drift.LAYOUT.__class__(**{**vars(drift.LAYOUT), "most_bytes": 4096}))
        now = iter(range(0, 3600 * 1000, 3600))
        log = DriftLog(DIGEST, tmp_path / "incoming.db", clock=lambda: NOON + next(now))
        for _ in range(300):
            log.add(pictures(3), answers(3))
    with caplog.at_level(logging.WARNING), closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        if obstacle == "locked":
            connection.execute("ATTACH DATABASE ? AS log", (str(log.path),))
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("INSERT INTO log.counts VALUES (0, '', '', 0, 0)")
        log.flush()
        log.flush()
        if obstacle == "locked":
            connection.execute("ROLLBACK")
    [record] = caplog.records
    assert len(record.getMessage().splitlines()) == 1 and str(log.path) in record.getMessage()
    log.close()


def test_counts_wait_for_a_file_that_is_locked_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: Reference
) -> None:
    monkeypatch.setattr("cifar10.serving.database._LOCKED_SECONDS", 0.05)
    log = log_of(tmp_path)
    log.add(pictures(3), answers(3))
    log.flush()
    with closing(sqlite3.connect(log.path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        log.add(pictures(4), answers(4))
        log.flush()
        connection.execute("ROLLBACK")
    log.close()
    assert read(log, reference).num_images == 7


def test_counts_reach_the_file_without_a_call_of_flush(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: Reference
) -> None:
    monkeypatch.setattr(drift, "_FLUSH_SECONDS", 0.02)
    log = log_of(tmp_path)
    log.add(pictures(5), answers(5))
    deadline = time.monotonic() + 10
    while not log.path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert read(log, reference).num_images == 5
    log.close()
    log.close()


def test_adding_takes_microseconds_and_no_disk(tmp_path: Path) -> None:
    log = log_of(tmp_path)
    pixels, rows = pictures(1), answers(1)
    log.add(pixels, rows)
    seconds = []
    for _ in range(300):
        began = time.perf_counter()
        log.add(pixels, rows)
        seconds.append(time.perf_counter() - began)
    assert np.median(seconds) < 0.001  # 0.04 ms, measured alone
    assert not log.path.exists()
    log.close()


def test_a_missing_file_is_told(tmp_path: Path, reference: Reference) -> None:
    with pytest.raises(UserError, match="there is no file"):
        read(log_of(tmp_path), reference)


@pytest.mark.parametrize("damaged", ["NULL", "'many'", "-1", str(2**60)])
def test_a_count_that_is_no_number_is_told(damaged: str, tmp_path: Path, reference: Reference) -> None:
    path = tmp_path / "incoming.db"
    with writing(path, replace(LAYOUT, tables="CREATE TABLE counts (hour, model, measure, bin, images)")) as connection:
        connection.execute(f"INSERT INTO counts VALUES (500000, '{DIGEST}', 'brightness', 1, {damaged})")
    with pytest.raises(UserError, match="is damaged: a count is no number"):
        read_drift(path, reference, DIGEST, NAMES)
