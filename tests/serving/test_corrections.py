"""Corrected labels are kept whatever happens, and become class folders that a network is trained on."""

import io
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cifar10.errors import UsageError, UserError
from cifar10.feedback import feedback
from cifar10.images.decode import ImageError
from cifar10.serving import corrections
from cifar10.serving.correction_export import ExportedCorrections, export_corrections
from cifar10.serving.corrections import Correction, CorrectionStore

NAMES = ("airplane", "cat", "dog")
ROOT = Path(__file__).resolve().parents[2]


def encoded(seed: int = 0, image_format: str = "png") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, image_format)
    return file.getvalue()


def correct(store: CorrectionStore, image: bytes, corrected: str, **other: Any) -> Correction:
    about = {"predicted_class": "dog", "probability": 0.7, "weights_digest": "d" * 64, "source": "web"}
    return store.add(image, corrected_class=corrected, **{"class_names": NAMES, **about, **other})


@pytest.fixture
def store(tmp_path: Path) -> CorrectionStore:
    return CorrectionStore(tmp_path / "data" / "serving" / "corrections.db")


def files_below(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_correction_keeps_the_image_and_what_was_predicted(store: CorrectionStore) -> None:
    assert store.corrections() == []
    added = correct(store, encoded(), "cat", source="http")
    assert store.corrections() == [added]
    assert (added.sha256, added.suffix, added.state) == (sha256(encoded()).hexdigest(), ".png", "new")
    assert (added.predicted_class, added.corrected_class, added.source) == ("dog", "cat", "http")
    assert store.image(added.sha256) == encoded() and store.image("0" * 64) is None


def test_of_two_corrections_of_an_image_the_newest_stays(
    store: CorrectionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for moment, name in (
        (2.0, "cat"),
        (3.0, "dog"),
        (1.0, "airplane"),
    ):  # the last one was made before
        monkeypatch.setattr("time.time", lambda now=moment: now)
        correct(store, encoded(), name)
    [kept] = store.corrections()
    assert (kept.corrected_class, kept.time) == ("dog", 3.0)


def test_a_class_is_accepted_in_other_spellings_and_refused_if_the_network_does_not_know_it(
    store: CorrectionStore,
) -> None:
    assert correct(store, encoded(), "Plane").corrected_class == "airplane"
    with pytest.raises(UsageError, match=r"cta is not a class of this network.*did you mean cat"):
        correct(store, encoded(), "cta")


@pytest.mark.parametrize("fault", ["empty", "text", "cut", "large"])
def test_what_is_no_image_is_not_kept(fault: str, store: CorrectionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    if fault == "large":
        monkeypatch.setattr(corrections, "MAX_IMAGE_BYTES", len(encoded()) - 1)
    image = {"empty": b"", "text": b"no image", "cut": encoded()[:-40]}.get(fault, encoded())
    with pytest.raises(ImageError):
        correct(store, image, "cat")
    assert store.corrections() == []


@pytest.mark.parametrize(
    ("image_format", "suffix"),
    [("jpeg", ".jpg"), ("webp", ".webp"), ("gif", ".gif"), ("tiff", ".tif"), ("avif", ".avif")],
)
def test_files_have_the_suffix_of_their_content(image_format: str, suffix: str, store: CorrectionStore) -> None:
    assert correct(store, encoded(image_format=image_format), "cat").suffix == suffix


def _add_many(path: Path, first: int) -> None:
    for seed in range(first, first + 10):
        correct(CorrectionStore(path), encoded(seed), "cat")


def test_several_processes_add_to_a_new_file_at_once(store: CorrectionStore) -> None:
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_add_many, args=(store.path, 5 * number)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert len(store.corrections()) == 25  # images 0 to 24, most of them twice


_ADD_FOR_EVER = """
import sys
from pathlib import Path
from tests.serving.test_corrections import correct, encoded
from cifar10.serving.corrections import CorrectionStore
for seed in range(10_000):
    print(correct(CorrectionStore(Path(sys.argv[1])), encoded(seed), "cat").sha256, flush=True)
"""


def test_kill_9_loses_no_correction_that_was_confirmed(store: CorrectionStore) -> None:
    command = [sys.executable, "-c", _ADD_FOR_EVER, str(store.path)]
    for killed_after in (3, 20):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        confirmed = [process.stdout.readline().strip() for _ in range(killed_after)]
        os.kill(process.pid, signal.SIGKILL)
        confirmed += process.stdout.read().split("\n")[:-1]
        process.wait()
        kept = {each.sha256 for each in store.corrections()}
        assert len(confirmed) >= killed_after and set(confirmed) <= kept
        assert len(kept) <= len(confirmed) + 1
    assert correct(store, encoded(10_000), "dog") in store.corrections()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("page", "damaged.*move it away.*recover"),
        ("text", "damaged.*move it away"),
        ("newer", "version 9.*update the program"),
        ("other", "database of another kind"),
        ("folder", "cannot be"),
    ],
)
def test_a_file_that_is_not_as_it_was_made_is_told_with_the_remedy(
    damage: str, said: str, store: CorrectionStore
) -> None:
    for seed in range(20):
        correct(store, encoded(seed), "cat")
    if damage == "page":
        content = bytearray(store.path.read_bytes())
        content[4096:] = b"\xa5" * (len(content) - 4096)
        store.path.write_bytes(content)
    elif damage == "text":
        store.path.write_bytes(b"not a database " * 500)
    elif damage in ("newer", "other"):
        with closing(sqlite3.connect(store.path)) as connection:
            connection.execute("PRAGMA user_version = 9")
            connection.execute("PRAGMA application_id = 77" if damage == "other" else "PRAGMA user_version")
    else:
        store.path.unlink()
        store.path.mkdir()
    for use in (store.corrections, lambda: correct(store, encoded(99), "dog")):
        with pytest.raises(UserError, match=said) as told:
            use()
        assert str(store.path) in str(told.value) and len(str(told.value).splitlines()) == 1


def test_a_full_file_is_told_and_keeps_what_it_has(store: CorrectionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    correct(store, encoded(), "cat")
    small = corrections._LAYOUT.__class__(**{**vars(corrections._LAYOUT), "most_bytes": 2**16})
    monkeypatch.setattr(corrections, "_LAYOUT", small)

    def add_until_it_is_full() -> None:
        for seed in range(1, 1000):
            correct(store, encoded(seed), "dog")

    with pytest.raises(UserError, match="reached its limit"):
        add_until_it_is_full()
    assert len(store.corrections()) > 10
    assert store.corrections()[0].corrected_class == "cat"


def test_an_export_writes_class_folders_and_its_repetition_changes_nothing(
    store: CorrectionStore, tmp_path: Path
) -> None:
    for seed, name in enumerate(("cat", "dog", "cat")):
        correct(store, encoded(seed), name)
    root = tmp_path / "new"
    assert export_corrections(store, root) == ExportedCorrections(3, 0, 0, 0)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    digests = [sha256(encoded(seed)).hexdigest() for seed in range(3)]
    assert files_below(root) == {
        f"cat/{digests[0]}.png": encoded(0),
        f"dog/{digests[1]}.png": encoded(1),
        f"cat/{digests[2]}.png": encoded(2),
    }
    assert {each.state for each in store.corrections()} == {"exported"}
    assert export_corrections(store, root) == ExportedCorrections(0, 0, 0, 3)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


@pytest.mark.parametrize("change", ["image = 'text'", "image = 5", "sha256 = 'x' || substr(sha256, 2)"])
def test_a_damaged_image_is_not_exported(change: str, store: CorrectionStore, tmp_path: Path) -> None:
    correct(store, encoded(3), "cat")
    with closing(sqlite3.connect(store.path)) as connection, connection:
        connection.execute(f"UPDATE corrections SET {change}")
    with pytest.raises(UserError, match=r"corrections\.db is damaged: its image"):
        export_corrections(store, tmp_path / "corrected")
    assert files_below(tmp_path / "corrected") == {}


def test_a_changed_correction_moves_its_file_and_a_withdrawn_one_loses_it(
    store: CorrectionStore, tmp_path: Path
) -> None:
    for seed in range(2):
        correct(store, encoded(seed), "cat")
    export_corrections(store, tmp_path / "new")
    changed = correct(store, encoded(0), "airplane")
    assert changed.state == "new"
    store.withdraw(sha256(encoded(1)).hexdigest())
    assert export_corrections(store, tmp_path / "new") == ExportedCorrections(0, 1, 1, 0)
    assert files_below(tmp_path / "new") == {f"airplane/{changed.sha256}.png": encoded(0)}
    assert [each.state for each in store.corrections()] == ["withdrawn", "exported"]


def test_images_beside_them_stay_and_folders_in_other_spellings_are_used(
    store: CorrectionStore, tmp_path: Path
) -> None:
    root = tmp_path / "train"
    for name in ("plane", "cat"):
        (root / name).mkdir(parents=True)
        (root / name / "00001.png").write_bytes(b"from elsewhere")
    correct(store, encoded(0), "airplane")
    export_corrections(store, root)
    assert set(files_below(root)) == {"plane/00001.png", "cat/00001.png", f"plane/{sha256(encoded()).hexdigest()}.png"}
    correct(store, encoded(1), "dog")
    with pytest.raises(UserError, match=r"no folder dog among its classes \(cat, plane\)"):
        export_corrections(store, root)
    assert not (root / "dog").exists()


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", "x" * 300, "lost+found"])
def test_a_class_that_cannot_be_a_folder_is_refused_before_anything_is_written(
    name: str, store: CorrectionStore, tmp_path: Path
) -> None:
    correct(store, encoded(0), "cat")
    correct(store, encoded(1), name, class_names=(*NAMES, name))
    with pytest.raises(UserError, match="cannot be the name of a class folder"):
        export_corrections(store, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_written_is_told(store: CorrectionStore, tmp_path: Path) -> None:
    correct(store, encoded(0), "cat")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "cat").write_text("a file where the class folder should be")
    with pytest.raises(UserError, match="cannot be written"):
        export_corrections(store, tmp_path / "new")


def test_the_table_counts_by_class_and_the_details_name_each(
    store: CorrectionStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, name in enumerate(("cat", "dog", "cat")):
        correct(store, encoded(seed), name, predicted_class="airplane")
    feedback(store.path, output=tmp_path / "new")
    table, said = capsys.readouterr()
    assert table.splitlines() == [
        "class  corrections  new  exported  withdrawn  most often taken for",
        "cat              2    0         2          0  airplane (2)",
        "dog              1    0         1          0  airplane (1)",
    ]
    assert "3 images written" in said
    first = store.corrections()[0]
    with pytest.raises(UsageError, match="give more"):
        feedback(store.path, withdraw=first.sha256[:5])
    with pytest.raises(UsageError, match="no corrected image"):
        feedback(store.path, withdraw="0" * 20)
    feedback(store.path, withdraw=first.sha256[:16], details=True)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and lines[1].startswith(f"{first.sha256[:16]}  ") and "withdrawn" in lines[1]


def test_without_corrections_the_command_says_so_and_succeeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    feedback(tmp_path / "none.db")
    assert capsys.readouterr().out == "" and not (tmp_path / "none.db").exists()
