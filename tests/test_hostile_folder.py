"""Whatever is in a folder, each file has one row, each bad one its reason, and nothing hangs, leaks or takes over."""

import csv
import json
import os
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import cifar10.infer
from cifar10.images.preprocessing import Preprocessing
from cifar10.images.sources import open_source
from cifar10.inference.destination import choose_destination
from cifar10.inference.predictor import Predictor
from cifar10.inference.request import InferenceRequest
from tests.hostile_folder import NUM_FILES, NUM_MALFORMED, add_what_is_no_file, bombs, write_hostile_folder
from tests.malformed import encode, malformed_images, picture

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow's remarks, which `infer` silences outside of tests

ROOT = Path(__file__).resolve().parents[1]


class Engine:
    """Returns the mean of each colour as the probability of a class; deletes a file before its first batch."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.victim.unlink(missing_ok=True)
        strength = pixels.reshape(len(pixels), -1, 3).mean(axis=1, dtype=np.float32)
        probabilities: NDArray[np.float32] = strength / strength.sum(axis=1, keepdims=True).clip(1)
        return probabilities

    def describe(self) -> dict[str, str]:
        return {"engine": "stub"}


@pytest.mark.parametrize("seed", [0, 1])
def test_a_thousand_files_give_a_thousand_rows_with_a_reason_for_each_bad_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    folder, outside = tmp_path / "in", tmp_path / "outside" / "secret.png"
    outside.parent.mkdir()
    outside.write_bytes(encode(picture(), "PNG"))
    expected = write_hostile_folder(folder, seed)
    victim = folder / "zz_deleted.png"
    victim.write_bytes(encode(picture(), "PNG"))
    expected[victim.name] = "^cannot be read: No such file"
    engine = Engine(victim)
    monkeypatch.setattr(
        Predictor,
        "from_checkpoint",
        lambda *_, **__: Predictor(engine, ("cat", "dog", "=evil"), Preprocessing(8), 16, "none"),
    )
    with ExitStack() as stack:
        add_what_is_no_file(folder, outside, stack)
        results: dict[str, list[Any]] = {}
        for suffix in ("jsonl", "csv"):
            output = tmp_path / f"rows.{suffix}"
            request = InferenceRequest(open_source(str(folder)), "any", choose_destination(str(output), None))
            summary = cifar10.infer.infer(request)
            with output.open(encoding="utf-8", newline="") as file:
                results[suffix] = list(csv.DictReader(file)) if suffix == "csv" else [json.loads(line) for line in file]
            del expected[victim.name]  # it is there the first time only
            if suffix == "jsonl":
                assert summary.num_images == NUM_FILES + 1 and summary.num_failed == NUM_MALFORMED + 1
                [gone] = [row for row in results[suffix] if row["path"] == victim.name]
                assert gone["error"].startswith("cannot be read: No such file")
                results[suffix].remove(gone)
                expected[victim.name] = ""
    names = {name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"): name for name in expected}
    for rows in results.values():
        assert len(rows) == NUM_FILES == len(names) and {row["path"].removeprefix("./") for row in rows} == set(names)
        for row in rows:
            reason = expected[names[row["path"].removeprefix("./")]]
            assert bool(row["error"]) == bool(reason) == (not row["class_name"])
            assert not reason or re.search(reason, row["error"]), (row, reason)
    assert not any(cell and cell[0] in "=+-@\t\r" for row in results["csv"] for cell in row.values())
    told = "passed over: 2 link out of the folder, 2 link that loops, 2 link to a folder, 2 not a regular file"
    assert told in capsys.readouterr().err


def test_the_malformed_files_are_of_many_kinds() -> None:
    assert len(malformed_images()) >= 25


BOMB = """
import resource, sys, time
from cifar10.images.decode import EncodedImage, ImageError, silence_pillow
silence_pillow()
for warm_up in sys.argv[2:]:
    EncodedImage(open(warm_up, "rb").read()).decode_square(32, True)
data, before, started = open(sys.argv[1], "rb").read(), resource.getrusage(resource.RUSAGE_SELF), time.process_time()
try:
    EncodedImage(data).decode_square(32, True)
except ImageError as error:
    after = resource.getrusage(resource.RUSAGE_SELF)
    print(time.process_time() - started, (after.ru_maxrss - before.ru_maxrss) / 1024, error)
"""


@pytest.mark.parametrize("name", sorted(bombs()))
def test_bombs_are_refused_by_their_headers(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(bombs()[name])
    (tmp_path / "1.webp").write_bytes(encode(picture(), "WEBP"))  # Pillow's formats are imported before
    command = [sys.executable, "-c", BOMB, name, "1.webp"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    seconds, megabytes, reason = done.stdout.split(" ", 2)
    assert re.match("too large: |damaged: ", reason), reason
    assert float(seconds) < 0.2 and float(megabytes) < 64
